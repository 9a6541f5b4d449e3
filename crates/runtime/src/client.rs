//! The daemon's side of a shim.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::process::Handle;
use crate::protocol::{Answer, ContainerState, Exit, Request, SHIM_ARGUMENT, Start};
use crate::seqpacket;
pub use crate::terminal::set_terminal_size;

/// A shim's state file, in its folder.
const STATE: &str = "shim.json";

/// How long a shim may take to answer. Its own limits for what it does in helpers (`shim::launch`) are shorter.
const AT_ONCE: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(160);
const EXEC_TIMEOUT: Duration = Duration::from_secs(70);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);
/// A watch begins when no container is on its way any more.
const WATCH_TIMEOUT: Duration = START_TIMEOUT;
/// Between two tries to connect to a shim whose queue is full.
const CONNECT_RETRY_AFTER: Duration = Duration::from_millis(20);

/// Why a shim didn't do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// Its process can't be started.
    #[error("the shim can't be started")]
    Spawn(#[source] io::Error),
    /// It isn't there, or the connection broke.
    #[error("the shim can't be reached")]
    Lost(#[source] io::Error),
    /// It took longer than it may.
    #[error("the shim didn't answer within {0:?}")]
    Silent(Duration),
    /// It says why it can't, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It answered something that isn't due: it is of a version that this one doesn't know.
    #[error("the shim answered {0} where something else was due")]
    Unexpected(String),
}

/// What a shim tells by itself.
#[derive(Debug, Clone)]
pub enum ContainerEvent {
    /// A container has ended.
    Exited {
        /// The container's id.
        id: String,
        /// How it ended.
        exit: Exit,
    },
    /// The shim is gone, and its containers with it as far as anybody can tell.
    Gone,
}

/// A running shim. Clones talk to the same one.
#[derive(Debug, Clone)]
pub struct ShimClient {
    socket: PathBuf,
}

/// A process that runs in a container.
pub struct Execution {
    /// None of one that had ended before anybody could get hold of it.
    process: Option<Handle>,
    /// The terminal, if there is one.
    pub terminal: Option<OwnedFd>,
    connection: Connection,
}

/// A connection to a container's streams.
pub struct Attachment {
    connection: Connection,
}

impl ShimClient {
    /// Starts a shim whose socket is `folder/shim.sock` and whose state is in `folder/shim.json`. It outlives this
    /// process.
    ///
    /// # Errors
    /// When the folder can't be written or no process can be started.
    pub async fn start(folder: &Path) -> Result<Self, ShimError> {
        let socket = folder.join("shim.sock");
        let listener = seqpacket::bind_and_listen(&socket).map_err(ShimError::Spawn)?;
        let log = std::fs::File::create(folder.join("shim.log")).map_err(ShimError::Spawn)?;
        let mut command = std::process::Command::new(crate::program::path());
        command.arg0("timonel-shim").arg(SHIM_ARGUMENT).arg(folder.join(STATE));
        // The socket is its standard input: without code of ours between fork and exec, the child is spawned without
        // a copy of this process' page tables.
        command.env_clear();
        // A page of the heap is to be 4 KiB and not 2 MiB: there is a shim for every pod.
        command.env("MIMALLOC_ALLOW_THP", "0").stdin(listener).stdout(Stdio::null()).stderr(log).current_dir("/");
        // Dropping the child leaves it running; tokio reaps it when it ends.
        let child = Command::from(command).kill_on_drop(false).spawn().map_err(ShimError::Spawn)?;
        drop(child);
        Ok(ShimClient { socket })
    }

    /// The shim that was started in `folder` earlier; whether it lives shows at the first request.
    pub fn at(folder: &Path) -> Self {
        ShimClient { socket: folder.join("shim.sock") }
    }

    async fn ask(
        &self,
        request: &Request,
        fds: &[OwnedFd],
        limit: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>, Connection), ShimError> {
        let asking = async {
            let connection = loop {
                match Connection::open(&self.socket) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(CONNECT_RETRY_AFTER).await
                    }
                    opened => break opened?,
                }
            };
            let raw: Vec<i32> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
            seqpacket::send(connection.fd.get_ref(), request, &raw)?;
            let (answer, fds) = connection.receive().await?;
            Ok((answer, fds, connection))
        };
        let asked = tokio::time::timeout(limit, asking).await.map_err(|_| ShimError::Silent(limit))?;
        match asked.map_err(ShimError::Lost)? {
            (Answer::Failed { error }, ..) => Err(ShimError::Refused(error)),
            answered => Ok(answered),
        }
    }

    async fn done(&self, request: Request, limit: Duration) -> Result<(), ShimError> {
        match self.ask(&request, &[], limit).await? {
            (Answer::Done, ..) => Ok(()),
            (other, ..) => Err(ShimError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Whether the shim answers at all. What it is busy with doesn't keep it from that.
    pub async fn answers(&self) -> bool {
        // No signal has this number, so this does nothing.
        let asked = self.ask(&Request::Kill { id: String::new(), signal: 0 }, &[], AT_ONCE).await;
        !matches!(asked, Err(ShimError::Silent(_)))
    }

    /// Ends the shim itself, for one that doesn't answer. Its containers are nobody's then; who asks for this ends them by their cgroup.
    ///
    /// # Errors
    /// When it can't be told to end.
    pub fn end(&self) -> io::Result<()> {
        let state = self.socket.with_file_name(STATE);
        for process in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if !is_shim(pid, &state) {
                continue;
            }
            let Ok(process) = Handle::find(pid) else { continue };
            // The number is looked at again, as it may have become another's before it was held on to.
            if is_shim(pid, &state) {
                process.signal(libc::SIGKILL)?;
            }
        }
        Ok(())
    }

    /// The containers as they are now, and a channel for what happens to them from then on.
    ///
    /// # Errors
    /// When there is no shim any more.
    pub async fn watch(&self) -> Result<(Vec<ContainerState>, mpsc::Receiver<ContainerEvent>), ShimError> {
        let (answer, _, connection) = self.ask(&Request::Watch, &[], WATCH_TIMEOUT).await?;
        let Answer::State { containers, .. } = answer else {
            return Err(ShimError::Unexpected(format!("{answer:?}")));
        };
        let (sender, receiver) = mpsc::channel(16);
        tasks::spawn("shim-events", async move {
            loop {
                let event = match connection.receive().await {
                    Ok((Answer::Exited { id, exit }, _)) => ContainerEvent::Exited { id, exit },
                    Ok(_) => continue,
                    Err(_) => ContainerEvent::Gone,
                };
                let last = matches!(event, ContainerEvent::Gone);
                let closed = tokio::select! {
                    sent = sender.send(event) => sent.is_err(),
                    () = sender.closed() => true,
                };
                if last || closed {
                    return;
                }
            }
        });
        Ok((containers, receiver))
    }

    /// # Errors
    /// With the reason why the container can't be started, as the runtime tells it.
    pub async fn start_container(&self, start: Start) -> Result<i32, ShimError> {
        match self.ask(&Request::Start(start), &[], START_TIMEOUT).await? {
            (Answer::Started { pid }, ..) => Ok(pid),
            (other, ..) => Err(ShimError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Makes a process namespace for containers that share it, in the pod's user namespace if it has one; returns the id of its first process.
    ///
    /// # Errors
    /// When it can't be made, or the shim is older than this request.
    pub async fn share_processes(&self, users: Option<&Path>) -> Result<i32, ShimError> {
        match self.ask(&Request::ShareProcesses { users: users.map(Path::to_path_buf) }, &[], REQUEST_TIMEOUT).await? {
            (Answer::Started { pid }, ..) => Ok(pid),
            (other, ..) => Err(ShimError::Unexpected(format!("{other:?}"))),
        }
    }

    /// # Errors
    /// When the container or the shim is unknown.
    pub async fn kill(&self, id: &str, signal: i32) -> Result<(), ShimError> {
        self.done(Request::Kill { id: id.into(), signal }, AT_ONCE).await
    }

    /// # Errors
    /// When something of the container can't be removed.
    pub async fn delete(&self, id: &str) -> Result<(), ShimError> {
        self.done(Request::Delete { id: id.into() }, REQUEST_TIMEOUT).await
    }

    /// Runs a process. `stdio` is stdin, stdout and stderr as the process gets them; `None` for a terminal.
    ///
    /// # Errors
    /// With the reason why it can't be run.
    pub async fn exec(&self, id: &str, process: &Path, stdio: Option<[OwnedFd; 3]>) -> Result<Execution, ShimError> {
        let is_tty = stdio.is_none();
        let request = Request::Exec { id: id.into(), process: process.display().to_string(), tty: is_tty };
        let fds: Vec<OwnedFd> = stdio.map(Vec::from).unwrap_or_default();
        let (answer, mut received, connection) = self.ask(&request, &fds, EXEC_TIMEOUT).await?;
        match answer {
            Answer::Started { pid } => {
                let terminal = if is_tty { received.pop() } else { None };
                // An older shim gives no hold on the process.
                let process = received.pop().map(Handle::from).or_else(|| Handle::find(pid).ok());
                Ok(Execution { process, terminal, connection })
            }
            other => Err(ShimError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Connects `stdio` (what the container reads, and where its stdout and stderr go) to a running container.
    ///
    /// # Errors
    /// When the container doesn't run.
    pub async fn attach(&self, id: &str, stdin: bool, stdio: [OwnedFd; 3]) -> Result<Attachment, ShimError> {
        let (_, _, connection) =
            self.ask(&Request::Attach { id: id.into(), stdin }, &Vec::from(stdio), AT_ONCE).await?;
        Ok(Attachment { connection })
    }

    /// # Errors
    /// When the container doesn't run.
    pub async fn resize(&self, id: &str, width: u16, height: u16) -> Result<(), ShimError> {
        self.done(Request::Resize { id: id.into(), width, height }, AT_ONCE).await
    }

    /// Ends the shim. Its containers must have ended.
    ///
    /// # Errors
    /// When a container still runs.
    pub async fn quit(&self) -> Result<(), ShimError> {
        match self.done(Request::Quit, AT_ONCE).await {
            Err(ShimError::Lost(_)) => Ok(()),
            other => other,
        }
    }
}

/// Whether a process is the shim with that state file, by what it was started with.
fn is_shim(pid: i32, state: &Path) -> bool {
    let line = bounded::bytes(format!("/proc/{pid}/cmdline"), bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    let mut arguments = line.split(|byte| *byte == 0).skip(1);
    arguments.next() == Some(SHIM_ARGUMENT.as_bytes()) && arguments.next() == Some(state.as_os_str().as_bytes())
}

async fn exited(connection: &Connection) -> Result<Exit, ShimError> {
    loop {
        if let (Answer::Exited { exit, .. }, _) = connection.receive().await.map_err(ShimError::Lost)? {
            return Ok(exit);
        }
    }
}

impl Execution {
    /// Waits for the process' end.
    ///
    /// # Errors
    /// When the shim went away.
    pub async fn wait(&self) -> Result<Exit, ShimError> {
        exited(&self.connection).await
    }

    /// Ends the process, as for a probe that took too long.
    pub fn kill(&self) {
        let _ = self.process.as_ref().map(|process| process.signal(libc::SIGKILL));
    }
}

impl Attachment {
    /// Waits for the container's end.
    ///
    /// # Errors
    /// When the shim went away.
    pub async fn wait(&self) -> Result<Exit, ShimError> {
        exited(&self.connection).await
    }
}

struct Connection {
    fd: AsyncFd<OwnedFd>,
}

impl Connection {
    fn open(path: &Path) -> io::Result<Self> {
        let fd = seqpacket::connect_to(path)?;
        // SAFETY: an OwnedFd stays the same open descriptor as long as it lives, and AsyncFd owns it.
        #[allow(unsafe_code)]
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Connection { fd })
    }

    async fn receive(&self) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let received = self.fd.async_io(Interest::READABLE, seqpacket::receive::<Answer>).await?;
        received.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }
}

#[cfg(test)]
mod tests;
