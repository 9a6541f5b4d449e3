//! Starting processes through `libcontainer`.
//!
//! Every call is made by a forked helper that ends right after: the library changes its process (working directory,
//! OOM score, dumpable flag), and the shim must stay as it is. With `as_sibling` the container's first process becomes
//! the shim's child, not the helper's. Nothing here waits for a helper.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libcontainer::container::Container as OciContainer;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Uid, fork};
use seccompiler::BpfProgram;

use super::enter::Entry;
use super::helper::Helper;
use crate::protocol::Start;
use crate::seqpacket;

/// How long a helper may take. What is in a container may stop it, and its disks may be slow.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const EXEC_TIMEOUT: Duration = Duration::from_secs(60);
const SHARE_TIMEOUT: Duration = Duration::from_secs(30);
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a process' input and output go.
pub enum Stdio {
    Pipes([OwnedFd; 3]),
    Terminal,
}

pub struct Launched {
    pub pid: i32,
    pub terminal: Option<OwnedFd>,
}

/// The last step in the container: what the library's own executor gets wrong for us is done here. It looks the
/// program up in the PATH of the container's environment, and says why it can't be run.
#[derive(Clone)]
struct Exec {
    /// Closed by a successful exec.
    errors: RawFd,
    /// The container's capabilities, if it runs under the default seccomp profile.
    confined: Option<Vec<String>>,
    /// Its own profile, made into programs while its file could be seen.
    profile: Vec<BpfProgram>,
    /// The way to the container's own users, for a process that isn't among them yet.
    entry: Option<Entry>,
}

impl Executor for Exec {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let error = self.run(spec);
        let _ = nix::unistd::write(
            // SAFETY: the helper made this descriptor for us; it lives until this process ends.
            unsafe { std::os::fd::BorrowedFd::borrow_raw(self.errors) },
            error.as_bytes(),
        );
        Err(ExecutorError::Other(error))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}

impl Exec {
    /// Replaces this process; returns only to say why not.
    fn run(&self, spec: &Spec) -> String {
        let Some(process) = spec.process() else { return "the bundle names no process".into() };
        let args = process.args().clone().unwrap_or_default();
        let Some(program) = args.first() else { return "no command is given, and the image has none".into() };
        reset_signals();
        let text = |s: &String| CString::new(s.as_str()).unwrap_or_default();
        let argv: Vec<CString> = args.iter().map(text).collect();
        let env = process.env().clone().unwrap_or_default();
        let envp: Vec<CString> = env.iter().map(text).collect();
        let path = env
            .iter()
            .find_map(|e| e.strip_prefix("PATH="))
            .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let candidates: Vec<String> = if program.contains('/') {
            vec![program.clone()]
        } else {
            path.split(':').map(|folder| format!("{folder}/{program}")).collect()
        };
        if let Some(label) = process.selinux_label()
            && let Err(error) = crate::selinux::at_exec(label)
        {
            return format!("the SELinux label {label:?} can't be set: {error}");
        }
        if let Some(Err(error)) = self.entry.as_ref().map(Entry::go_in) {
            return error;
        }
        if let Some(capabilities) = &self.confined
            && let Err(error) = super::seccomp::confine(capabilities)
        {
            return format!("the seccomp profile can't be set: {error}");
        }
        if let Err(error) = super::seccomp::apply(&self.profile) {
            return format!("the seccomp profile can't be set: {error}");
        }
        let mut reason = format!("exec: {program:?}: executable file not found in $PATH");
        let own = Identity::of("/proc/self/exe");
        for candidate in candidates {
            // Reached by `/proc/self/exe` or the like: it is none of the container's programs (see `program`).
            if own.is_some() && Identity::of(&candidate) == own {
                return format!("exec: {program:?}: permission denied");
            }
            let Ok(file) = CString::new(candidate.as_str()) else { continue };
            match nix::unistd::execve(&file, &argv, &envp) {
                Ok(never) => match never {},
                Err(nix::errno::Errno::ENOENT) if !program.contains('/') => {}
                Err(nix::errno::Errno::ENOENT) => {
                    reason = format!("exec: {program:?}: stat {program}: no such file or directory")
                }
                Err(nix::errno::Errno::EACCES) => reason = format!("exec: {program:?}: permission denied"),
                Err(error) => reason = format!("exec {candidate}: {}", error.desc().to_lowercase()),
            }
        }
        reason
    }
}

/// What a file is and by which mount it was reached.
#[derive(PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    mount: u64,
}

