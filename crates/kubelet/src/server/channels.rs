//! What exec and attach speak with their client: numbered channels of bytes in both directions.
//!
//! Two carriers: WebSocket, where every message begins with its channel (KEP-4006, `v5.channel.k8s.io` and
//! `v4.channel.k8s.io`), and SPDY/3.1, where each channel is a stream that the client opens (clients before 1.31).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::spdy::{self, StreamOutput};
use super::{Body, refused};

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
/// Carries the final status.
pub const ERROR: u8 = 3;
/// Carries the terminal's sizes.
pub const RESIZE: u8 = 4;
/// In a WebSocket of v5: the next byte is a channel that ends.
const CLOSE: u8 = 255;

/// The one that both carriers have; v5 is WebSocket's own.
pub const V4: &str = "v4.channel.k8s.io";
const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", V4];
/// How long an SPDY client may take to open its streams, as upstream has it.
const PATIENCE: Duration = Duration::from_secs(30);

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Something from the client.
#[derive(Debug)]
pub enum Event {
    Data(u8, Bytes),
    /// The channel ends; the connection stays.
    End(u8),
}

/// Which channels the client asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wants {
    fn channel(self, stream_type: &str) -> Option<u8> {
        match stream_type {
            "error" => Some(ERROR),
            "stdin" if self.stdin => Some(STDIN),
            "stdout" if self.stdout => Some(STDOUT),
            // A terminal has one output.
            "stderr" if self.stderr && !self.tty => Some(STDERR),
            "resize" if self.tty => Some(RESIZE),
            _ => None,
        }
    }

    /// The streams of SPDY that there are, each with its channel, in the order in which clients open them.
    pub fn streams(self) -> impl Iterator<Item = (&'static str, u8)> {
        let all = ["error", "stdin", "stdout", "stderr", "resize"].into_iter();
        all.filter_map(move |kind| Some((kind, self.channel(kind)?)))
    }
}

/// Sends to the client, from several tasks.
#[derive(Clone)]
pub enum Sender {
    WebSocket(mpsc::Sender<Message>),
    Spdy(Arc<HashMap<u8, StreamOutput>>),
}

impl Sender {
    /// False when the client is gone.
    pub async fn send(&self, channel: u8, data: &[u8]) -> bool {
        match self {
            Sender::WebSocket(queue) => {
                let mut message = Vec::with_capacity(data.len() + 1);
                message.push(channel);
                message.extend_from_slice(data);
                queue.send(Message::Binary(message.into())).await.is_ok()
            }
            Sender::Spdy(streams) => match streams.get(&channel) {
                Some(stream) => stream.send(data).await.is_ok(),
                None => true,
            },
        }
    }

    /// The last message: how it went. The connection ends after it.
    pub async fn finish(self, status: &Value) {
        self.send(ERROR, status.to_string().as_bytes()).await;
        match self {
            Sender::WebSocket(queue) => {
                let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let _ = queue.send(Message::Close(Some(normal))).await;
            }
            Sender::Spdy(streams) => {
                for stream in streams.values() {
                    stream.end().await;
                }
            }
        }
    }
}

fn get(request: &Request<Incoming>, name: impl header::AsHeaderName) -> String {
    request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_string()
}

