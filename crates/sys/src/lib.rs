//! Linux mechanisms: every system call that needs `unsafe`, and readers of the kernel's files.

pub mod cgroup;
pub mod interpose;
pub mod launch;
pub mod namespace;
pub mod packet;
pub mod process;
pub mod repair;
pub mod tree;
