//! The last steps into a container whose users are none of the machine's. `libcontainer` starts a container in a user namespace, but
//! doesn't take further processes there: they come to the container as the machine's root with what it takes to go in, and go in
//! just before they become another program.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::capabilities::{drop_privileges, reset_effective};
use libcontainer::oci_spec::runtime::Process;
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid};
use serde::Deserialize as _;
use serde_json::Value;

use crate::users::Users;

/// What going in takes (capabilities(7)).
const NEEDED: [&str; 4] = ["CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN"];

/// Who a process is once it is in.
#[derive(Clone)]
pub struct Entry {
    namespace: Arc<OwnedFd>,
    process: Process,
}

impl Entry {
    /// Reads the process of a file, and writes beside it the one that goes in. The caller removes that.
    ///
    /// # Errors
    /// When a file can't be read or written.
    pub fn prepare(users: &Users, file: &Path) -> Result<(Self, PathBuf), String> {
        let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let text = bounded::bytes(file, bounded::MAX_OWN_FILE_BYTES).map_err(|e| fail(&e))?;
        let mut entering: Value = serde_json::from_slice(&text).map_err(|e| fail(&e))?;
        let process = Process::deserialize(&entering).map_err(|e| fail(&e))?;
        entering["user"] = serde_json::json!({"uid": 0, "gid": 0, "umask": entering["user"]["umask"]});
        entering["noNewPrivileges"] = false.into();
        for set in ["bounding", "effective", "permitted"] {
            entering["capabilities"][set] = NEEDED.into();
        }
        let beside = file.with_extension("entering");
        std::fs::write(&beside, entering.to_string()).map_err(|e| fail(&e))?;
        let namespace = std::fs::File::open(&users.namespace).map_err(|e| fail(&e))?;
        Ok((Entry { namespace: Arc::new(namespace.into()), process }, beside))
    }

    /// Goes in, and keeps nothing but what the process may have.
    pub fn go_in(&self) -> Result<(), String> {
        let fail = |e: &dyn std::fmt::Display| format!("the container's users can't be joined: {e}");
        let user = self.process.user();
        setns(&*self.namespace, CloneFlags::CLONE_NEWUSER).map_err(|e| fail(&e))?;
        let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|g| Gid::from_raw(*g)).collect();
        nix::unistd::setgroups(&groups).map_err(|e| fail(&e))?;
        let syscall = create_syscall();
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        nix::sys::prctl::set_keepcaps(true).map_err(|e| fail(&e))?;
        nix::unistd::setresgid(gid, gid, gid).map_err(|e| fail(&e))?;
        nix::unistd::setresuid(uid, uid, uid).map_err(|e| fail(&e))?;
        reset_effective(syscall.as_ref()).map_err(|e| fail(&e))?;
        if let Some(capabilities) = self.process.capabilities() {
            drop_privileges(capabilities, syscall.as_ref()).map_err(|e| fail(&e))?;
        }
        if self.process.no_new_privileges() == Some(true) {
            nix::sys::prctl::set_no_new_privs().map_err(|e| fail(&e))?;
        }
        Ok(())
    }
}
