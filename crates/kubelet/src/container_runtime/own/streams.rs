//! Processes in our own containers, joined to a client or listened to.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;

use bytes::Bytes;
use futures::future::Either;
use runtime::ShimClient;
use runtime::client::{Execution, set_terminal_size};
use runtime::protocol::Exit;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::container_runtime::StreamError;
use crate::container_runtime::own::output::{Output, last_words};
use crate::streaming::{Event, RESIZE, STDERR, STDIN, STDOUT, Sender, Wants};

type Events = mpsc::Receiver<Event>;

/// How much of a command's output is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Writes the OCI process for an exec, made from the container's own, into a file that goes away with the result.
///
/// # Errors
/// Those of the file system.
pub fn exec_process(of_container: &Path, command: &[String], tty: bool) -> io::Result<tempfile::NamedTempFile> {
    let mut process: Value = serde_json::from_slice(&bounded::bytes(of_container, bounded::MAX_OWN_FILE_BYTES)?)?;
    process["args"] = command.into();
    process["terminal"] = tty.into();
    if tty && let Some(env) = process["env"].as_array_mut() {
        env.push("TERM=xterm".into());
    }
    let folder = of_container.parent().unwrap_or(Path::new("/"));
    let file = tempfile::Builder::new().prefix("exec-").tempfile_in(folder)?;
    std::fs::write(file.path(), process.to_string())?;
    Ok(file)
}

fn input_pipe() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), pipe::Sender::from_owned_fd(writer.into())?))
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Sends what a process writes to a channel.
async fn pump(mut from: Output, channel: u8, to: Sender, ended: CancellationToken) {
    while let Some(bytes) = from.next(&ended).await {
        if !to.send(channel, bytes).await {
            return;
        }
    }
}

/// Runs a process whose channels are pipes, joined to a client.
///
/// # Errors
/// When the shim can't start it, or goes away.
pub async fn exec_pipes(
    shim: &ShimClient,
    id: &str,
    process: &Path,
    wants: Wants,
    events: Events,
    sender: &Sender,
) -> Result<Exit, StreamError> {
    let (stdin, input) = if wants.stdin {
        let (fd, input) = input_pipe()?;
        (fd, Some(input))
    } else {
        (null()?, None)
    };
    let mut pumps = Vec::new();
    let mut output = |wanted: bool, channel: u8| -> Result<OwnedFd, StreamError> {
        if !wanted {
            return Ok(null()?);
        }
        let (fd, reader) = Output::pipe()?;
        pumps.push((reader, channel));
        Ok(fd)
    };
    let stdio = [stdin, output(wants.stdout, STDOUT)?, output(wants.stderr, STDERR)?];
    let execution = shim.exec(id, process, Some(stdio)).await?;
    let ended = CancellationToken::new();
    let pumps = pumps
        .into_iter()
        .map(|(out, channel)| tasks::spawn("stream", pump(out, channel, sender.clone(), ended.clone())));
    let pumps: Vec<_> = pumps.collect();
    let feeding = tasks::spawn("stream", feed(events, input, None));
    let exit = execution.wait().await?;
    last_words(futures::future::join_all(pumps), &ended).await;
    feeding.abort();
    Ok(exit)
}

