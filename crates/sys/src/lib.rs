//! Linux mechanisms: every system call that needs `unsafe`, and readers of the kernel's files.

pub mod cgroup;
pub mod namespace;
pub mod process;
pub mod packet;
