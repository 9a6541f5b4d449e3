//! Exec and attach: processes in a container, joined to the channels of a client.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use runtime::ShimClient;
use runtime::client::set_terminal_size;
use runtime::protocol::Exit;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channels::{Event, RESIZE, STDERR, STDIN, STDOUT, Sender, Wants, open};
use super::{Body, exec_process, flag, query, text};
use crate::manager::Manager;
use crate::output::{Output, last_words};
use crate::sandbox::Places;
use crate::worker::Phase;

type Events = mpsc::Receiver<Event>;

/// The shim, the id of a running container, and its places.
fn running(
    manager: &Manager,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(ShimClient, String, Places, bool), String> {
    let (object, places, saved) =
        manager.find(namespace, pod).ok_or_else(|| format!("pod {pod:?} isn't on this node"))?;
    let run = saved.containers.get(container).filter(|r| matches!(r.phase, Phase::Running { .. }));
    let run = run.ok_or_else(|| format!("container not found (\"{container}\"): it isn't running"))?;
    let spec = object.spec.as_ref();
    let tty = spec.and_then(|s| s.containers.iter().find(|c| c.name == container)).and_then(|c| c.tty).unwrap_or(false);
    Ok((manager.shim(&places), run.id.clone(), places, tty))
}

pub async fn exec(
    manager: &Arc<Manager>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let query = query(&request);
    let command: Vec<String> = query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least one command for the container");
    }
    let (shim, id, places, _) = match running(manager, namespace, pod, container) {
        Ok(found) => found,
        Err(error) => return text(StatusCode::NOT_FOUND, error),
    };
    open(request, wants(&query), move |events, sender| async move {
        let result = run_exec(&shim, &id, &places, &command, wants(&query), events, &sender).await;
        sender.finish(&result.map_or_else(|e| failure(&e), |exit| outcome(&exit))).await;
    })
}

fn wants(query: &[(String, String)]) -> Wants {
    let flag = |name| flag(query, name);
    Wants { stdin: flag("stdin"), stdout: flag("stdout"), stderr: flag("stderr"), tty: flag("tty") }
}

fn failure(error: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "message": error, "reason": "InternalError", "code": 500})
}

/// The status that clients turn into an exit code.
fn outcome(exit: &Exit) -> Value {
    if exit.code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
           "message": format!("command terminated with non-zero exit code: exit status {}", exit.code),
           "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]}})
}

fn input_pipe() -> std::io::Result<(OwnedFd, pipe::Sender)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((reader.into(), pipe::Sender::from_owned_fd(writer.into())?))
}

fn null() -> std::io::Result<OwnedFd> {
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

async fn run_exec(
    shim: &ShimClient,
    id: &str,
    places: &Places,
    command: &[String],
    wants: Wants,
    events: Events,
    sender: &Sender,
) -> Result<Exit, String> {
    let process =
        exec_process(&places.container(id).join("process.json"), command, wants.tty).map_err(|e| e.to_string())?;
    if wants.tty {
        exec_terminal(shim, id, process.path(), events, sender).await
    } else {
        exec_pipes(shim, id, process.path(), wants, events, sender).await
    }
}

async fn exec_pipes(
    shim: &ShimClient,
    id: &str,
    process: &std::path::Path,
    wants: Wants,
    events: Events,
    sender: &Sender,
) -> Result<Exit, String> {
    let io = |e: std::io::Error| e.to_string();
    let (stdin, input) = if wants.stdin {
        let (fd, input) = input_pipe().map_err(io)?;
        (fd, Some(input))
    } else {
        (null().map_err(io)?, None)
    };
    let mut pumps = Vec::new();
    let mut output = |wanted: bool, channel: u8| -> Result<OwnedFd, String> {
        if !wanted {
            return null().map_err(io);
        }
        let (fd, reader) = Output::pipe().map_err(io)?;
        pumps.push((reader, channel));
        Ok(fd)
    };
    let stdio = [stdin, output(wants.stdout, STDOUT)?, output(wants.stderr, STDERR)?];
    let execution = shim.exec(id, process, Some(stdio)).await.map_err(|e| e.to_string())?;
    let ended = CancellationToken::new();
    let pumps = pumps.into_iter().map(|(out, channel)| tokio::spawn(pump(out, channel, sender.clone(), ended.clone())));
    let pumps: Vec<_> = pumps.collect();
    let feeding = tokio::spawn(feed(events, input, None));
    let exit = execution.wait().await.map_err(|e| e.to_string())?;
    last_words(futures::future::join_all(pumps), &ended).await;
    feeding.abort();
    Ok(exit)
}

async fn exec_terminal(
    shim: &ShimClient,
    id: &str,
    process: &std::path::Path,
    events: Events,
    sender: &Sender,
) -> Result<Exit, String> {
    let execution = shim.exec(id, process, None).await.map_err(|e| e.to_string())?;
    let terminal = execution.terminal.as_ref().ok_or("no terminal came")?;
    let io = |e: std::io::Error| e.to_string();
    let (output, mut writer) = Output::terminal(terminal).map_err(io)?;
    let resize = terminal.try_clone().map_err(io)?;
    let ended = CancellationToken::new();
    let pumping = tokio::spawn(pump(output, STDOUT, sender.clone(), ended.clone()));
    let (keys, mut typed) = mpsc::channel::<Bytes>(16);
    let feeding = tokio::spawn(feed(events, None, Some((keys, resize))));
    let typing = tokio::spawn(async move {
        while let Some(bytes) = typed.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let exit = execution.wait().await.map_err(|e| e.to_string())?;
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

pub async fn attach(
    manager: &Arc<Manager>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let query = query(&request);
    let (shim, id, _, tty) = match running(manager, namespace, pod, container) {
        Ok(found) => found,
        Err(error) => return text(StatusCode::NOT_FOUND, error),
    };
    // What the container has counts, not what the client believes.
    let wants = Wants { tty, ..wants(&query) };
    open(request, wants, move |events, sender| async move {
        match run_attach(&shim, &id, wants, events, &sender).await {
            Ok(()) => sender.finish(&json!({"metadata": {}, "status": "Success"})).await,
            Err(error) => sender.finish(&failure(&error)).await,
        }
    })
}

async fn run_attach(
    shim: &ShimClient,
    id: &str,
    wants: Wants,
    mut events: Events,
    sender: &Sender,
) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let (in_fd, mut input) = input_pipe().map_err(io)?;
    let (out_fd, out) = Output::pipe().map_err(io)?;
    let (err_fd, err) = Output::pipe().map_err(io)?;
    let attachment = shim.attach(id, wants.stdin, [in_fd, out_fd, err_fd]).await.map_err(|e| e.to_string())?;
    let ended = CancellationToken::new();
    let pump = |from, channel| tokio::spawn(pump(from, channel, sender.clone(), ended.clone()));
    let pumps = [pump(out, STDOUT), pump(err, STDERR)];
    let (client, name) = (shim.clone(), id.to_string());
    let mut feeding = tokio::spawn(async move {
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
        exit = attachment.wait() => exit.map(|_| ()).map_err(|e| e.to_string()),
        _ = &mut feeding => Ok(()),
    };
    last_words(futures::future::join_all(pumps), &ended).await;
    feeding.abort();
    gone
}
