//! The system calls that a container may make when its specification does not say otherwise.
//!
//! The result is the `linux.seccomp` object of the OCI runtime specification
//! (<https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>). It lists what is allowed;
//! everything else fails. Capabilities still decide about what is listed: `chroot` is here, and fails without
//! CAP_SYS_CHROOT. Names that the installed libseccomp does not know are ignored by runc.
//!
//! Beyond what container engines deny by default, calls are hidden here whose effects CRIU cannot carry to another
//! machine: a container should not come to depend on what makes it stay.

use serde_json::{Value, json};

/// EPERM: the call exists and is forbidden.
const EPERM: u32 = 1;
/// ENOSYS: the program shall believe that the kernel is older than the call, and use what was there before.
const ENOSYS: u32 = 38;
/// All flags of clone(2) that make a namespace: mount, cgroup, UTS, IPC, user, PID and network. (CLONE_NEWTIME shares
/// its bit with the exit signal and is no flag of clone.)
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The first address family that is refused, AF_ALG.
const AF_ALG: u64 = 38;

/// The profile of a container that runs without extra privileges.
#[must_use]
pub fn default_profile() -> Value {
    let mut rules = vec![
        json!({ "names": ALLOWED.into_iter().flat_map(names).collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": names(HIDDEN).collect::<Vec<_>>(), "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
        allow_when("clone", json!({ "index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": NAMESPACE_FLAGS, "valueTwo": 0 })),
        // "Less than" and nothing else: the kernel looks at the lower half of the argument alone, so that a number
        // with a bit in its upper half passes "not equal" and "greater than" and still means AF_ALG (attacked often,
        // used seldom) or AF_VSOCK (the host of a virtual machine, past all network namespaces).
        allow_when("socket", json!({ "index": 0, "op": "SCMP_CMP_LT", "value": AF_ALG })),
    ];
    rules.extend(
        PERSONALITIES
            .map(|persona| allow_when("personality", json!({ "index": 0, "op": "SCMP_CMP_EQ", "value": persona }))),
    );
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [
            "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM",
        ],
        "syscalls": rules,
    })
}

/// The names in one of the lists below.
fn names(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.split_ascii_whitespace()
}

fn allow_when(name: &str, condition: Value) -> Value {
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition] })
}

/// Allowed whatever their arguments are.
const ALLOWED: [&str; 13] = [
    FILES,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SCHEDULING,
    SIGNALS,
    TIME,
    EVENTS,
    NETWORK,
    IPC,
    TRACING,
    INFORMATION,
    ARCHITECTURE,
];

/// Answered with ENOSYS.
/// - `clone3` passes its flags in memory, where no filter can look; the C library falls back to `clone`.
/// - `io_uring` has a long record of holes, its operations pass by every filter, and CRIU cannot dump a ring.
/// - `memfd_secret` makes memory that CRIU cannot read.
/// - `landlock` domains are lost in a checkpoint: the restored program would run without its own fence.
const HIDDEN: &str = "
    clone3 io_uring_enter io_uring_register io_uring_setup landlock_add_rule landlock_create_ruleset
    landlock_restrict_self memfd_secret";

/// Linux, 32-bit Linux, the same with an old version number, and the question which it is. Others bring back old
/// behaviour, such as fixed addresses, that helps an attacker.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Files, directories and descriptors. Not here: mounts in all forms, `open_by_handle_at` (reaches files outside the
/// root), quotas, swap.
const FILES: &str = "
    access cachestat chdir chmod chown chown32 chroot close close_range copy_file_range creat dup dup2 dup3
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat ioctl lchown
    lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat
    lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat oldfstat oldlstat oldstat open openat openat2
    pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv
    removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat
    stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink
    unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev";

/// Memory of the process itself. Not here: `userfaultfd` (makes races in the kernel easy to win, and is Drover's own
/// means), placement on NUMA nodes (needs CAP_SYS_NICE).
const MEMORY: &str = "
    brk madvise map_shadow_stack memfd_create mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise process_mrelease remap_file_pages";

/// Beginning, ending and waiting for processes and threads. Not here: `unshare` and `setns` (namespaces).
const PROCESSES: &str = "
    execve execveat exit exit_group fork getpgid getpgrp getpid getppid getsid gettid membarrier pidfd_open
    pidfd_send_signal prctl rseq seccomp set_robust_list get_robust_list set_tid_address set_thread_area
    get_thread_area setpgid setsid vfork vhangup wait4 waitid waitpid";

/// Users, groups and capabilities; the kernel allows less and less of it. Not here: keys (`keyctl` and its kin know
/// no namespaces).
const IDENTITY: &str = "
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
    getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32";

