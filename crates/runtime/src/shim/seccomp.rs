//! The default seccomp profile (`RuntimeDefault`): the system calls that containers may make; all others are refused.
//!
//! The rule is that of containerd's default profile, so that what runs there runs here: no call that reaches beyond a container
//! (mounts, namespaces, modules, other processes' memory, the clock, the kernel's keys, BPF, performance events, io_uring) unless the
//! container holds the capability that is for it. Calls by x32's numbers are none of the list. The filter is set after the capabilities
//! are dropped, which the kernel allows only with no_new_privs.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Allowed to all.
#[rustfmt::skip]
const ALWAYS: &[c_long] = &[
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_access, libc::SYS_adjtimex, libc::SYS_alarm, libc::SYS_bind, libc::SYS_brk,
    libc::SYS_capget, libc::SYS_capset, libc::SYS_chdir, libc::SYS_chmod, libc::SYS_chown, libc::SYS_clock_adjtime,
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_close, libc::SYS_close_range,
    libc::SYS_connect, libc::SYS_copy_file_range, libc::SYS_creat, libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3,
    libc::SYS_epoll_create, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_ctl_old, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_epoll_wait, libc::SYS_epoll_wait_old, libc::SYS_eventfd, libc::SYS_eventfd2,
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_fadvise64, libc::SYS_fallocate, libc::SYS_fanotify_mark, libc::SYS_fchdir, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_fchmodat2, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fcntl, libc::SYS_fdatasync, libc::SYS_fgetxattr,
    libc::SYS_flistxattr, libc::SYS_flock, libc::SYS_fork, libc::SYS_fremovexattr, libc::SYS_fsetxattr, libc::SYS_fstat,
    libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_futimesat,
    libc::SYS_getcpu, libc::SYS_getcwd, libc::SYS_getdents, libc::SYS_getdents64, libc::SYS_getegid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getgroups, libc::SYS_getitimer, libc::SYS_getpeername, libc::SYS_getpgid, libc::SYS_getpgrp,
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpriority, libc::SYS_getrandom, libc::SYS_getresgid, libc::SYS_getresuid,
    libc::SYS_getrlimit, libc::SYS_get_robust_list, libc::SYS_getrusage, libc::SYS_getsid, libc::SYS_getsockname,
    libc::SYS_getsockopt, libc::SYS_get_thread_area, libc::SYS_gettid, libc::SYS_gettimeofday, libc::SYS_getuid,
    libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init, libc::SYS_inotify_init1, libc::SYS_inotify_rm_watch,
    libc::SYS_io_cancel, libc::SYS_ioctl, libc::SYS_io_destroy, libc::SYS_io_getevents, libc::SYS_ioprio_get,
    libc::SYS_ioprio_set, libc::SYS_io_setup, libc::SYS_io_submit, libc::SYS_kill, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self, libc::SYS_lchown, libc::SYS_lgetxattr, libc::SYS_link,
    libc::SYS_linkat, libc::SYS_listen, libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_lremovexattr, libc::SYS_lseek,
    libc::SYS_lsetxattr, libc::SYS_lstat, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_memfd_create, libc::SYS_memfd_secret,
    libc::SYS_mincore, libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_mknod, libc::SYS_mknodat, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_mlockall, libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_mq_getsetattr, libc::SYS_mq_notify, libc::SYS_mq_open,
    libc::SYS_mq_timedreceive, libc::SYS_mq_timedsend, libc::SYS_mq_unlink, libc::SYS_mremap, libc::SYS_mseal, libc::SYS_msgctl,
    libc::SYS_msgget, libc::SYS_msgrcv, libc::SYS_msgsnd, libc::SYS_msync, libc::SYS_munlock, libc::SYS_munlockall,
    libc::SYS_munmap, libc::SYS_name_to_handle_at, libc::SYS_nanosleep, libc::SYS_newfstatat, libc::SYS_open, libc::SYS_openat,
    libc::SYS_openat2, libc::SYS_pause, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_pipe, libc::SYS_pipe2,
    libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_poll, libc::SYS_ppoll, libc::SYS_prctl,
    libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_prlimit64, libc::SYS_process_mrelease, libc::SYS_pselect6,
    libc::SYS_ptrace, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlink, libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmmsg, libc::SYS_recvmsg,
    libc::SYS_remap_file_pages, libc::SYS_removexattr, libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_restart_syscall, libc::SYS_rmdir, libc::SYS_rseq, libc::SYS_rt_sigaction, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_sigreturn, libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_tgsigqueueinfo, libc::SYS_sched_getaffinity, libc::SYS_sched_getattr,
    libc::SYS_sched_getparam, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval, libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler, libc::SYS_sched_yield, libc::SYS_seccomp, libc::SYS_select, libc::SYS_semctl, libc::SYS_semget,
    libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_sendfile, libc::SYS_sendmmsg, libc::SYS_sendmsg, libc::SYS_sendto,
    libc::SYS_setfsgid, libc::SYS_setfsuid, libc::SYS_setgid, libc::SYS_setgroups, libc::SYS_setitimer, libc::SYS_setpgid,
    libc::SYS_setpriority, libc::SYS_setregid, libc::SYS_setresgid, libc::SYS_setresuid, libc::SYS_setreuid, libc::SYS_setrlimit,
    libc::SYS_set_robust_list, libc::SYS_setsid, libc::SYS_setsockopt, libc::SYS_set_thread_area, libc::SYS_set_tid_address,
    libc::SYS_setuid, libc::SYS_setxattr, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_shmget,
    libc::SYS_shutdown, libc::SYS_sigaltstack, libc::SYS_signalfd, libc::SYS_signalfd4, libc::SYS_socketpair, libc::SYS_splice,
    libc::SYS_stat, libc::SYS_statfs, libc::SYS_statx, libc::SYS_symlink, libc::SYS_symlinkat, libc::SYS_sync,
    libc::SYS_sync_file_range, libc::SYS_syncfs, libc::SYS_sysinfo, libc::SYS_tee, libc::SYS_tgkill, libc::SYS_time,
    libc::SYS_timer_create, libc::SYS_timer_delete, libc::SYS_timer_getoverrun, libc::SYS_timer_gettime, libc::SYS_timer_settime,
    libc::SYS_timerfd_create, libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime, libc::SYS_times, libc::SYS_tkill,
    libc::SYS_truncate, libc::SYS_umask, libc::SYS_uname, libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_utime,
    libc::SYS_utimensat, libc::SYS_utimes, libc::SYS_vfork, libc::SYS_vmsplice, libc::SYS_wait4, libc::SYS_waitid,
    libc::SYS_write, libc::SYS_writev, libc::SYS_arch_prctl, libc::SYS_modify_ldt,
];

