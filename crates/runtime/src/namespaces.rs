//! Namespaces that live as files (namespaces(7)): they outlast every process, so a pod needs no pause container.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// The files of a pod's namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces {
    pub net: PathBuf,
    pub ipc: PathBuf,
    pub uts: PathBuf,
}

impl Namespaces {
    pub fn in_folder(folder: &Path) -> Self {
        Namespaces { net: folder.join("net"), ipc: folder.join("ipc"), uts: folder.join("uts") }
    }

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
        let made = std::thread::spawn(move || -> io::Result<()> {
            let mut flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
            if !host_network {
                flags |= CloneFlags::CLONE_NEWNET;
            }
            unshare(flags)?;
            nix::unistd::sethostname(&hostname)?;
            for (name, path) in [("net", &this.net), ("ipc", &this.ipc), ("uts", &this.uts)] {
                pin(name, path)?;
            }
            Ok(())
        });
        made.join().map_err(|_| io::Error::other("the thread that makes namespaces died"))?
    }

    /// Lets the namespaces go. What doesn't exist is no error.
    pub fn remove(&self) {
        for path in [&self.net, &self.ipc, &self.uts] {
            while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
            let _ = std::fs::remove_file(path);
        }
    }
}

fn pin(name: &str, path: &Path) -> io::Result<()> {
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    std::fs::File::create(path)?;
    let own = format!("/proc/thread-self/ns/{name}");
    mount(Some(own.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
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
    let thread = std::thread::spawn(move || -> io::Result<T> {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    });
    thread.join().map_err(|_| io::Error::other("the thread in the namespace died"))?
}
