//! Logs: files in CRI format, read from the end that is asked for, and followed by inotify.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc;

use super::{Body, flag, query, text, value};
use crate::manager::Manager;
use crate::worker::{Phase, Run};

#[derive(Debug, Clone, Default)]
struct Options {
    follow: bool,
    timestamps: bool,
    tail: Option<usize>,
    limit: Option<usize>,
    since: Option<Timestamp>,
}

pub async fn serve(
    manager: &Arc<Manager>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: &Request<Incoming>,
) -> Response<Body> {
    let query = query(request);
    let Some((_, places, saved)) = manager.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} isn't on this node"));
    };
    let Some(run) = saved.containers.get(container) else {
        let message = format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating");
        return text(StatusCode::BAD_REQUEST, message);
    };
    let attempt = if flag(&query, "previous") { run.attempt - 1 } else { run.attempt };
    let path = places.log(container, attempt);
    if attempt < 0 || !path.exists() {
        let message = if attempt < run.attempt {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            format!("container {container:?} in pod {pod:?} is waiting to start: {}", waiting(run))
        };
        return text(StatusCode::BAD_REQUEST, message);
    }
    let seconds = value(&query, "sinceSeconds").and_then(|s| s.parse().ok());
    let since = seconds.map(|s| Timestamp::now() - SignedDuration::from_secs(s));
    let options = Options {
        follow: flag(&query, "follow"),
        timestamps: flag(&query, "timestamps"),
        tail: value(&query, "tailLines").and_then(|s| s.parse().ok()),
        limit: value(&query, "limitBytes").and_then(|s| s.parse().ok()),
        since: since.or_else(|| value(&query, "sinceTime").and_then(|s| s.parse().ok())),
    };
    let (sender, receiver) = mpsc::channel(16);
    let (manager, id) = (manager.clone(), run.id.clone());
    let key = (namespace.to_string(), pod.to_string(), container.to_string());
    let still_runs = move || {
        let found = manager.find(&key.0, &key.1);
        let run = found.and_then(|(_, _, saved)| saved.containers.get(&key.2).cloned());
        run.is_some_and(|r| r.id == id && matches!(r.phase, Phase::Running { .. } | Phase::Waiting))
    };
    tokio::task::spawn_blocking(move || {
        let mut out = Output { sender, left: options.limit, timestamps: options.timestamps, since: options.since };
        if let Err(error) = copy(&path, &options, &mut out, &still_runs) {
            tracing::debug!(%error, "reading a log ended");
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        let bytes: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

fn waiting(run: &Run) -> String {
    run.waiting.as_ref().map_or_else(|| "ContainerCreating".into(), |(reason, message)| format!("{reason}: {message}"))
}

struct Output {
    sender: mpsc::Sender<Bytes>,
    left: Option<usize>,
    timestamps: bool,
    since: Option<Timestamp>,
}

/// The client is gone, or has all that he wanted.
#[derive(Debug, thiserror::Error)]
#[error("done")]
struct Done;

impl Output {
    /// Sends one line of a log file, if it is wanted.
    fn line(&mut self, line: &[u8]) -> Result<(), Done> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(_), Some(tag), Some(content)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(());
        };
        if let Some(since) = self.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return Ok(());
            }
        }
        let mut out = Vec::with_capacity(line.len());
        if self.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        // A partial line goes on in the next entry.
        let content = if tag == b"P" { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
        out.extend_from_slice(content);
        if let Some(left) = &mut self.left {
            out.truncate(*left);
            *left -= out.len();
        }
        self.sender.blocking_send(out.into()).map_err(|_| Done)?;
        if self.left == Some(0) { Err(Done) } else { Ok(()) }
    }
}

fn copy(path: &Path, options: &Options, out: &mut Output, still_runs: &dyn Fn() -> bool) -> std::io::Result<()> {
    let done = |_: Done| std::io::Error::other("done");
    // Files that were put aside are older than the present one.
    let mut files: Vec<PathBuf> =
        (1..10).rev().map(|n| PathBuf::from(format!("{}.{n}", path.display()))).filter(|p| p.exists()).collect();
    files.push(path.into());
    let mut skip = match options.tail {
        Some(tail) => count_lines(&files)?.saturating_sub(tail),
        None => 0,
    };
    let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
    if options.follow {
        let folder = path.parent().unwrap_or(Path::new("/"));
        watch.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM)?;
        watch.add_watch(path, AddWatchFlags::IN_MODIFY)?;
    }
    let mut reader = None;
    for file in &files {
        let mut lines = BufReader::new(File::open(file)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
            if skip > 0 {
                skip -= 1;
            } else {
                out.line(&line).map_err(done)?;
            }
            line.clear();
        }
        let unread = line.len() as i64;
        lines.seek(SeekFrom::Current(-unread))?;
        reader = Some(lines);
    }
    let (true, Some(mut reader)) = (options.follow, reader) else { return Ok(()) };
    loop {
        // Looked at before reading, so that what was written before the end is still read after it.
        let alive = still_runs();
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = reader.read_until(b'\n', &mut line)?;
            if n == 0 || line.last() != Some(&b'\n') {
                reader.seek(SeekFrom::Current(-(n as i64)))?;
                break;
            }
            out.line(&line).map_err(done)?;
        }
        if !alive || out.sender.is_closed() {
            return Ok(());
        }
        if rotated(&mut reader, path)? {
            watch.add_watch(path, AddWatchFlags::IN_MODIFY)?;
            continue;
        }
        wait_for_change(&watch)?;
    }
}

/// Whether the file was put aside; then the new one is opened.
fn rotated(reader: &mut BufReader<File>, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(now) = std::fs::metadata(path) else { return Ok(false) };
    if now.ino() == reader.get_ref().metadata()?.ino() {
        return Ok(false);
    }
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest)?;
    *reader = BufReader::new(File::open(path)?);
    Ok(true)
}

/// Waits until something is written; at the latest after a second, to see whether container and client are still there.
fn wait_for_change(watch: &Inotify) -> std::io::Result<()> {
    use std::os::fd::AsFd as _;
    let mut fds = [nix::poll::PollFd::new(watch.as_fd(), nix::poll::PollFlags::POLLIN)];
    if nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(1000u16))? > 0 {
        watch.read_events()?;
    }
    Ok(())
}

fn count_lines(files: &[PathBuf]) -> std::io::Result<usize> {
    let mut count = 0;
    for file in files {
        let mut reader = BufReader::new(File::open(file)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            count += 1;
            line.clear();
        }
    }
    Ok(count)
}
