//! `cp`: files between here and a container, by the container's `tar`.

mod archive;
pub mod spec;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::io::SyncIoBridge;

use self::spec::Spec;
use super::exec::{self, Ended, Streams};
use super::{Command, run};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, switch, text_or};
use crate::print::line;

pub const COMMAND: Command = Command {
    name: "cp",
    about: "Copy files and directories to and from containers",
    flags: &[&[
        f::CONTAINER,
        switch("no-preserve", "Don't keep owners and permissions in the container"),
        text_or("retries", "0", "How often a copy from a container is resumed; negative for without end"),
    ]],
    run: run!(cp),
    ..Command::NONE
};

/// How long a container may take to say whether something is a directory.
const LOOK: Duration = Duration::from_secs(30);

/// An archive that has ended has no more bytes after it.
const MAX_PADDING_BYTES: u64 = 1 << 20;

/// A container, and how it is reached.
struct Place<'a> {
    cx: &'a Context,
    pod: Value,
    container: String,
}

async fn cp(cx: Arc<Context>) -> Result<()> {
    let [from, to] = &cx.args.words[..] else { return fail("source and destination are required") };
    let retries = cx.args.number("retries")?;
    let (from, to) = (Spec::parse(from)?, Spec::parse(to)?);
    if matches!((&from, &to), (Spec::Remote { .. }, Spec::Remote { .. })) {
        return fail("one of src or dest must be a local file specification");
    }
    if from.path().is_empty() || to.path().is_empty() {
        return fail("filepath can not be empty");
    }
    match (&from, &to) {
        (Spec::Remote { namespace, pod, path }, Spec::Local(target)) => {
            let place = Place::find(&cx, namespace, pod).await?;
            place.copy_here(path, Path::new(target), retries).await
        }
        (Spec::Local(source), Spec::Remote { namespace, pod, path }) => {
            let source = Path::new(source);
            if !source.exists() {
                return fail(format!("{} doesn't exist in local filesystem", source.display()));
            }
            let place = Place::find(&cx, namespace, pod).await?;
            place.copy_there(source, path).await
        }
        _ => fail("one of src or dest must be a remote file specification"),
    }
}

impl<'a> Place<'a> {
    async fn find(cx: &'a Context, namespace: &str, pod: &str) -> Result<Self> {
        let namespace = if namespace.is_empty() { cx.namespace()? } else { namespace.to_string() };
        let pod = cx.get(&format!("/api/v1/namespaces/{namespace}/pods/{pod}")).await?;
        let phase = pod["status"]["phase"].as_str().unwrap_or("");
        if ["Succeeded", "Failed"].contains(&phase) {
            return fail(format!("cannot exec into a container in a completed pod; current phase is {phase}"));
        }
        let container = exec::container(cx, &pod)?;
        Ok(Place { cx, pod, container })
    }

    async fn run(&self, command: Vec<String>, stdin: bool) -> Result<Streams> {
        exec::start(self.cx, &self.pod, &self.container, command, stdin).await
    }

    async fn is_directory(&self, path: &str) -> Result<bool> {
        let look = async {
            let mut streams = self.run(vec!["test".into(), "-d".into(), path.into()], false).await?;
            tokio::join!(exec::discard(streams.stdout.take()), exec::discard(streams.stderr.take()));
            Ok::<_, Error>(matches!(streams.ended().await, Ended::Code(0)))
        };
        let limited = tokio::time::timeout(LOOK, look).await;
        limited.map_err(|_| Error::Message("context deadline exceeded".into()))?
    }

    async fn copy_there(&self, source: &Path, path: &str) -> Result<()> {
        let source = PathBuf::from(spec::clean(&source.display().to_string()));
        let mut path = path.to_string();
        if self.is_directory(&path).await? {
            path = spec::clean(&format!("{path}/{}", spec::base(&source.display().to_string())));
        }
        let mut streams = self.run(spec::unpack(&path, !self.cx.args.is("no-preserve")), true).await?;
        let name = spec::base(&path);
        let Some(stdin) = streams.stdin.take() else { return fail("the container has no standard input") };
        let packing = tokio::task::spawn_blocking(move || {
            let mut to = SyncIoBridge::new(stdin);
            let packed = archive::write(&source, &name, std::io::BufWriter::with_capacity(64 << 10, &mut to));
            let closed = to.shutdown();
            packed.and(closed)
        });
        let ended = streams.told().await;
        // A tar that has failed says why; that nobody took the rest follows from it.
        ended.ok()?;
        match packing.await {
            Ok(packed) => Ok(packed?),
            Err(error) => fail(error.to_string()),
        }
    }

    async fn copy_here(&self, path: &str, target: &Path, retries: i64) -> Result<()> {
        let text = |at: &str| self.pod["metadata"][at].as_str().unwrap_or("").to_string();
        let hint =
            format!("kubectl exec -n {:?} {:?} -- tar cf - {path:?} | tar xf -", text("namespace"), text("name"));
        let (prefix, target) = (spec::prefix(path), target.to_path_buf());
        let (near, far) = tokio::io::duplex(256 << 10);
        let unpacking =
            tokio::task::spawn_blocking(move || archive::unpack(SyncIoBridge::new(near), &prefix, &target, &hint));
        let fetched = self.fetch(path, far, retries).await;
        let unpacked = unpacking.await.map_err(|error| Error::Message(error.to_string()))?;
        // What the container says of it comes before what is wrong with the archive that it left.
        fetched.and(unpacked)
    }

    /// Reads the archive, and goes on where a connection broke.
    async fn fetch(&self, path: &str, mut to: tokio::io::DuplexStream, retries: i64) -> Result<()> {
        let (mut got, mut tried) = (0_u64, 0_i64);
        loop {
            let command = spec::pack(path, retries != 0, got.saturating_add(1));
            let (read, ended) = match self.run(command, false).await {
                Ok(streams) => pass(streams, &mut to).await,
                Err(error) if tried == 0 => return Err(error),
                Err(error) => (0, Ended::Broken(error.text())),
            };
            got = got.saturating_add(read);
            let Ended::Broken(_) = &ended else { return ended.ok() };
            if retries >= 0 && tried >= retries {
                line(&format!("Dropping out copy after {tried} retries"))?;
                return ended.ok();
            }
            tried = tried.saturating_add(1);
            line(&format!("Resuming copy at {got} bytes, retry {tried}/{retries}"))?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Passes an archive on; returns how many bytes came, and how the command ended.
async fn pass(mut streams: Streams, to: &mut tokio::io::DuplexStream) -> (u64, Ended) {
    let (stdout, stderr) = (streams.stdout.take(), streams.stderr.take());
    let copy = async {
        let (mut count, mut after) = (0_u64, 0_u64);
        let Some(mut from) = stdout else { return (count, after) };
        let mut buffer = vec![0_u8; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let size = u64::try_from(read).unwrap_or(u64::MAX);
            count = count.saturating_add(size);
            // Archives end before the last of their blocks: who unpacks is done when something still comes.
            if after > 0 || to.write_all(&buffer[..read]).await.is_err() {
                after = after.saturating_add(size);
            }
            if after > MAX_PADDING_BYTES {
                break;
            }
        }
        (count, after)
    };
    let mut telling = tasks::AbortOnDrop(tasks::spawn("standard-error", exec::tell(stderr)));
    let (count, after) = copy.await;
    if after > MAX_PADDING_BYTES {
        return (count, Ended::Code(0));
    }
    let _ = (&mut telling.0).await;
    (count, streams.ended().await)
}
