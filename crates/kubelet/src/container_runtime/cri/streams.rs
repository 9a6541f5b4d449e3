//! Exec and attach: our client's channels joined to the streams of the runtime's own server, which speaks SPDY as kubelets of old did.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::container_runtime::StreamError;
use crate::streaming::spdy::{Stream, StreamOutput};
use crate::streaming::{ERROR, Event, RESIZE, STDIN, Sender, V4, Wants, spdy};

/// How long what is left of output may take after the runtime has sent the outcome.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Joins a client to what the runtime serves at `url`, until either ends; returns the outcome's status.
///
/// # Errors
/// When `url` can't be joined, serves no outcome or one that is no Status, or the client goes away.
pub async fn join(
    url: &str,
    wants: Wants,
    events: mpsc::Receiver<Event>,
    sender: &Sender,
) -> Result<Value, StreamError> {
    let failed = |source: io::Error| StreamError::Unreachable { url: url.into(), source };
    let connection = upgrade(url).await.map_err(failed)?;
    let (read, write) = tokio::io::split(connection);
    let (kinds, channels): (Vec<&str>, Vec<u8>) = wants.streams().unzip();
    let (streams, session) = spdy::open(read, write, &kinds).await.map_err(failed)?;
    let (mut outcome, mut inputs, mut pumps) = (None, Inputs::default(), Vec::new());
    for (stream, channel) in streams.into_iter().zip(channels) {
        match channel {
            ERROR => outcome = Some(stream),
            STDIN => inputs.stdin = Some(stream.output),
            RESIZE => inputs.resize = Some(stream.output),
            _ => pumps.push(tasks::spawn("stream", pump(stream, channel, sender.clone()))),
        }
    }
    let Some(mut outcome) = outcome else { return Err(StreamError::NoOutcome) };
    // Nothing goes that way; some runtimes wait for its end.
    outcome.output.end().await;
    let status = match select(pin!(collect(&mut outcome)), pin!(inputs.feed(events))).await {
        Either::Left((status, _)) => Some(status),
        // The client is gone.
        Either::Right(_) => None,
    };
    if status.is_some() {
        let _ = tokio::time::timeout(OUTPUT_DRAIN_TIMEOUT, futures::future::join_all(pumps)).await;
    }
    session.abort();
    match status {
        Some(text) if text.is_empty() => Ok(json!({"metadata": {}, "status": "Success"})),
        Some(text) => {
            serde_json::from_slice(&text).map_err(|_| StreamError::Refused(String::from_utf8_lossy(&text).into_owned()))
        }
        None => Err(StreamError::ClientGone),
    }
}

async fn collect(stream: &mut Stream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = stream.input.recv().await {
        all.extend_from_slice(&data);
    }
    all
}

async fn pump(mut from: Stream, channel: u8, to: Sender) {
    while let Some(data) = from.input.recv().await {
        if !to.send(channel, &data).await {
            return;
        }
    }
}

/// What goes to the container.
#[derive(Default)]
struct Inputs {
    stdin: Option<StreamOutput>,
    resize: Option<StreamOutput>,
}

impl Inputs {
    /// Passes on what the client sends, until it is gone.
    async fn feed(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Data(STDIN, bytes) => {
                    if let Some(stdin) = &self.stdin
                        && stdin.send(&bytes).await.is_err()
                    {
                        self.stdin = None;
                    }
                }
                Event::Data(RESIZE, bytes) => {
                    if let Some(resize) = &self.resize {
                        let _ = resize.send(&bytes).await;
                    }
                }
                Event::End(STDIN) => {
                    if let Some(stdin) = self.stdin.take() {
                        stdin.end().await;
                    }
                }
                _ => {}
            }
        }
    }
}

/// Connects, and changes to SPDY.
async fn upgrade(url: &str) -> io::Result<TokioIo<Upgraded>> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let (host, port) = (uri.host().unwrap_or(""), uri.port_u16().unwrap_or(80));
    if uri.scheme_str() != Some("http") {
        return Err(io::Error::other("only http is spoken here: turn TLS off for the runtime's streaming server"));
    }
    let authority = format!("{host}:{port}");
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tasks::spawn("stream", connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("x-stream-protocol-version", V4)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = client.send_request(request).await.map_err(io::Error::other)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(io::Error::other(format!("it answers {}", response.status())));
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(io::Error::other)?))
}
