//! Linux mechanisms: every system call that needs `unsafe`, and readers of the kernel's files.

pub mod cgroup;
pub mod durable;
pub mod file;
pub mod fork;
#[cfg_attr(not(target_arch = "x86_64"), path = "inject_unsupported.rs")]
pub mod inject;
pub mod interpose;
pub mod launch;
pub mod map;
pub mod mounts;
pub mod namespace;
pub mod packet;
pub mod pagemap;
pub mod probe;
pub mod process;
pub mod read;
pub mod repair;
pub mod shared;
pub mod softdirty;
pub mod tree;
pub mod uffd;
pub mod words;
pub mod written;
