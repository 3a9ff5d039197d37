//! drover-lab.
