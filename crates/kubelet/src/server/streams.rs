//! Exec and attach over WebSocket, with the subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Every message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final status, 4 terminal size, and in v5
//! 255, which closes a channel (KEP-4006).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use runtime::ShimClient;
use runtime::client::set_terminal_size;
use runtime::protocol::Exit;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::{Body, exec_process, flag, query, text};
use crate::manager::Manager;
use crate::sandbox::Places;
use crate::worker::Phase;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers a WebSocket handshake (RFC 6455) and hands the connection over to `work`.
pub fn upgrade<F>(mut request: Request<Incoming>, protocols: &[&'static str], work: impl FnOnce(Socket, &'static str) -> F + Send + 'static) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let get = |name: header::HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_string();
    if !get(header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return text(StatusCode::BAD_REQUEST, "this version of timonel streams over WebSocket only; use kubectl 1.31 or newer");
    }
    let offered = get(header::SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    let Some(protocol) = protocols.iter().find(|p| offered.contains(*p)).copied() else {
        return text(StatusCode::FORBIDDEN, format!("none of the subprotocols {offered:?} is served; those are: {protocols:?}"));
    };
    let key = get(header::SEC_WEBSOCKET_KEY);
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
                work(socket, protocol).await;
            }
            Err(error) => tracing::debug!(%error, "a stream could not be upgraded"),
        }
    });
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// The shim, the id of a running container, and its places.
fn running(manager: &Manager, namespace: &str, pod: &str, container: &str) -> Result<(ShimClient, String, Places, bool), String> {
    let (object, places, saved) = manager.find(namespace, pod).ok_or_else(|| format!("pod {pod:?} isn't on this node"))?;
    let run = saved.containers.get(container).filter(|r| matches!(r.phase, Phase::Running { .. }));
    let run = run.ok_or_else(|| format!("container not found (\"{container}\"): it isn't running"))?;
    let spec = object.spec.as_ref();
    let tty = spec.and_then(|s| s.containers.iter().find(|c| c.name == container)).and_then(|c| c.tty).unwrap_or(false);
    Ok((manager.shim(&places), run.id.clone(), places, tty))
}

pub async fn exec(manager: &Arc<Manager>, namespace: &str, pod: &str, container: &str, request: Request<Incoming>) -> Response<Body> {
    let query = query(&request);
    let command: Vec<String> = query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least one command for the container");
    }
    let (shim, id, places, _) = match running(manager, namespace, pod, container) {
        Ok(found) => found,
        Err(error) => return text(StatusCode::NOT_FOUND, error),
    };
    let wants = Wants { stdin: flag(&query, "stdin"), stdout: flag(&query, "stdout"), stderr: flag(&query, "stderr"), tty: flag(&query, "tty") };
    upgrade(request, PROTOCOLS, move |socket, _| async move {
        let (sink, source) = socket.split();
        let result = run_exec(&shim, &id, &places, &command, wants, source, Sender::start(sink)).await;
        if let Err((error, sender)) = result {
            sender.finish(&failure(&error)).await;
        }
    })
}

#[derive(Debug, Clone, Copy)]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Messages to the client, from several tasks.
#[derive(Clone)]
struct Sender {
    queue: mpsc::Sender<Message>,
}

impl Sender {
    fn start(mut sink: SplitSink<Socket, Message>) -> Self {
        let (queue, mut messages) = mpsc::channel::<Message>(16);
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
        Sender { queue }
    }

    async fn send(&self, channel: u8, data: &[u8]) -> bool {
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        self.queue.send(Message::Binary(message.into())).await.is_ok()
    }

    /// The last message: how it went. The connection is closed after it.
    async fn finish(self, status: &Value) {
        self.send(ERROR, status.to_string().as_bytes()).await;
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.queue.send(Message::Close(Some(normal))).await;
    }
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

/// A pipe: the end for the process, and ours.
fn output_pipe() -> std::io::Result<(OwnedFd, pipe::Receiver)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((writer.into(), pipe::Receiver::from_owned_fd(reader.into())?))
}

fn input_pipe() -> std::io::Result<(OwnedFd, pipe::Sender)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((reader.into(), pipe::Sender::from_owned_fd(writer.into())?))
}