/// The same of calls that the C library has no names for yet (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
const ALWAYS_TOO: &[c_long] = &[
    451, // cachestat
    456, // futex_requeue
    455, // futex_wait
    454, // futex_wake
    464, // getxattrat
    333, // io_pgetevents
    465, // listxattrat
    453, // map_shadow_stack
    466, // removexattrat
    463, // setxattrat
    335, // uretprobe
];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_TOO: &[c_long] = &[];

/// Allowed to who holds the capability.
const WITH: &[(&str, &[c_long])] = &[
    (
        "SYS_ADMIN",
        &[
            libc::SYS_bpf,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_fanotify_init,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_lookup_dcookie,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_perf_event_open,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_setns,
            libc::SYS_syslog,
            libc::SYS_umount2,
            libc::SYS_unshare,
        ],
    ),
    ("BPF", &[libc::SYS_bpf]),
    ("PERFMON", &[libc::SYS_perf_event_open]),
    ("DAC_READ_SEARCH", &[libc::SYS_open_by_handle_at]),
    ("SYS_BOOT", &[libc::SYS_reboot]),
    ("SYS_CHROOT", &[libc::SYS_chroot]),
    ("SYS_MODULE", &[libc::SYS_delete_module, libc::SYS_finit_module, libc::SYS_init_module]),
    ("SYS_PACCT", &[libc::SYS_acct]),
    (
        "SYS_PTRACE",
        &[
            libc::SYS_kcmp,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
        ],
    ),
    ("SYS_RAWIO", &[libc::SYS_ioperm, libc::SYS_iopl]),
    ("SYS_TIME", &[libc::SYS_clock_settime, libc::SYS_settimeofday]),
    ("SYS_TTY_CONFIG", &[libc::SYS_vhangup]),
    (
        "SYS_NICE",
        &[libc::SYS_get_mempolicy, libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_set_mempolicy_home_node],
    ),
    ("SYSLOG", &[libc::SYS_syslog]),
];

/// The newest call that this profile knows of. What comes later isn't there, as a kernel without it would say: then programs do without,
/// where a refusal would end them.
const NEWEST: u32 = 466;
/// x32's numbers begin here.
const X32: u32 = 0x4000_0000;

/// What personality(2) may be asked for: Linux itself and 32 bits, each with its addresses in order or not, and what it is now.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `clone(2)` with any of these makes namespaces.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

fn condition(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?])
}

/// The calls that a container with `capabilities` may make, each like `CAP_CHOWN`, and on which conditions.
fn allowed(capabilities: &[String]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let holds = |name: &str| capabilities.iter().any(|c| c.trim_start_matches("CAP_") == name);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().chain(ALWAYS_TOO).map(|call| (*call, Vec::new())).collect();
    for (_, calls) in WITH.iter().filter(|(capability, _)| holds(capability)) {
        rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    }
    let personality = |which: &u64| condition(0, SeccompCmpOp::Eq, *which);
    rules.insert(libc::SYS_personality, PERSONALITIES.iter().map(personality).collect::<Result<_, _>>()?);
    // By these a container would reach the machine's hypervisor, past all networks.
    rules.insert(libc::SYS_socket, vec![condition(0, SeccompCmpOp::Ne, libc::AF_VSOCK as u64)?]);
    if !holds("SYS_ADMIN") {
        let all = NAMESPACES.iter().fold(0, |all, flag| all | *flag) as u32;
        rules.insert(libc::SYS_clone, vec![condition(0, SeccompCmpOp::MaskedEq(u64::from(all)), 0)?]);
    }
    Ok(rules)
}

