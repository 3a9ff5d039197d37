//! drover-disk.
