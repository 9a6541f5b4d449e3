//! The default seccomp profile (`RuntimeDefault`): system calls that containers have no business with.
//!
//! It refuses what reaches beyond a container (mounts, namespaces, modules, other processes' memory, the clock, the
//! kernel's keys, BPF, performance events) unless the container holds the capability that is for it; all else is let
//! through. The filter is set after the capabilities are dropped, which the kernel allows only with no_new_privs.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Refused to all.
const NEVER: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_personality,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_vmsplice,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];

/// Refused unless the container holds the capability.
const UNLESS: &[(&str, &[c_long])] = &[
    (
        "SYS_ADMIN",
        &[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_fanotify_init,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
        ],
    ),
    ("SYS_BOOT", &[libc::SYS_reboot, libc::SYS_kexec_load, libc::SYS_kexec_file_load]),
    ("SYS_CHROOT", &[libc::SYS_chroot]),
    ("SYS_MODULE", &[libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module]),
    ("SYS_PACCT", &[libc::SYS_acct]),
    ("SYS_PTRACE", &[libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kcmp, libc::SYS_pidfd_getfd]),
    ("SYS_RAWIO", &[libc::SYS_iopl, libc::SYS_ioperm]),
    ("SYS_TIME", &[libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex]),
    ("SYS_TTY_CONFIG", &[libc::SYS_vhangup]),
    ("SYS_NICE", &[libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_move_pages, libc::SYS_migrate_pages]),
    ("SYSLOG", &[libc::SYS_syslog]),
    ("DAC_READ_SEARCH", &[libc::SYS_open_by_handle_at]),
];

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

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)?.try_into()
}

/// The programs for a container with `capabilities`, each like `CAP_CHOWN`.
fn programs(capabilities: &[String]) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let holds = |name: &str| capabilities.iter().any(|c| c.trim_start_matches("CAP_") == name);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    for (_, calls) in UNLESS.iter().filter(|(capability, _)| !holds(capability)) {
        rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    }
    let mut all = Vec::new();
    if !holds("SYS_ADMIN") {
        let flag = |flag: &i32| {
            let flag = *flag as u64;
            let set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
            SeccompRule::new(vec![set])
        };
        rules.insert(libc::SYS_clone, NAMESPACES.iter().map(flag).collect::<Result<_, _>>()?);
        // Its flags are in memory, where a filter can't look. Whoever hears that it isn't there uses clone.
        all.push(program(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?);
    }
    all.push(program(rules, libc::EPERM)?);
    Ok(all)
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
    fn programs_depend_on_capabilities() {
        assert_eq!(programs(&[]).unwrap().len(), 2);
        let all: Vec<String> = UNLESS.iter().map(|(name, _)| format!("CAP_{name}")).collect();
        let fewer = programs(&all).unwrap();
        assert_eq!(fewer.len(), 1);
        assert!(fewer[0].len() < programs(&[]).unwrap()[1].len());
    }

    #[test]
    fn a_confined_process_is_refused_what_it_has_no_business_with() {
        // A thread of its own: what is set here stays for the rest of its life.
        let refused = std::thread::spawn(|| {
            confine(&[]).unwrap();
            let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS);
            let named = nix::unistd::sethostname("x");
            let thread_works = std::thread::spawn(|| 7).join().unwrap();
            (unshared, named, thread_works, std::fs::read_dir("/").is_ok())
        });
        let denied = Err(nix::errno::Errno::EPERM);
        assert_eq!(refused.join().unwrap(), (denied, denied, 7, true));
    }
}
