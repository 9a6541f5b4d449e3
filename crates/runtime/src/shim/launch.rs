//! Starting processes through `libcontainer`.
//!
//! Every call is made by a forked helper that ends right after: the library changes its process (working directory,
//! OOM score, dumpable flag), and the shim must stay as it is. With `as_sibling` the container's first process becomes
//! the shim's child, not the helper's.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use libcontainer::container::Container as OciContainer;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Uid, fork, pipe2};
use seccompiler::BpfProgram;

use super::enter::Entry;
use crate::protocol::Start;
use crate::seqpacket;

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
        for candidate in candidates {
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
        Some(path) => super::profile::programs(&std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?)?,
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

/// Creates a container and starts its process.
pub fn create(start: &Start, stdio: Stdio) -> Result<Launched, String> {
    let owner = Uid::from_raw(start.owner);
    give(&stdio, owner);
    let console = Console::for_stdio(&stdio, Path::new(&start.bundle))?;
    let console_path = console.as_ref().map(|c| c.path.clone());
    let pid = in_helper(|errors| {
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
    });
    let pid = match pid {
        Ok(pid) => pid,
        Err(error) => {
            // The process, if any, is reaped as an unknown child; what it left is removed here.
            let _ = delete(start);
            return Err(error);
        }
    };
    let terminal = console.map(|console| console.terminal(owner)).transpose()?;
    Ok(Launched { pid, terminal })
}

/// Runs a process (an OCI process object in the file `process`) in a running container.
pub fn exec(start: &Start, process: &Path, stdio: Stdio) -> Result<Launched, String> {
    let owner = Uid::from_raw(start.owner);
    give(&stdio, owner);
    let folder = process.parent().unwrap_or(Path::new("/"));
    let console = Console::for_stdio(&stdio, folder)?;
    let console_path = console.as_ref().map(|c| c.path.clone());
    let entry = start.users.as_ref().map(|users| Entry::prepare(users, process)).transpose()?;
    let (entry, entering) = entry.unzip();
    let pid = in_helper(|errors| {
        let builder = builder(start, errors, console_path.as_deref(), stdio, entry)?;
        let pid = builder
            .as_tenant()
            .with_process(Some(entering.as_deref().unwrap_or(process)))
            .as_sibling(true)
            .with_detach(true)
            .build()
            .map_err(chain)?;
        Ok(pid.as_raw())
    });
    if let Some(file) = &entering {
        let _ = std::fs::remove_file(file);
    }
    remove_tenant_sockets(Path::new(&start.root).join(&start.id).as_path());
    let pid = pid?;
    let terminal = console.map(|console| console.terminal(owner)).transpose()?;
    Ok(Launched { pid, terminal })
}

/// Starts the first process of a new process namespace. It becomes the shim's child, as its maker ends.
pub fn share_processes(users: Option<&Path>) -> Result<i32, String> {
    in_helper(|_| {
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

/// Removes a container, its processes and its cgroup.
pub fn delete(start: &Start) -> Result<(), String> {
    let folder = Path::new(&start.root).join(&start.id);
    crate::cgroup::kill_all(&start.cgroup);
    if folder.exists() {
        let removed = in_helper(|_| {
            let mut container = OciContainer::load(folder.clone()).map_err(chain)?;
            container.delete(true).map_err(chain)?;
            Ok(0)
        });
        if removed.is_err() {
            crate::remove_tree(&folder).map_err(|e| format!("{} can't be removed: {e}", folder.display()))?;
        }
    }
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

/// Forks, runs `work` in the child and returns its result. The errors of the container's own process, which come by
/// the same pipe until it has become another program, are waited for too.
fn in_helper(work: impl FnOnce(RawFd) -> Result<i32, String>) -> Result<i32, String> {
    let system = |e: nix::Error| format!("can't start a helper: {e}");
    let (result_read, result_write) = pipe2(OFlag::O_CLOEXEC).map_err(system)?;
    let (errors_read, errors_write) = pipe2(OFlag::O_CLOEXEC).map_err(system)?;
    // SAFETY: the shim has one thread, so the child may do whatever the parent could.
    match unsafe { fork() }.map_err(system)? {
        ForkResult::Child => {
            let details = tracing_details();
            // Ours alone are without huge pages (`ShimClient::start`); what a container does is its own matter.
            let _ = nix::sys::prctl::set_thp_disable(false);
            let text = match work(errors_write.as_raw_fd()) {
                Ok(pid) => format!("+{pid}"),
                Err(error) => format!("-{error}{}", details.text()),
            };
            let _ = nix::unistd::write(&result_write, text.as_bytes());
            // SAFETY: _exit runs nothing of this process' exit handlers, which belong to the shim.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop((result_write, errors_write));
            let result = read_all(result_read);
            let exec_error = read_all(errors_read);
            let _ = waitpid(child, None);
            if !exec_error.is_empty() {
                return Err(exec_error);
            }
            match result.split_at_checked(1) {
                Some(("+", pid)) => pid.parse().map_err(|_| "the helper answered nonsense".to_string()),
                Some((_, error)) => Err(error.to_string()),
                None => Err("the helper died".into()),
            }
        }
    }
}

fn read_all(fd: OwnedFd) -> String {
    let mut text = Vec::new();
    let _ = std::fs::File::from(fd).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The library tells the reasons of its errors only as tracing events: they are gathered in memory.
struct Details(std::sync::Arc<parking_lot::Mutex<Vec<String>>>);

impl Details {
    fn text(&self) -> String {
        let all = self.0.lock();
        if all.is_empty() { String::new() } else { format!(" ({})", all.join("; ")) }
    }
}

fn tracing_details() -> Details {
    let gathered = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let collector = Collector(gathered.clone());
    let _ = tracing::subscriber::set_global_default(collector);
    Details(gathered)
}

struct Collector(std::sync::Arc<parking_lot::Mutex<Vec<String>>>);

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                let _ = write!(self.0, "{}{}={value:?}", if self.0.is_empty() { "" } else { " " }, field.name());
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
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
        let name = format!("tty-{}", std::process::id());
        let path = folder.join(name);
        let _ = std::fs::remove_file(&path);
        // Through the folder's descriptor, as a socket's path is limited to 108 bytes.
        let make = || -> std::io::Result<std::os::unix::net::UnixListener> {
            let folder = std::fs::File::open(folder)?;
            let short =
                format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), path.file_name().unwrap_or_default().display());
            std::os::unix::net::UnixListener::bind(short)
        };
        let listener = make().map_err(|e| format!("can't make a console socket: {e}"))?;
        Ok(Some(Console { path, listener }))
    }

    /// Our end of the terminal; the other one becomes the process' user's.
    fn terminal(self, owner: Uid) -> Result<OwnedFd, String> {
        let (connection, _) = self.listener.accept().map_err(|e| e.to_string())?;
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