impl Identity {
    fn of(path: &str) -> Option<Self> {
        use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::INO | StatxFlags::MNT_ID).ok()?;
        let device = (found.stx_dev_major, found.stx_dev_minor);
        Some(Identity { device, inode: found.stx_ino, mount: found.stx_mnt_id })
    }
}

/// Rust ignores SIGPIPE and the shim blocks SIGCHLD; containers must inherit neither.
fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: setting the default action installs no handler.
        let _ = unsafe { sigaction(signal, &default) };
    }
    let _ = SigSet::all().thread_unblock();
}

/// What creating a container and running a process in one have in common.
fn builder(
    start: &Start,
    errors: RawFd,
    console: Option<&Path>,
    stdio: Stdio,
    entry: Option<Entry>,
) -> Result<ContainerBuilder, String> {
    let profile = match &start.profile {
        Some(path) => super::profile::programs(
            &bounded::text(path, bounded::MAX_OWN_FILE_BYTES).map_err(|e| format!("{path}: {e}"))?,
        )?,
        None => Vec::new(),
    };
    let builder = ContainerBuilder::new(start.id.clone(), SyscallType::default())
        .with_root_path(&start.root)
        .map_err(chain)?
        .with_executor(Exec { errors, confined: start.confined.clone(), profile, entry })
        .with_console_socket(console);
    Ok(match stdio {
        Stdio::Pipes([stdin, stdout, stderr]) => builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr),
        Stdio::Terminal => builder,
    })
}

/// Lets a process open its streams again by name, as those do who log to `/dev/stdout`. Pipes alone are its own.
fn give(stdio: &Stdio, owner: Uid) {
    let Stdio::Pipes(streams) = stdio else { return };
    let is_pipe = |fd: &&OwnedFd| {
        let kind = nix::sys::stat::fstat(fd).map_or(0, |meta| meta.st_mode & libc::S_IFMT);
        kind == libc::S_IFIFO
    };
    for stream in streams.iter().filter(is_pipe) {
        let _ = nix::unistd::fchown(stream, Some(owner), None);
    }
}

/// A process that is being started.
pub struct Launch {
    pub helper: Helper,
    console: Option<Console>,
    owner: Uid,
    /// What is to be removed when it is done.
    leftovers: Vec<PathBuf>,
    /// Where the library leaves a socket for every exec.
    tenants: Option<PathBuf>,
}

impl Launch {
    /// The outcome of a launch whose helper is done.
    pub fn finish(self) -> Result<Launched, String> {
        let pid = self.helper.outcome();
        for file in &self.leftovers {
            let _ = std::fs::remove_file(file);
        }
        if let Some(folder) = &self.tenants {
            remove_tenant_sockets(folder);
        }
        let pid = pid?;
        let terminal = self.console.map(|console| console.terminal(self.owner)).transpose()?;
        Ok(Launched { pid, terminal })
    }
}

/// Creates a container and starts its process.
pub fn create(start: &Start, stdio: Stdio) -> Result<Launch, String> {
    let owner = Uid::from_raw(start.owner);
    give(&stdio, owner);
    let console = Console::for_stdio(&stdio, Path::new(&start.bundle))?;
    let console_path = console.as_ref().map(|c| c.path.clone());
    let helper = Helper::start(START_TIMEOUT, |errors| {
        let builder = builder(start, errors, console_path.as_deref(), stdio, None)?;
        let mut container = builder
            .as_init(&start.bundle)
            .with_systemd(false)
            .as_sibling(true)
            .with_detach(true)
            .build()
            .map_err(chain)?;
        let pid = container.pid().map(|p| p.as_raw()).ok_or("the container has no process")?;
        container.start().map_err(chain)?;
        Ok(pid)
    })?;
    Ok(Launch { helper, owner, leftovers: console_path.into_iter().collect(), console, tenants: None })
}

/// Runs a process (an OCI process object in the file `process`) in a running container.
pub fn exec(start: &Start, process: &Path, stdio: Stdio) -> Result<Launch, String> {
    let owner = Uid::from_raw(start.owner);
    give(&stdio, owner);
    let folder = process.parent().unwrap_or(Path::new("/"));
    let console = Console::for_stdio(&stdio, folder)?;
    let console_path = console.as_ref().map(|c| c.path.clone());
    let entry = start.users.as_ref().map(|users| Entry::prepare(users, process)).transpose()?;
    let (entry, entering) = entry.unzip();
    let helper = Helper::start(EXEC_TIMEOUT, |errors| {
        let builder = builder(start, errors, console_path.as_deref(), stdio, entry)?;
        let pid = builder
            .as_tenant()
            .with_process(Some(entering.as_deref().unwrap_or(process)))
            .as_sibling(true)
            .with_detach(true)
            .build()
            .map_err(chain)?;
        Ok(pid.as_raw())
    })?;
    let tenants = Some(Path::new(&start.root).join(&start.id));
    Ok(Launch { helper, owner, leftovers: console_path.into_iter().chain(entering).collect(), console, tenants })
}