/// Runs a process on a terminal of its own, joined to a client.
///
/// # Errors
/// When the shim can't start it, or goes away.
pub async fn exec_terminal(
    shim: &ShimClient,
    id: &str,
    process: &Path,
    events: Events,
    sender: &Sender,
) -> Result<Exit, StreamError> {
    let execution = shim.exec(id, process, None).await?;
    let terminal = execution.terminal.as_ref().ok_or(StreamError::NoTerminal)?;
    let (output, mut writer) = Output::terminal(terminal)?;
    let resize = terminal.try_clone()?;
    let ended = CancellationToken::new();
    let pumping = tasks::spawn("stream", pump(output, STDOUT, sender.clone(), ended.clone()));
    let (keys, mut typed) = mpsc::channel::<Bytes>(16);
    let feeding = tasks::spawn("stream", feed(events, None, Some((keys, resize))));
    let typing = tasks::spawn("stream", async move {
        while let Some(bytes) = typed.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let exit = execution.wait().await?;
    last_words(pumping, &ended).await;
    feeding.abort();
    typing.abort();
    Ok(exit)
}

/// Passes what the client sends on: input to a pipe or a terminal, sizes to the terminal.
async fn feed(mut events: Events, mut input: Option<pipe::Sender>, terminal: Option<(mpsc::Sender<Bytes>, OwnedFd)>) {
    while let Some(event) = events.recv().await {
        match (event, &terminal) {
            (Event::Data(STDIN, bytes), Some((keys, _))) => {
                let _ = keys.send(bytes).await;
            }
            (Event::Data(STDIN, bytes), None) => {
                if let Some(pipe) = &mut input
                    && pipe.write_all(&bytes).await.is_err()
                {
                    input = None;
                }
            }
            (Event::Data(RESIZE, bytes), Some((_, fd))) => {
                if let Some((width, height)) = size_of(&bytes) {
                    let _ = set_terminal_size(fd, width, height);
                }
            }
            (Event::End(STDIN), _) => input = None,
            _ => {}
        }
    }
}

fn size_of(message: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(message).ok()?;
    let number = |key: &str| size[key].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    Some((number("Width"), number("Height")))
}

/// Joins a client to a container's own process, until either ends.
///
/// # Errors
/// When the shim can't be reached, or goes away.
pub async fn run_attach(
    shim: &ShimClient,
    id: &str,
    wants: Wants,
    mut events: Events,
    sender: &Sender,
) -> Result<(), StreamError> {
    let (in_fd, mut input) = input_pipe()?;
    let (out_fd, out) = Output::pipe()?;
    let (err_fd, err) = Output::pipe()?;
    let attachment = shim.attach(id, wants.stdin, [in_fd, out_fd, err_fd]).await?;
    let ended = CancellationToken::new();
    let pump = |from, channel| tasks::spawn("stream", pump(from, channel, sender.clone(), ended.clone()));
    let pumps = [pump(out, STDOUT), pump(err, STDERR)];
    let (client, name) = (shim.clone(), id.to_string());
    let mut feeding = tasks::spawn("stream", async move {
        while let Some(event) = events.recv().await {
            match event {
                Event::Data(STDIN, bytes) if input.write_all(&bytes).await.is_err() => return,
                Event::Data(RESIZE, bytes) if wants.tty => {
                    if let Some((width, height)) = size_of(&bytes) {
                        let _ = client.resize(&name, width, height).await;
                    }
                }
                Event::End(STDIN) => {
                    // Closing our end is the end of input; the connection stays for the output.
                    drop(input);
                    while events.recv().await.is_some() {}
                    return;
                }
                _ => {}
            }
        }
    });
    let gone = tokio::select! {
        exit = attachment.wait() => exit.map(|_| ()).map_err(StreamError::from),
        _ = &mut feeding => Ok(()),
    };
    last_words(futures::future::join_all(pumps), &ended).await;
    feeding.abort();
    gone
}
/// Kills the process when its caller doesn't wait for it any more, as after a time-out.
struct KillOnDrop {
    execution: Execution,
    ended: bool,
}
impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if !self.ended {
            self.execution.kill();
        }
    }
}

/// Runs a process for its outcome: its exit code, and the beginning of what it said.
///
/// # Errors
/// When the shim can't start it, or goes away.
pub async fn run(shim: &ShimClient, id: &str, process: &Path) -> Result<(i32, String), StreamError> {
    let (writer, output) = Output::pipe()?;
    let errors = writer.try_clone()?;
    let stdio = [null()?, writer, errors];
    let started = shim.exec(id, process, Some(stdio)).await?;
    let mut guard = KillOnDrop { execution: started, ended: false };
    let ended = CancellationToken::new();
    let said = listen(output, &ended);
    // A process may close its output before its end.
    let (exit, said) = match futures::future::select(pin!(guard.execution.wait()), pin!(said)).await {
        Either::Left((exit, said)) => {
            ended.cancel();
            (exit, said.await)
        }
        Either::Right((said, exit)) => (exit.await, said),
    };
    let exit = exit?;
    guard.ended = true;
    Ok((exit.code, said))
}

/// The beginning of what a process says. All is read, so that it never waits for room in the pipe.
async fn listen(mut output: Output, ended: &CancellationToken) -> String {
    let mut said = Vec::new();
    while let Some(bytes) = output.next(ended).await {
        said.extend_from_slice(&bytes[..bytes.len().min(MAX_MESSAGE_BYTES - said.len())]);
    }
    String::from_utf8_lossy(&said).trim().to_string()
}