fn null() -> std::io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Sends what a stream yields to a channel, to its end.
async fn pump(mut from: pipe::Receiver, channel: u8, to: Sender) {
    let mut buffer = vec![0u8; 32 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if !to.send(channel, &buffer[..n]).await {
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
    source: SplitStream<Socket>,
    sender: Sender,
) -> Result<(), (String, Sender)> {
    let process = match exec_process(&places.container(id).join("process.json"), command, wants.tty) {
        Ok(process) => process,
        Err(error) => return Err((error.to_string(), sender)),
    };
    let result = if wants.tty {
        exec_terminal(shim, id, process.path(), source, &sender).await
    } else {
        exec_pipes(shim, id, process.path(), wants, source, &sender).await
    };
    match result {
        Ok(exit) => {
            sender.finish(&outcome(&exit)).await;
            Ok(())
        }
        Err(error) => Err((error, sender)),
    }
}

async fn exec_pipes(
    shim: &ShimClient,
    id: &str,
    process: &std::path::Path,
    wants: Wants,
    source: SplitStream<Socket>,
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
        let (fd, reader) = output_pipe().map_err(io)?;
        pumps.push((reader, channel));
        Ok(fd)
    };
    let stdio = [stdin, output(wants.stdout, STDOUT)?, output(wants.stderr, STDERR)?];
    let execution = shim.exec(id, process, Some(stdio)).await.map_err(|e| e.to_string())?;
    let pumps: Vec<_> = pumps.into_iter().map(|(reader, channel)| tokio::spawn(pump(reader, channel, sender.clone()))).collect();
    let feeding = tokio::spawn(feed(source, input, None));
    let exit = execution.wait().await.map_err(|e| e.to_string())?;
    // What the process wrote comes before its end. Children of it may hold the pipes for longer than anybody waits.
    let _ = tokio::time::timeout(std::time::Duration::from_millis(500), futures::future::join_all(pumps)).await;
    feeding.abort();
    Ok(exit)
}

async fn exec_terminal(
    shim: &ShimClient,
    id: &str,
    process: &std::path::Path,
    source: SplitStream<Socket>,
    sender: &Sender,
) -> Result<Exit, String> {
    let execution = shim.exec(id, process, None).await.map_err(|e| e.to_string())?;
    let terminal = execution.terminal.as_ref().ok_or("no terminal came")?;
    let io = |e: &dyn std::fmt::Display| e.to_string();
    let file = || -> Result<tokio::fs::File, String> {
        let fd = terminal.try_clone().map_err(|e| io(&e))?;
        Ok(tokio::fs::File::from_std(fd.into()))
    };
    let (mut reader, mut writer, resize) = (file()?, file()?, terminal.try_clone().map_err(|e| io(&e))?);
    let to = sender.clone();
    let pumping = tokio::spawn(async move {
        let mut buffer = vec![0u8; 32 << 10];
        while let Ok(n @ 1..) = reader.read(&mut buffer).await {
            if !to.send(STDOUT, &buffer[..n]).await {
                return;
            }
        }
    });
    let (keys, mut typed) = mpsc::channel::<Bytes>(16);
    let feeding = tokio::spawn(feed(source, None, Some((keys, resize))));
    let typing = tokio::spawn(async move {
        while let Some(bytes) = typed.recv().await {
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    let exit = execution.wait().await.map_err(|e| e.to_string())?;
    let _ = tokio::time::timeout(std::time::Duration::from_millis(500), pumping).await;
    feeding.abort();
    typing.abort();
    Ok(exit)
}

/// Passes the client's messages on: input to a pipe or a terminal, sizes to the terminal.
async fn feed(mut source: SplitStream<Socket>, mut input: Option<pipe::Sender>, terminal: Option<(mpsc::Sender<Bytes>, OwnedFd)>) {
    while let Some(Ok(message)) = source.next().await {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text.as_bytes().to_vec()),
            Message::Close(_) => break,
            _ => continue,
        };
        match data.split_first() {
            Some((&STDIN, bytes)) => {
                if let Some(pipe) = &mut input
                    && pipe.write_all(bytes).await.is_err()
                {
                    input = None;
                }
                if let Some((keys, _)) = &terminal {
                    let _ = keys.send(Bytes::copy_from_slice(bytes)).await;
                }
            }
            Some((&RESIZE, bytes)) => {
                if let (Some((_, fd)), Ok(size)) = (&terminal, serde_json::from_slice::<Value>(bytes)) {
                    let (width, height) = size_of(&size);
                    let _ = set_terminal_size(fd, width, height);
                }
            }
            // End of input.
            Some((&CLOSE, [STDIN])) => input = None,
            _ => {}
        }
    }
}

fn size_of(size: &Value) -> (u16, u16) {
    let number = |key: &str| size[key].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    (number("Width"), number("Height"))
}

pub async fn attach(manager: &Arc<Manager>, namespace: &str, pod: &str, container: &str, request: Request<Incoming>) -> Response<Body> {
    let query = query(&request);
    let (shim, id, _, tty) = match running(manager, namespace, pod, container) {
        Ok(found) => found,
        Err(error) => return text(StatusCode::NOT_FOUND, error),
    };
    let stdin = flag(&query, "stdin");
    upgrade(request, PROTOCOLS, move |socket, _| async move {
        let (sink, source) = socket.split();
        let sender = Sender::start(sink);
        match run_attach(&shim, &id, stdin, tty, source, &sender).await {
            Ok(()) => sender.finish(&json!({"metadata": {}, "status": "Success"})).await,
            Err(error) => sender.finish(&failure(&error)).await,
        }
    })
}

async fn run_attach(shim: &ShimClient, id: &str, stdin: bool, tty: bool, mut source: SplitStream<Socket>, sender: &Sender) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let (in_fd, mut input) = input_pipe().map_err(io)?;
    let (out_fd, out) = output_pipe().map_err(io)?;
    let (err_fd, err) = output_pipe().map_err(io)?;
    let attachment = shim.attach(id, stdin, [in_fd, out_fd, err_fd]).await.map_err(|e| e.to_string())?;
    let pumps = [tokio::spawn(pump(out, STDOUT, sender.clone())), tokio::spawn(pump(err, STDERR, sender.clone()))];
    let (client, name) = (shim.clone(), id.to_string());
    let mut feeding = tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(data) = message else { continue };
            match data.split_first() {
                Some((&STDIN, bytes)) => {
                    if input.write_all(bytes).await.is_err() {
                        return;
                    }
                }
                Some((&RESIZE, bytes)) if tty => {
                    if let Ok(size) = serde_json::from_slice::<Value>(bytes) {
                        let (width, height) = size_of(&size);
                        let _ = client.resize(&name, width, height).await;
                    }
                }
                Some((&CLOSE, [STDIN])) => {
                    // Closing our end is the end of input; the connection stays for the output.
                    drop(input);
                    while source.next().await.is_some_and(|m| m.is_ok()) {}
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
    let _ = tokio::time::timeout(std::time::Duration::from_millis(500), futures::future::join_all(pumps)).await;
    feeding.abort();
    gone
}