/// Agrees on a carrier with the client, and hands the channels over to `work` once they are open.
pub fn open<F>(
    request: Request<Incoming>,
    wants: Wants,
    work: impl FnOnce(mpsc::Receiver<Event>, Sender) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    if get(&request, header::UPGRADE).eq_ignore_ascii_case("spdy/3.1") {
        return open_spdy(request, wants, work);
    }
    upgrade_websocket(request, PROTOCOLS, move |socket| async move {
        let (mut sink, mut source) = socket.split();
        let (queue, mut outgoing) = mpsc::channel::<Message>(16);
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
        let (events, incoming) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(message)) = source.next().await {
                let data: Bytes = match message {
                    Message::Binary(data) => data,
                    Message::Text(text) => Bytes::from(text.as_bytes().to_vec()),
                    Message::Close(_) => return,
                    _ => continue,
                };
                let event = match data.split_first() {
                    Some((&CLOSE, [channel])) => Event::End(*channel),
                    Some((&channel, _)) => Event::Data(channel, data.slice(1..)),
                    None => continue,
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
        work(incoming, Sender::WebSocket(queue)).await;
    })
}

fn open_spdy<F>(
    request: Request<Incoming>,
    wants: Wants,
    work: impl FnOnce(mpsc::Receiver<Event>, Sender) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let offered = request.headers().get_all("x-stream-protocol-version").iter().filter_map(|v| v.to_str().ok());
    if !offered.flat_map(|v| v.split(',')).any(|v| v.trim() == V4) {
        return refused(StatusCode::FORBIDDEN, format!("over SPDY, only the protocol {V4} is served"));
    }
    upgrade_spdy(request, V4, move |io| async move {
        let (read, write) = tokio::io::split(io);
        let (opened, mut opening) = mpsc::channel(8);
        let (events, incoming) = mpsc::channel(16);
        // Streams may end one by one; the client is gone when the session is.
        let present = events.clone();
        let session = tokio::spawn(async move {
            let result = spdy::serve(read, write, move |stream| {
                let _ = opened.try_send(stream);
            });
            let _ = result.await;
            drop(present);
        });
        let mut outputs = HashMap::new();
        let all = async {
            while outputs.len() < wants.streams().count() {
                let Some(mut stream) = opening.recv().await else { return false };
                let kind = stream.headers.get("streamtype").cloned().unwrap_or_default();
                let Some(channel) = wants.channel(&kind) else { continue };
                outputs.insert(channel, stream.output);
                let events = events.clone();
                tokio::spawn(async move {
                    while let Some(data) = stream.input.recv().await {
                        if events.send(Event::Data(channel, data)).await.is_err() {
                            return;
                        }
                    }
                    let _ = events.send(Event::End(channel)).await;
                });
            }
            true
        };
        let complete = tokio::time::timeout(PATIENCE, all).await.unwrap_or(false);
        drop(events);
        if complete {
            work(incoming, Sender::Spdy(Arc::new(outputs))).await;
            // The client hangs up once it has read the status; one that doesn't isn't waited for.
            let _ = tokio::time::timeout(PATIENCE, session).await;
        } else {
            tracing::debug!("a client didn't open its streams");
            session.abort();
        }
    })
}

/// Answers a WebSocket handshake (RFC 6455) and hands the connection over to `work`.
pub fn upgrade_websocket<F>(
    mut request: Request<Incoming>,
    protocols: &[&'static str],
    work: impl FnOnce(Socket) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    if !get(&request, header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return refused(StatusCode::BAD_REQUEST, "this is a stream: ask for an upgrade to websocket or to SPDY/3.1");
    }
    let offered = get(&request, header::SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    let Some(protocol) = protocols.iter().find(|p| offered.contains(*p)).copied() else {
        return refused(
            StatusCode::FORBIDDEN,
            format!("none of the subprotocols {offered:?} is served; those are: {protocols:?}"),
        );
    };
    let key = get(&request, header::SEC_WEBSOCKET_KEY);
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => work(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await).await,
            Err(error) => tracing::debug!(%error, "a stream could not be upgraded"),
        }
    });
    let mut response = switching("websocket");
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Answers an upgrade to SPDY with the protocol on top of it, and hands the connection over to `work`.
pub fn upgrade_spdy<F>(
    mut request: Request<Incoming>,
    protocol: &'static str,
    work: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => work(TokioIo::new(io)).await,
            Err(error) => tracing::debug!(%error, "a stream could not be upgraded"),
        }
    });
    let mut response = switching("SPDY/3.1");
    response.headers_mut().insert("x-stream-protocol-version", HeaderValue::from_static(protocol));
    response
}

fn switching(to: &'static str) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(to));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response
}
