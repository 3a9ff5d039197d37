//! Real containers on real nodes: every test brings up a lab of its own and uses nothing but the `drover` binary.
//!
//! They need root, the lab's base (`scripts/install-base.sh`) and the images (`scripts/images.sh`).

mod access;
mod check;
mod cluster;
mod compat;
mod connection;
mod count;
mod doubt;
mod faults;
mod harness;
mod images;
mod leftovers;
mod lifecycle;
mod many;
mod memory;
mod moves;
mod operator;
mod races;
mod rollback;
mod sessions;
mod shared_volumes;
mod soak;
mod synthesis;
mod volumes;