/// Refuses by a number what is no number of a known call (seccomp(2)): with ENOSYS, also clone3 where it isn't allowed, as its flags are
/// in memory, where a filter can't look. Who hears that it isn't there uses clone.
fn unknown(with_clone3: bool) -> BpfProgram {
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let load = step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let compare = |how: u32, k, jt, jf| step(libc::BPF_JMP | how | libc::BPF_K, jt, jf, k);
    let end = |action: u32| step(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let clone3 = if with_clone3 { u32::MAX } else { libc::SYS_clone3 as u32 };
    vec![
        load,
        compare(libc::BPF_JEQ, clone3, 3, 0),
        compare(libc::BPF_JGE, X32, 1, 0),
        compare(libc::BPF_JGT, NEWEST, 1, 0),
        end(libc::SECCOMP_RET_ALLOW),
        end(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

/// The programs for a container with `capabilities`. Of two that refuse a call the kernel takes the word of the last.
fn programs(capabilities: &[String]) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let rules = allowed(capabilities)?;
    let with_clone3 = rules.contains_key(&libc::SYS_clone3);
    Ok(vec![SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()?, unknown(with_clone3)])
}

/// Confines this process and all that it starts.
///
/// # Errors
/// When the kernel takes no filter.
pub fn confine(capabilities: &[String]) -> Result<(), String> {
    apply(&programs(capabilities).map_err(|e| e.to_string())?)
}

/// Confines this process and all that it starts by programs that were made beforehand.
///
/// # Errors
/// When the kernel takes no filter.
pub fn apply(programs: &[BpfProgram]) -> Result<(), String> {
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_allowed_to_who_may_more() {
        let ordinary = allowed(&[]).unwrap();
        for call in [libc::SYS_mount, libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_io_uring_setup, libc::SYS_userfaultfd]
        {
            assert!(!ordinary.contains_key(&call), "{call}");
        }
        assert!(!ordinary[&libc::SYS_clone].is_empty());
        let admin = allowed(&["CAP_SYS_ADMIN".into()]).unwrap();
        assert!(admin.contains_key(&libc::SYS_mount) && admin[&libc::SYS_clone].is_empty());
        assert!(!admin.contains_key(&libc::SYS_init_module));
        for (capability, calls) in WITH {
            let more = allowed(&[format!("CAP_{capability}")]).unwrap();
            assert!(calls.iter().all(|call| more.contains_key(call)), "{capability}");
        }
        let newest = admin.keys().max().copied();
        assert!(newest.is_some_and(|call| call <= i64::from(NEWEST)), "{newest:?}");
    }

    /// What comes of calls whose arguments are nonsense, if they are let through.
    #[allow(unsafe_code)]
    fn call(number: c_long, first: u64) -> Option<i32> {
        // SAFETY: the kernel refuses these calls before it looks at the arguments, or for them: none has a pointer.
        let done = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
        (done < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    #[test]
    fn a_confined_process_is_refused_what_it_has_no_business_with() {
        // A thread of its own: what is set here stays for the rest of its life.
        let outcome = std::thread::spawn(|| {
            confine(&[]).unwrap();
            let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS);
            let named = nix::unistd::sethostname("x");
            let thread_works = std::thread::spawn(|| 7).join().unwrap();
            let child_works = std::process::Command::new("true").status().is_ok_and(|status| status.success());
            let seen = std::fs::read_dir("/").is_ok();
            let calls = [
                // x32's getpid, and the keys by their own number.
                call(c_long::from(X32) + libc::SYS_getpid, 0),
                call(libc::SYS_keyctl, 0),
                call(libc::SYS_io_uring_setup, 0),
                call(libc::SYS_socket, libc::AF_VSOCK as u64),
                // Not even a bit beyond those that are looked at makes another of it.
                call(libc::SYS_socket, libc::AF_VSOCK as u64 | 1 << 32),
                call(libc::SYS_clone, libc::CLONE_NEWUSER as u64),
                call(libc::SYS_clone3, 0),
                call(c_long::from(NEWEST) + 100, 0),
                call(libc::SYS_personality, 0xffff_ffff),
                call(libc::SYS_personality, 0x40_0000),
            ];
            (unshared, named, thread_works, child_works, seen, calls)
        });
        let denied = Err(nix::errno::Errno::EPERM);
        let (refused, unknown) = (Some(libc::EPERM), Some(libc::ENOSYS));
        let calls = [refused, refused, refused, refused, refused, refused, unknown, unknown, None, refused];
        assert_eq!(outcome.join().unwrap(), (denied, denied, 7, true, true, calls));
    }
}
