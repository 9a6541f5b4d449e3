//! `proxy`: the API on a port of this machine, with the credentials of the kubeconfig.

mod filter;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use self::filter::{Filter, Prefixes};
use self::serve::Server;
use super::{Command, run};
use crate::context::{Context, chain};
use crate::error::{Error, Result, fail};
use crate::flags::{switch, text, text_or};
use crate::print::line;

pub const COMMAND: Command = Command {
    name: "proxy",
    about: "Run a proxy to the Kubernetes API server",
    flags: &[&[
        text("www", "Also serve the files of this directory").short('w'),
        text_or("www-prefix", "/static/", "Prefix of the paths of files").short('P'),
        text_or("api-prefix", "/", "Prefix of the paths of the API"),
        text_or("accept-paths", "^.*", "Regular expressions of paths that pass, with commas"),
        text_or(
            "reject-paths",
            "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach",
            "Regular expressions of paths that don't pass even so",
        ),
        text_or("accept-hosts", r"^localhost$,^127\.0\.0\.1$,^\[::1\]$", "Regular expressions of hosts that pass"),
        text_or("reject-methods", "^$", "Regular expressions of methods that don't pass, as POST,PUT,PATCH"),
        text_or("port", "8001", "Port to listen on; 0 is any that is free").short('p'),
        text_or("address", "127.0.0.1", "IP address to listen on"),
        switch("disable-filter", "Let everything pass: dangerous, as web pages may then use the proxy"),
        text("unix-socket", "Unix socket to listen on").short('u'),
        text_or("keepalive", "0s", "Accepted for scripts' sake"),
        switch("append-server-path", "Put the path of the server's address before each path"),
    ]],
    run: run!(proxy),
    ..Command::NONE
};

/// More connections wait for others to end.
const MAX_CONNECTIONS: usize = 1024;
/// The head of a request is there in this time.
const HEAD: Duration = Duration::from_secs(60);

async fn proxy(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if args.given("port") && args.number("port")? != 8001 && !args.text("unix-socket").is_empty() {
        return fail("cannot set --unix-socket and --port at the same time");
    }
    args.duration("keepalive")?;
    let server = Arc::new(server(&cx).await?);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    if !args.text("unix-socket").is_empty() {
        let listener = unix(args.text("unix-socket"))?;
        line(&format!("Starting to serve on {}", args.text("unix-socket")))?;
        loop {
            serve_one(listener.accept().await.map(|(stream, _)| stream), &server, &limit).await;
        }
    }
    let port = u16::try_from(args.number("port")?).map_err(|_| Error::Message("listen tcp: invalid port".into()))?;
    let host = args.text("address").trim_matches(['[', ']']);
    let listener = TcpListener::bind((host, port)).await.map_err(|error| {
        let reason = if error.kind() == std::io::ErrorKind::AddrInUse {
            "address already in use".into()
        } else {
            error.to_string()
        };
        Error::Message(format!("listen tcp {}:{port}: bind: {reason}", args.text("address")))
    })?;
    line(&format!("Starting to serve on {}", listener.local_addr()?))?;
    loop {
        serve_one(listener.accept().await.map(|(stream, _)| stream), &server, &limit).await;
    }
}

async fn server(cx: &Context) -> Result<Server> {
    let args = &cx.args;
    let mut config = cx.config().await?;
    let path = config.cluster_url.path().to_string();
    if path != "/" && !args.is("append-server-path") {
        eprintln!(
            "Warning: Your kube context contains a server path {path}, use --append-server-path to automatically append the path to each request"
        );
        let mut parts = config.cluster_url.into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = http::Uri::from_parts(parts).map_err(http::Error::from)?;
    }
    let open = args.is("disable-filter");
    if open && args.text("unix-socket").is_empty() {
        eprintln!("Warning: Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious");
    } else if !open && (args.text("reject-paths").is_empty() || args.text("reject-methods").is_empty()) {
        eprintln!(
            "Warning: Request filter has been relaxed, your proxy may be vulnerable to attacks, please be cautious"
        );
    }
    let folder = args.text("www");
    if !folder.is_empty() && !std::path::Path::new(folder).is_dir() {
        eprintln!("Warning: Static file directory {folder} is not a directory");
    }
    Ok(Server {
        client: Client::try_from(config).map_err(|error| Error::Message(chain(&error)))?,
        filter: if open { None } else { Some(Filter::of(cx)?) },
        prefixes: Prefixes::of(cx),
        files: folder.into(),
    })
}

/// Listens on a socket that is this user's alone.
fn unix(path: &str) -> Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;
    // One that an earlier proxy has left; other files stay.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    listener.map_err(|error| Error::Message(format!("listen unix {path}: bind: {error}")))
}

async fn serve_one<S>(accepted: std::io::Result<S>, server: &Arc<Server>, limit: &Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(stream) = accepted else {
        // Too many open files, or a client that has gone already.
        tokio::time::sleep(Duration::from_millis(100)).await;
        return;
    };
    let Ok(permit) = limit.clone().acquire_owned().await else { return };
    let server = server.clone();
    tasks::spawn("proxy-connection", async move {
        let answer = service_fn(|request| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(serve::answer(server, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades();
        // A client that goes away is no error.
        let _ = connection.await;
        drop(permit);
    });
}

#[cfg(test)]
#[path = "proxy/tests.rs"]
mod tests;
