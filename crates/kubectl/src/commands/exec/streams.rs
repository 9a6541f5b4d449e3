//! A command in a container, its streams, and how it ended.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::unreachable;
use crate::context::Context;
use crate::error::{Error, Result, fail};

/// How a command in a container ended.
#[derive(Debug, PartialEq)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// It could not be run.
    Refused(String),
    /// Nobody knows: the connection broke.
    Broken(String),
}

impl Ended {
    /// What the server says at the end.
    pub fn of(status: Option<Status>) -> Self {
        let Some(status) = status else { return Ended::Broken("the connection to the container was lost".into()) };
        if status.status.as_deref() == Some("Success") {
            return Ended::Code(0);
        }
        let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
        let code = causes.iter().find(|c| c.reason.as_deref() == Some("ExitCode"));
        match code.and_then(|c| c.message.as_ref()?.parse().ok()) {
            Some(code) => Ended::Code(code),
            None => Ended::Refused(status.message.unwrap_or_else(|| "the command could not be run".into())),
        }
    }

    /// Makes the command's exit code this program's.
    ///
    /// # Errors
    /// Unless it ended well.
    pub fn ok(self) -> Result<()> {
        match self {
            Ended::Code(0) => Ok(()),
            Ended::Code(code) => {
                eprintln!("command terminated with exit code {code}");
                Err(Error::Exit(u8::try_from(code).unwrap_or(1)))
            }
            Ended::Refused(text) | Ended::Broken(text) => fail(text),
        }
    }
}

type Reader = Box<dyn AsyncRead + Unpin + Send>;
type Writer = Box<dyn AsyncWrite + Unpin + Send>;

/// A command that runs.
pub struct Streams {
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    process: AttachedProcess,
}

/// Starts a command in a pod's container.
///
/// # Errors
/// When the container can't be reached, or may not be.
pub async fn start(cx: &Context, pod: &Value, container: &str, command: Vec<String>, stdin: bool) -> Result<Streams> {
    let text = |at: &str| pod["metadata"][at].as_str().unwrap_or("");
    let params = AttachParams::default().stdin(stdin).stdout(true).stderr(true).tty(false).container(container);
    let connection = cx.connection().await?;
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), text("namespace"));
    let process = api.exec(text("name"), command, &params).await.map_err(|error| match &error {
        kube::Error::Api(status) => Error::Message(status.message.clone()),
        _ => unreachable(&error, &connection.host),
    });
    let mut process = process?;
    Ok(Streams {
        stdin: process.stdin().map(|s| Box::new(s) as Writer),
        stdout: process.stdout().map(|s| Box::new(s) as Reader),
        stderr: process.stderr().map(|s| Box::new(s) as Reader),
        process,
    })
}

impl Streams {
    /// How the command ended; its output is read before.
    pub async fn ended(mut self) -> Ended {
        match self.process.take_status() {
            Some(status) => Ended::of(status.await),
            None => Ended::of(None),
        }
    }

    /// Prints what the command prints until it ends.
    pub async fn told(mut self) -> Ended {
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let out = async {
            if let Some(mut from) = stdout {
                let _ = tokio::io::copy(&mut from, &mut tokio::io::stdout()).await;
            }
        };
        tokio::join!(out, tell(stderr));
        self.ended().await
    }
}

/// Prints a stream to standard error.
pub async fn tell(stream: Option<Reader>) {
    if let Some(mut from) = stream {
        let _ = tokio::io::copy(&mut from, &mut tokio::io::stderr()).await;
    }
}

/// Reads a stream that nobody wants.
pub async fn discard(stream: Option<Reader>) {
    if let Some(mut from) = stream {
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
}
