//! drover-memory.
