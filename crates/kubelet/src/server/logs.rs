//! Logs: files in CRI format, read from the end that is asked for, and followed by inotify.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::pod_logs::LogOptions;
use apimachinery::clock;
use base64::Engine as _;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use runtime::files::Follower;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::channels::{Socket, upgrade_websocket, wants_websocket};
use super::{Body, Server, query, text};
use crate::logs::{LAST_LINES_TIMEOUT, LineFilter, Lines};
use crate::state::{ContainerRecord, ContainerState, PodDirs};

#[derive(Debug)]
struct Options {
    follow: bool,
    tail: Option<usize>,
    wanted: LineFilter,
}

impl Options {
    fn of(asked: &LogOptions) -> Self {
        let ago = |seconds: i64| clock::moved(Timestamp::now(), SignedDuration::from_secs(seconds).saturating_mul(-1));
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Options {
            follow: asked.follow,
            tail: asked.tail_lines.map(size),
            wanted: LineFilter {
                timestamps: asked.timestamps,
                since: asked.since_seconds.map(ago).or(asked.since_time),
                left: asked.limit_bytes.map(size),
            },
        }
    }
}

/// WebSocket's subprotocols for what is only read, as upstream has them.
const PROTOCOLS: &[&str] = &["binary.k8s.io", BASE64, ""];
const BASE64: &str = "base64.binary.k8s.io";