/// Priorities, processors and limits.
const SCHEDULING: &str = "
    getcpu getpriority getrlimit getrusage ioprio_get ioprio_set nice prlimit64 sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    setpriority setrlimit ugetrlimit";

/// Signals.
const SIGNALS: &str = "
    kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal signalfd signalfd4
    sigpending sigprocmask sigreturn sigsuspend tgkill tkill";

/// Clocks and timers, to read and to wait. Not here: setting a clock, which all containers share.
const TIME: &str = "
    alarm clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
    getitimer gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times";

/// Waiting for many things at once, asynchronous reads and writes, locks.
const EVENTS: &str = "
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup
    io_submit _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select";

/// Sockets; `socket` itself has a rule of its own. `socketcall` is how 32-bit x86 does all of it.
const NETWORK: &str = "
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
    recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";

/// System V and POSIX message queues, semaphores and shared memory; the IPC namespace keeps them inside.
const IPC: &str = "
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget";

/// Debuggers inside the container; since Linux 4.8 a tracer cannot lead its tracee around the filter.
const TRACING: &str = "
    process_vm_readv process_vm_writev ptrace";

/// Harmless facts. `adjtimex` without privilege reads.
const INFORMATION: &str = "
    adjtimex clock_adjtime clock_adjtime64 getrandom sysinfo uname";

/// What one architecture alone has, mostly for its C library: thread pointers, cache maintenance.
const ARCHITECTURE: &str = "
    arch_prctl arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush modify_ldt set_tls";

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<Value> {
        default_profile()["syscalls"].as_array().unwrap().clone()
    }

    fn names_in(rule: &Value) -> Vec<String> {
        rule["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    fn rules_of(name: &str) -> Vec<Value> {
        rules().into_iter().filter(|rule| names_in(rule).iter().any(|other| other == name)).collect()
    }

    #[test]
    fn dangerous_calls_are_not_allowed() {
        let dangerous = "
            acct add_key bpf clone3 clock_settime clock_settime64 create_module delete_module fanotify_init
            finit_module fsconfig fsmount fsopen fspick get_kernel_syms init_module io_uring_enter io_uring_register
            io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie lsm_set_self_attr mbind
            memfd_secret migrate_pages mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at
            open_tree perf_event_open pidfd_getfd pivot_root query_module quotactl quotactl_fd reboot request_key
            set_mempolicy setdomainname sethostname setns settimeofday stime swapoff swapon _sysctl sysfs syslog
            umount umount2 unshare uselib userfaultfd ustat vm86 vm86old";
        for name in dangerous.split_ascii_whitespace() {
            assert!(rules_of(name).iter().all(|rule| rule["action"] == "SCMP_ACT_ERRNO"), "{name}");
        }
    }

    #[test]
    fn no_call_is_named_twice_but_in_conditions() {
        let mut plain: Vec<String> =
            rules().iter().filter(|rule| rule.get("args").is_none()).flat_map(names_in).collect();
        let all = plain.len();
        plain.sort();
        plain.dedup();
        assert_eq!(plain.len(), all);
        for conditional in ["clone", "socket", "personality"] {
            assert!(!plain.iter().any(|name| name == conditional), "{conditional}");
            assert!(!rules_of(conditional).is_empty(), "{conditional}");
        }
    }

    #[test]
    fn threads_may_be_made_and_namespaces_may_not() {
        let allowed = |flags: u64| {
            rules_of("clone").iter().any(|rule| {
                let condition = &rule["args"][0];
                flags & condition["value"].as_u64().unwrap() == condition["valueTwo"].as_u64().unwrap()
            })
        };
        // What the C library passes for a thread and for fork.
        assert!(allowed(0x3d_0f00) && allowed(0x120_0011));
        for bit in [17, 25, 26, 27, 28, 29, 30] {
            assert!(!allowed(1 << bit | 0x11), "{bit}");
        }
        assert_eq!(rules_of("clone3")[0]["errnoRet"], ENOSYS);
    }

    #[test]
    fn sockets_of_the_host_and_of_the_crypto_layer_are_refused_however_they_are_spelt() {
        let condition = rules_of("socket")[0]["args"][0].clone();
        assert_eq!((condition["op"].as_str(), condition["index"].as_u64()), (Some("SCMP_CMP_LT"), Some(0)));
        let allowed = |family: u64| family < condition["value"].as_u64().unwrap();
        // AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET.
        assert!([1, 2, 10, 16, 17].into_iter().all(allowed));
        // AF_ALG, AF_VSOCK, and both with a bit that the kernel does not see.
        assert!(![38, 40, 38 | 1 << 32, 40 | 1 << 32].into_iter().any(allowed));
    }
}