/// Starts the first process of a new process namespace.
pub fn share_processes(users: Option<&Path>) -> Result<Helper, String> {
    Helper::start(SHARE_TIMEOUT, |_| {
        let fail = |e: nix::Error| format!("can't make a process namespace: {e}");
        if let Some(path) = users {
            let namespace = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWUSER).map_err(fail)?;
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).map_err(fail)?;
        // SAFETY: the helper has one thread, so the child may do whatever the parent could.
        match unsafe { fork() }.map_err(fail)? {
            ForkResult::Parent { child } => Ok(child.as_raw()),
            ForkResult::Child => bury_the_dead(),
        }
    })
}

/// What the first process of a shared namespace does, until it is killed from outside.
fn bury_the_dead() -> ! {
    reset_signals();
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    let _ = ended.thread_block();
    let _ = nix::sys::prctl::set_name(c"pause");
    // SAFETY: nothing of this process uses a descriptor any more; whoever waits for their closing must not wait for it.
    unsafe { libc::close_range(0, u32::MAX, 0) };
    loop {
        let _ = ended.wait();
        while waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status != nix::sys::wait::WaitStatus::StillAlive)
        {}
    }
}

/// The library leaves a socket behind for every exec.
fn remove_tenant_sockets(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("tenant-") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Begins to remove a container: its processes, and what the library keeps of it. Nothing, if the library knows nothing of it.
pub fn delete(start: &Start) -> Result<Option<Helper>, String> {
    let folder = Path::new(&start.root).join(&start.id);
    crate::cgroup::kill_all(&start.cgroup);
    if !folder.exists() {
        return Ok(None);
    }
    let removing = Helper::start(DELETE_TIMEOUT, |_| {
        let mut container = OciContainer::load(folder).map_err(chain)?;
        container.delete(true).map_err(chain)?;
        Ok(0)
    });
    removing.map(Some)
}

/// Removes what is left of a container after [`delete`].
pub fn deleted(start: &Start) -> Result<(), String> {
    let folder = Path::new(&start.root).join(&start.id);
    // A few files, if the library hasn't removed them itself.
    crate::remove_tree(&folder).map_err(|e| format!("{} can't be removed: {e}", folder.display()))?;
    crate::cgroup::remove(&start.cgroup);
    Ok(())
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// The socket on which the library hands over a terminal.
struct Console {
    path: std::path::PathBuf,
    listener: std::os::unix::net::UnixListener,
}

impl Console {
    fn for_stdio(stdio: &Stdio, folder: &Path) -> Result<Option<Self>, String> {
        if matches!(stdio, Stdio::Pipes(_)) {
            return Ok(None);
        }
        // Several may be under way in one folder.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = folder.join(format!("tty-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let _ = std::fs::remove_file(&path);
        // Through the folder's descriptor, as a socket's path is limited to 108 bytes.
        let make = || -> std::io::Result<std::os::unix::net::UnixListener> {
            let folder = std::fs::File::open(folder)?;
            let short =
                format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), path.file_name().unwrap_or_default().display());
            std::os::unix::net::UnixListener::bind(short)
        };
        let listener = make().map_err(|e| format!("can't make a console socket: {e}"))?;
        // The terminal is sent before the process becomes its program; no wait would bring one that didn't come.
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        Ok(Some(Console { path, listener }))
    }

    /// Our end of the terminal; the other one becomes the process' user's.
    fn terminal(self, owner: Uid) -> Result<OwnedFd, String> {
        let (connection, _) = self.listener.accept().map_err(|e| format!("no terminal came: {e}"))?;
        connection.set_nonblocking(true).map_err(|e| e.to_string())?;
        let terminal = seqpacket::receive_fd(&connection.into()).map_err(|e| e.to_string());
        let _ = std::fs::remove_file(&self.path);
        let terminal = terminal?;
        // SAFETY: the descriptor is open; what comes back is one that the kernel has just made for us (ioctl_tty(2)).
        let other = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY) };
        if other >= 0 {
            // SAFETY: see above.
            let other = unsafe { OwnedFd::from_raw_fd(other) };
            let _ = nix::unistd::fchown(&other, Some(owner), None);
        }
        Ok(terminal)
    }
}