/// Serves the log of a container.
pub async fn serve(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let asked = match LogOptions::read(pod, &query(&request)) {
        Ok(asked) => asked,
        Err(status) => {
            let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::BAD_REQUEST);
            return text(code, status.message);
        }
    };
    let Some((_, dirs, saved)) = server.pods.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} isn't on this node"));
    };
    let Some(run) = saved.containers.get(container) else {
        let reason = "ContainerCreating".into();
        let error = NoLog::Waiting { container: container.into(), pod: pod.into(), reason };
        return text(StatusCode::BAD_REQUEST, error.to_string());
    };
    let path = match log_of(&dirs, run, asked.previous, container, pod) {
        Ok(path) => path,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    // Before reading begins, so that what is written afterwards is noticed.
    let news =
        match asked.follow.then(|| server.log_changes.follow(path.parent().unwrap_or(Path::new("/")))).transpose() {
            Ok(news) => news,
            Err(error) => {
                let message = format!("the log of container {container:?} in pod {pod:?} can't be followed: {error}");
                return text(StatusCode::INTERNAL_SERVER_ERROR, message);
            }
        };
    let (sender, receiver) = mpsc::channel(4);
    let (server, id) = (server.clone(), run.id.clone());
    let key = (namespace.to_string(), pod.to_string(), container.to_string());
    let still_runs = move || {
        let found = server.pods.find(&key.0, &key.1);
        let run = found.and_then(|(_, _, saved)| saved.containers.get(&key.2).cloned());
        run.is_some_and(|r| r.id == id && matches!(r.phase, ContainerState::Running { .. } | ContainerState::Waiting))
    };
    tasks::spawn("log-reader", async move {
        if let Err(error) = copy(&path, Options::of(&asked), &sender, news, still_runs).await {
            tracing::debug!(%error, "failed to read a container log");
        }
    });
    if wants_websocket(&request) {
        return upgrade_websocket(request, PROTOCOLS, |socket, protocol| send(socket, protocol == BASE64, receiver));
    }
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        let bytes: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

/// Why there is no log of a container.
#[derive(Debug, thiserror::Error)]
enum NoLog {
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    Previous { container: String, pod: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting { container: String, pod: String, reason: String },
}

/// The log of a container's current run or of the one before.
fn log_of(dirs: &PodDirs, run: &ContainerRecord, previous: bool, container: &str, pod: &str) -> Result<PathBuf, NoLog> {
    let attempt = if previous { run.attempt.saturating_sub(1) } else { run.attempt };
    let path = dirs.log(container, attempt);
    // While a file is rotated, the next one may not be there yet.
    if attempt >= 0 && runtime::log_files(&path).any(|file| file.exists()) {
        return Ok(path);
    }
    let (container, pod) = (container.into(), pod.into());
    Err(if attempt < run.attempt {
        NoLog::Previous { container, pod }
    } else {
        NoLog::Waiting { container, pod, reason: waiting(run) }
    })
}

/// Sends a log by a WebSocket. The first message has no content: it says that the connection stands, as upstream does.
async fn send(mut socket: Socket, base64: bool, mut lines: mpsc::Receiver<Bytes>) {
    let message = |data: Bytes| match base64 {
        true => Message::Text(base64::engine::general_purpose::STANDARD.encode(&data).into()),
        false => Message::Binary(data),
    };
    let mut next = Bytes::new();
    loop {
        if socket.send(message(next)).await.is_err() {
            return;
        }
        next = tokio::select! {
            lines = lines.recv() => match lines {
                Some(lines) => lines,
                None => break,
            },
            // A client has nothing to say but that it goes.
            () = gone(&mut socket) => return,
        };
    }
    let _ = socket.close(None).await;
}

/// Returns when the client is gone.
async fn gone(socket: &mut Socket) {
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() {
            return;
        }
    }
}

fn waiting(run: &ContainerRecord) -> String {
    let waiting = run.waiting.as_ref();
    waiting.map_or_else(|| "ContainerCreating".into(), |w| format!("{}: {}", w.reason.as_str(), w.message))
}

/// A log that is being read, which takes a thread only while there is something to read.
struct Reading {
    lines: Lines,
    wanted: LineFilter,
    follow: bool,
    /// When the container was first seen not to run.
    ended: Option<Instant>,
    state: State,
}

#[derive(PartialEq)]
enum State {
    /// There was more than went into the last batch.
    Full,
    /// There may be more later.
    Waiting,
    Over,
}

impl Reading {
    /// What comes next, of a container that runs or doesn't.
    fn batch(mut self, runs: bool) -> std::io::Result<(Self, Vec<u8>)> {
        // Asked before reading, so that what was written until then is read.
        let mut last_words =
            || self.ended.get_or_insert_with(Instant::now).elapsed() < LAST_LINES_TIMEOUT && self.lines.are_written();
        let goes_on = self.follow && (runs || last_words());
        let (mut batch, mut line) = (Vec::new(), Vec::new());
        self.state = State::Full;
        while self.state == State::Full && batch.len() < BATCH_BYTES {
            if !self.lines.next(&mut line, goes_on)? {
                self.state = if goes_on { State::Waiting } else { State::Over };
            } else {
                self.wanted.take(&line, &mut batch);
                if self.wanted.is_all() {
                    self.state = State::Over;
                }
            }
        }
        Ok((self, batch))
    }
}

/// Bytes that are sent at a time.
const BATCH_BYTES: usize = 64 << 10;

async fn copy(
    path: &Path,
    options: Options,
    sender: &mpsc::Sender<Bytes>,
    mut news: Option<Follower>,
    still_runs: impl Fn() -> bool,
) -> std::io::Result<()> {
    let (path, Options { follow, tail, wanted }) = (path.to_path_buf(), options);
    let lines = tokio::task::spawn_blocking(move || Lines::open(&path, tail)).await??;
    let mut reading = Reading { lines, wanted, follow, ended: None, state: State::Full };
    loop {
        let runs = still_runs();
        let (read, batch) = tokio::task::spawn_blocking(move || reading.batch(runs)).await??;
        reading = read;
        if !batch.is_empty() && sender.send(batch.into()).await.is_err() {
            return Ok(());
        }
        match (&reading.state, &mut news) {
            (State::Full, _) => {}
            (State::Waiting, Some(news)) => tokio::select! {
                changed = news.changed() => changed?,
                () = sender.closed() => return Ok(()),
                // A container's end shows in its status.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            },
            (State::Waiting, None) | (State::Over, _) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_of_every_number_are_borne() {
        for number in [1, i64::from(i32::MAX), i64::MAX] {
            let most = u64::try_from(number).ok();
            let asked = LogOptions {
                since_seconds: Some(number),
                tail_lines: most,
                limit_bytes: most,
                ..LogOptions::default()
            };
            let mut options = Options::of(&asked);
            assert!(options.wanted.since.is_some_and(|since| since < Timestamp::now()));
            let mut out = b"before".to_vec();
            options.wanted.take(b"2026-11-28T06:00:00.000000001Z stdout F old\n", &mut out);
        }
    }

    #[test]
    fn what_is_wanted_of_lines_is_taken() {
        let lines: [&[u8]; 4] = [
            b"2026-11-28T06:00:00.000000001Z stdout F old\n",
            b"2026-11-28T06:00:01.000000001Z stdout P lo\n",
            b"2026-11-28T06:00:01.000000002Z stdout F ng\n",
            b"2026-11-28T06:00:02.000000001Z stderr F a b  c\n",
        ];
        let taken = |mut wanted: LineFilter| {
            let mut out = Vec::new();
            lines.iter().for_each(|line| wanted.take(line, &mut out));
            (String::from_utf8(out).unwrap(), wanted.is_all())
        };
        let all = || LineFilter { timestamps: false, since: None, left: None };
        assert_eq!(taken(all()), ("old\nlong\na b  c\n".into(), false));
        let since = "2026-11-28T06:00:01Z".parse().ok();
        assert_eq!(taken(LineFilter { since, ..all() }), ("long\na b  c\n".into(), false));
        assert_eq!(taken(LineFilter { left: Some(6), ..all() }), ("old\nlo".into(), true));
        let stamped = taken(LineFilter { timestamps: true, since, left: Some(33) }).0;
        assert_eq!(stamped, "2026-11-28T06:00:01.000000001Z lo");
    }
}
