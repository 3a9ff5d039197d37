//! drover-network.
