//! drover-container.
