//! drover-protocol.
