//! Exec and attach from the client's side: the upgrade to WebSocket or SPDY, and the channels on top ([`crate::streaming`]).

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
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Body, refused};
use crate::streaming::dialect::Dialect;
use crate::streaming::{ERROR, Event, STDERR, STDOUT, Sender, V4, Wants, spdy};

/// WebSocket's subprotocols, as upstream has them; a client that names none speaks as the oldest do.
const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", V4, BASE64_V4, "channel.k8s.io", "base64.channel.k8s.io", ""];
const BASE64_V4: &str = "v4.base64.channel.k8s.io";
/// The largest message that is taken, in bytes. Each may be of several frames.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Messages that wait to be taken.
const MAX_QUEUED_MESSAGES: usize = 4;
/// How long an SPDY client may take to open its streams, as upstream has it.
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The server's side of a WebSocket.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

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
    upgrade_websocket(request, PROTOCOLS, move |socket, protocol| async move {
        let dialect = Dialect::of(protocol);
        let (mut sink, mut source) = socket.split();
        let (queue, mut outgoing) = mpsc::channel::<Message>(16);
        tasks::spawn("stream", async move {
            while let Some(message) = outgoing.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
        let (events, incoming) = mpsc::channel(MAX_QUEUED_MESSAGES);
        tasks::spawn("stream", async move {
            while let Some(Ok(message)) = source.next().await {
                let data: Bytes = match message {
                    Message::Binary(data) => data,
                    Message::Text(text) => text.into(),
                    Message::Close(_) => return,
                    _ => continue,
                };
                let Some(event) = dialect.read(&data) else { continue };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
        let sender = Sender::WebSocket(queue, dialect);
        // A message without content says that the connection stands, as upstream does: some clients wait for it.
        let first = [(wants.stdout, STDOUT), (wants.stderr, STDERR)].into_iter().find(|(wanted, _)| *wanted);
        sender.send(first.map_or(ERROR, |(_, channel)| channel), &[]).await;
        work(incoming, sender).await;
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
        let session = tasks::spawn("stream", async move {
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
                tasks::spawn("stream", async move {
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
        let complete = tokio::time::timeout(STREAM_CREATION_TIMEOUT, all).await.unwrap_or(false);
        drop(events);
        if complete {
            work(incoming, Sender::Spdy(Arc::new(outputs))).await;
            // The client hangs up once it has read the status; one that doesn't isn't waited for.
            let _ = tokio::time::timeout(STREAM_CREATION_TIMEOUT, session).await;
        } else {
            tracing::debug!("a client didn't open the streams of its exec or attach request in time");
            session.abort();
        }
    })
}

/// Whether a client asks for a WebSocket.
pub fn wants_websocket(request: &Request<Incoming>) -> bool {
    get(request, header::UPGRADE).eq_ignore_ascii_case("websocket")
}

/// The subprotocol for a client: the first of its own that is served; none (`""`) if it names none, where that is served.
fn agreed<'a>(offered: &str, served: &[&'a str]) -> Option<&'a str> {
    let mut offered = offered.split(',').map(str::trim);
    offered.find_map(|wanted| served.iter().find(|p| **p == wanted)).copied()
}

/// Answers a WebSocket handshake (RFC 6455) and hands the connection and its subprotocol over to `work`.
pub fn upgrade_websocket<F>(
    mut request: Request<Incoming>,
    protocols: &[&'static str],
    work: impl FnOnce(Socket, &'static str) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    if !wants_websocket(&request) {
        return refused(StatusCode::BAD_REQUEST, "this is a stream: ask for an upgrade to websocket or to SPDY/3.1");
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = offered.filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    let Some(protocol) = agreed(&offered, protocols) else {
        return refused(
            StatusCode::FORBIDDEN,
            format!("none of the subprotocols {offered:?} is served; those are: {protocols:?}"),
        );
    };
    let key = get(&request, header::SEC_WEBSOCKET_KEY);
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tasks::spawn("stream", async move {
        let bounds = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        match upgraded.await {
            Ok(io) => {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(bounds)).await;
                work(socket, protocol).await;
            }
            Err(error) => tracing::debug!(%error, "failed to upgrade a connection to a stream"),
        }
    });
    let mut response = switching("websocket");
    if !protocol.is_empty() {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
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
    tasks::spawn("stream", async move {
        match upgraded.await {
            Ok(io) => work(TokioIo::new(io)).await,
            Err(error) => tracing::debug!(%error, "failed to upgrade a connection to a stream"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_choose_among_what_is_served() {
        for (offered, want) in [
            ("v5.channel.k8s.io", Some("v5.channel.k8s.io")),
            ("v9.channel.k8s.io, v4.channel.k8s.io", Some(V4)),
            ("channel.k8s.io", Some("channel.k8s.io")),
            ("base64.channel.k8s.io,v4.channel.k8s.io", Some("base64.channel.k8s.io")),
            ("", Some("")),
            ("chat", None),
        ] {
            assert_eq!(agreed(offered, PROTOCOLS), want, "{offered:?}");
        }
        assert_eq!(agreed("", &["SPDY/3.1+portforward.k8s.io"]), None);
    }
}
