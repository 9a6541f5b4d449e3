//! Namespaces that live as files (namespaces(7)): they outlast every process, so a pod needs no pause container.
#![allow(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, fork};

use crate::users::Users;

/// The files of a pod's namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces {
    /// Network.
    pub net: PathBuf,
    /// System V IPC, and message queues.
    pub ipc: PathBuf,
    /// The host name.
    pub uts: PathBuf,
    /// Of a pod with users of its own.
    pub user: PathBuf,
}

impl Namespaces {
    /// The files in a folder.
    pub fn in_folder(folder: &Path) -> Self {
        let file = |name| folder.join(name);
        Namespaces { net: file("net"), ipc: file("ipc"), uts: file("uts"), user: file("user") }
    }

    /// Whether all that each pod has are pinned.
    pub fn exist(&self) -> bool {
        is_namespace(&self.net) && is_namespace(&self.ipc) && is_namespace(&self.uts)
    }

    /// Makes what is missing; the uts namespace gets `hostname`. With `host_network` the net namespace is the host's.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn create(&self, hostname: &str, host_network: bool) -> io::Result<()> {
        if let Some(folder) = self.net.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let this = self.clone();
        let hostname = hostname.to_string();
        // A thread of its own, as namespaces belong to threads and this one must not be used afterwards.
        let made = tasks::thread("namespaces", move || -> io::Result<()> {
            let mut flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
            if !host_network {
                flags |= CloneFlags::CLONE_NEWNET;
            }
            unshare(flags)?;
            nix::unistd::sethostname(&hostname)?;
            for (name, path) in [("net", &this.net), ("ipc", &this.ipc), ("uts", &this.uts)] {
                pin("thread-self", name, path)?;
            }
            Ok(())
        })?;
        made.join().map_err(|_| io::Error::other("the thread that makes namespaces died"))?
    }

    /// Makes them for a pod with users of its own, to whom they belong: what its root may, it may in these.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn create_for_users(&self, hostname: &str, first: u32) -> io::Result<()> {
        let folder = self.net.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        // Only a process with one thread gets a user namespace.
        let mut program = std::process::Command::new("/proc/self/exe");
        let program = program
            .arg0("timonel-namespaces")
            .arg(ARGUMENT)
            .args([folder.as_os_str(), hostname.as_ref(), first.to_string().as_ref()])
            .env_clear();
        let output = bounded::output_blocking(program, b"", 64 << 10)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
        Err(io::Error::other(format!("the machine gives the pod no users of its own: {said}")))
    }

    /// Lets the namespaces go. What doesn't exist is no error.
    pub fn remove(&self) {
        for path in [&self.net, &self.ipc, &self.uts, &self.user] {
            while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
            let _ = std::fs::remove_file(path);
        }
    }
}

fn pin(of: &str, name: &str, path: &Path) -> io::Result<()> {
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    std::fs::File::create(path)?;
    let own = format!("/proc/{of}/ns/{name}");
    mount(Some(own.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// `timonel __namespaces FOLDER HOSTNAME FIRST`
const ARGUMENT: &str = "__namespaces";

/// Makes a pod's namespaces if this process was started for that.
pub fn create_main() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let rest: Vec<String> = arguments.collect();
    let [folder, hostname, first] = rest.as_slice() else { return Some(ExitCode::FAILURE) };
    let made = first.parse().map_err(io::Error::other).and_then(|first| create_as(Path::new(folder), hostname, first));
    Some(match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

/// A child goes into the new namespaces; this process, which is still the machine's root, says who is who there and keeps them.
fn create_as(folder: &Path, hostname: &str, first: u32) -> io::Result<()> {
    let (mut mine, mut its) = std::os::unix::net::UnixStream::pair()?;
    let word = &mut [0u8];
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(mine);
            let mut go_in = || -> io::Result<()> {
                unshare(CloneFlags::CLONE_NEWUSER)?;
                its.write_all(b"u")?;
                its.read_exact(word)?;
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
                nix::unistd::sethostname(hostname)?;
                its.write_all(b"n")
            };
            if let Err(error) = go_in() {
                eprintln!("{error}");
            }
            // Until they are kept, or the parent is gone.
            let _ = its.read_exact(word);
            std::process::exit(0);
        }
    };
    drop(its);
    let keep = (|| {
        mine.read_exact(word)?;
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{child}/{map}"), Users::map(first))?;
        }
        mine.write_all(b"m")?;
        mine.read_exact(word)?;
        ["user", "net", "ipc", "uts"].iter().try_for_each(|name| pin(&child.to_string(), name, &folder.join(name)))
    })();
    drop(mine);
    let _ = nix::sys::wait::waitpid(child, None);
    keep
}

fn is_namespace(path: &Path) -> bool {
    const NSFS: i64 = 0x6e73_6673;
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 == NSFS)
}

/// Runs `work` on a thread inside the network namespace that `path` pins.
///
/// # Errors
/// When the namespace can't be entered.
pub fn inside<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let namespace = std::fs::File::open(path)?;
    let thread = tasks::thread("in-namespace", move || -> io::Result<T> {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })?;
    thread.join().map_err(|_| io::Error::other("the thread in the namespace died"))?
}
