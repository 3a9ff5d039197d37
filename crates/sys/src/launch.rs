//! Start a program in other namespaces and cgroups than the caller's.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space, move_into_thread_name_spaces,
};

/// The namespaces that a program is started in.
#[derive(Debug, Clone, Copy)]
pub enum Namespaces<'a> {
    /// The caller's own.
    Same,
    /// The network namespace of this descriptor, and fresh mount, pid, ipc and uts namespaces:
    /// the program is pid 1. Its cgroup namespace is the caller's until it calls [`own_cgroup_namespace`].
    Fresh(BorrowedFd<'a>),
    /// The mount, pid, ipc, uts, cgroup and network namespaces of the process behind this pidfd.
    Of(BorrowedFd<'a>),
}

/// Starts `command` in `namespaces`, and in the cgroups whose `cgroup.procs` files are open for writing in `cgroups`,
/// before its first instruction. It inherits no descriptor above 2.
///
/// # Errors
/// When a namespace or a cgroup refuses, or the program cannot be started.
pub fn spawn(mut command: Command, namespaces: Namespaces<'_>, cgroups: Vec<File>) -> io::Result<Child> {
    let enter_cgroups = move || {
        for procs in &cgroups {
            rustix::io::write(procs, b"0")?;
        }
        // SAFETY: close_range with CLOEXEC closes nothing now; it marks descriptors of this process alone.
        match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes plain system calls on memory and descriptors that it owns;
    // it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter_cgroups) };
    if matches!(namespaces, Namespaces::Same) {
        return command.spawn();
    }
    // A thread of its own: it ends with the start of the child, and no other code can find itself elsewhere.
    std::thread::scope(|scope| {
        let starter = std::thread::Builder::new().name("launch".into()).spawn_scoped(scope, || {
            enter(namespaces)?;
            command.spawn()
        })?;
        match starter.join() {
            Ok(child) => child,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Moves the calling thread. Its later children are in the new pid namespace, the thread itself is not.
fn enter(namespaces: Namespaces<'_>) -> io::Result<()> {
    match namespaces {
        Namespaces::Same => {}
        Namespaces::Fresh(network) => {
            move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
            unshare(UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)?;
        }
        Namespaces::Of(process) => {
            // Joining a mount namespace needs a working directory that no other thread shares.
            unshare(UnshareFlags::FS)?;
            move_into_thread_name_spaces(
                process,
                ThreadNameSpaceType::MOUNT
                    | ThreadNameSpaceType::PROCESS_ID
                    | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
                    | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                    | ThreadNameSpaceType::CONTROL_GROUP
                    | ThreadNameSpaceType::NETWORK,
            )?;
        }
    }
    Ok(())
}

/// Makes the caller's present cgroups the roots of a new cgroup namespace, for the calling thread and its children.
///
/// # Errors
/// When the kernel refuses.
pub fn own_cgroup_namespace() -> io::Result<()> {
    unshare(UnshareFlags::NEWCGROUP)
}

/// Runs `work` on a thread of its own inside a fresh network namespace, which lives on only if `work` keeps it
/// (by a bind mount of `/proc/thread-self/ns/net`, for example).
///
/// # Errors
/// When the namespace cannot be made or a thread cannot be started.
pub fn in_fresh_network<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("fresh-network".into()).spawn_scoped(scope, || {
            unshare(UnshareFlags::NEWNET)?;
            Ok(work())
        })?;
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the one hazard of unshare is an unshared table of descriptors; FILES is in no caller's flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}
