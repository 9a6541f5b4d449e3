//! `port-forward`: connections to ports of this machine become streams to ports of a pod, each over a WebSocket of its own.

mod plan;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use self::plan::{Address, Pair};
use super::{Command, run, usage};
use crate::client::unreachable;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, list_or};
use crate::print::line;
use crate::select::{self, Target};

pub const COMMAND: Command = Command {
    name: "port-forward",
    about: "Forward one or more local ports to a pod",
    flags: &[&[
        list_or("address", "localhost", "Addresses to listen on: IP addresses or localhost, with commas"),
        f::POD_RUNNING_TIMEOUT,
    ]],
    run: run!(port_forward),
    ..Command::NONE
};

/// More connections wait for others to end.
const MAX_CONNECTIONS: usize = 1024;
/// How often it is looked whether the pod is still there.
const LOOK: Duration = Duration::from_secs(5);
/// A client that has sent everything has its answer in this time, or it is gone. The tunnel has no way to say that one side is done.
const SILENCE: Duration = Duration::from_secs(30);

async fn port_forward(cx: Arc<Context>) -> Result<()> {
    let [word, words @ ..] = &cx.args.words[..] else { return missing(&cx) };
    if words.is_empty() {
        return missing(&cx);
    }
    if cx.args.duration("pod-running-timeout")? <= 0 {
        return usage(&cx, "--pod-running-timeout must be higher than zero");
    }
    let addresses = plan::addresses(cx.args.many("address"))?;
    let (service, pod) = pod(&cx, word).await?;
    let pairs = plan::pairs(words, service.as_ref(), &pod)?;
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if phase != "Running" {
        return fail(format!("unable to forward port because pod is not running. Current status={phase}"));
    }
    let text = |at: &str| pod["metadata"][at].as_str().unwrap_or("").to_string();
    let (name, namespace, uid) = (text("name"), text("namespace"), text("uid"));
    let connection = cx.connection().await?;
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), &namespace);
    let tunnel = Arc::new(Tunnel { api, name, host: connection.host.clone(), limit: Semaphore::new(MAX_CONNECTIONS) });
    let (broken, mut breaks) = mpsc::channel::<Error>(1);
    let listeners = listen_all(&addresses, &pairs).await?;
    let _accepting: Vec<tasks::AbortOnDrop> = listeners
        .into_iter()
        .map(|(listener, pair)| {
            tasks::AbortOnDrop(tasks::spawn("port-forward", accept(listener, pair, tunnel.clone(), broken.clone())))
        })
        .collect();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        Some(error) = breaks.recv() => Err(error),
        () = gone(&tunnel, &uid) => fail("lost connection to pod"),
    }
}

fn missing(cx: &Context) -> Result<()> {
    usage(cx, "TYPE/NAME and list of ports are required for port-forward")
}

/// The pod of the word, and the service if the word names one.
async fn pod(cx: &Context, word: &str) -> Result<(Option<Value>, Value)> {
    let pod = super::exec::pod(cx, word);
    let limit = Duration::from_nanos(cx.args.duration("pod-running-timeout")?.unsigned_abs());
    let pod = tokio::time::timeout(limit, pod).await;
    let pod = pod.map_err(|_| Error::Message("timed out waiting for the condition".into()))??;
    if !word.contains('/') {
        return Ok((None, pod));
    }
    let selection = select::select(cx, &[word.to_string()]).await?;
    match selection.targets.first() {
        Some(target @ Target { resource, .. }) if resource.is("", "services") => {
            Ok((Some(cx.get(&target.path()).await?), pod))
        }
        _ => Ok((None, pod)),
    }
}

/// Listens for all pairs of which at least one can be had.
async fn listen_all(addresses: &[Address], pairs: &[Pair]) -> Result<Vec<(TcpListener, Pair)>> {
    let (mut all, mut any) = (Vec::new(), false);
    for pair in pairs {
        let (listeners, problem) = listen(addresses, *pair).await?;
        all.extend(listeners);
        match problem {
            None => any = true,
            Some(problem) => eprintln!("Unable to listen on port {}: {problem}", pair.local),
        }
    }
    if any {
        return Ok(all);
    }
    let shown: Vec<String> = pairs.iter().map(|p| format!("{{{} {}}}", p.local, p.remote)).collect();
    fail(format!("unable to listen on any of the requested ports: [{}]", shown.join(" ")))
}

/// Listens for one pair; says what keeps it from that.
async fn listen(addresses: &[Address], pair: Pair) -> Result<(Vec<(TcpListener, Pair)>, Option<String>)> {
    let (mut listeners, mut problems, mut local) = (Vec::new(), Vec::new(), pair.local);
    let (mut spare, mut needed) = (None, false);
    for address in addresses {
        let at = SocketAddr::new(address.ip, local);
        match TcpListener::bind(at).await {
            Ok(listener) => {
                let bound = listener.local_addr()?;
                // Whoever asked for any port gets the same one on all addresses, if it is free.
                local = bound.port();
                line(&format!("Forwarding from {bound} -> {}", pair.remote))?;
                listeners.push((listener, Pair { local, ..pair }));
                if address.spare {
                    spare = Some(true);
                }
            }
            Err(error) => {
                let family = if address.ip.is_ipv4() { "tcp4" } else { "tcp6" };
                let reason = match error.kind() {
                    std::io::ErrorKind::AddrInUse => "address already in use".into(),
                    std::io::ErrorKind::AddrNotAvailable => "cannot assign requested address".into(),
                    std::io::ErrorKind::PermissionDenied => "permission denied".into(),
                    _ => error.to_string(),
                };
                problems.push(format!("unable to create listener: Error listen {family} {at}: bind: {reason}"));
                if address.spare {
                    spare = spare.or(Some(false));
                } else {
                    needed = true;
                }
            }
        }
    }
    let failed = needed || spare == Some(false);
    let problem =
        failed.then(|| format!("Listeners failed to create with the following errors: [{}]", problems.join(" ")));
    Ok((listeners, problem))
}

/// The way to the pod.
struct Tunnel {
    api: Api<Pod>,
    name: String,
    host: String,
    limit: Semaphore,
}

/// Ends when the pod doesn't run any more.
async fn gone(tunnel: &Tunnel, uid: &str) {
    let mut misses = 0_u32;
    loop {
        tokio::time::sleep(LOOK).await;
        match tunnel.api.get_opt(&tunnel.name).await {
            Ok(None) => return,
            Ok(Some(pod)) => {
                misses = 0;
                let phase = pod.status.and_then(|s| s.phase).unwrap_or_default();
                if pod.metadata.uid.as_deref() != Some(uid) || phase == "Succeeded" || phase == "Failed" {
                    return;
                }
            }
            // A server that restarts is no reason to end.
            Err(_) => misses = misses.saturating_add(1),
        }
        if misses >= 6 {
            return;
        }
    }
}

async fn accept(listener: TcpListener, pair: Pair, tunnel: Arc<Tunnel>, broken: mpsc::Sender<Error>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Too many open files, or a client that has gone already.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Err(error) = line(&format!("Handling connection for {}", pair.local)) {
            let _ = broken.try_send(error);
        }
        let (tunnel, broken) = (tunnel.clone(), broken.clone());
        tasks::spawn("port-forward", async move {
            let Ok(_permit) = tunnel.limit.acquire().await else { return };
            if let Err(error) = forward(socket, pair, &tunnel).await {
                let _ = broken.try_send(error);
            }
        });
    }
}

/// One connection.
async fn forward(socket: TcpStream, pair: Pair, tunnel: &Tunnel) -> Result<()> {
    let mut forwarder = tunnel.api.portforward(&tunnel.name, &[pair.remote]).await.map_err(|error| match &error {
        kube::Error::Api(status) => Error::Message(format!("error upgrading connection: {}", status.message)),
        _ => unreachable(&error, &tunnel.host),
    })?;
    let (Some(stream), Some(trouble)) = (forwarder.take_stream(pair.remote), forwarder.take_error(pair.remote)) else {
        return fail("the stream of the port is taken");
    };
    let told = tokio::select! {
        told = relay(socket, stream) => { let _ = told; None }
        Some(told) = async { Some(trouble.await).filter(Option::is_some) } => told,
    };
    forwarder.abort();
    if let Some(told) = told {
        // What the pod says is for a terminal, and may be long.
        let told: String = told.chars().filter(|c| !c.is_control()).take(2048).collect();
        eprintln!("an error occurred forwarding {} -> {}: {told}", pair.local, pair.remote);
        return fail("lost connection to pod");
    }
    Ok(())
}

/// Passes bytes both ways until the pod's side ends, or nothing comes any more for a client that has sent everything.
async fn relay(socket: TcpStream, stream: impl AsyncRead + AsyncWrite + Send) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = socket.into_split();
    let (mut from_pod, mut to_pod) = tokio::io::split(stream);
    let (done, mut finished) = tokio::sync::watch::channel(false);
    let up = async {
        let copied = tokio::io::copy(&mut from_client, &mut to_pod).await;
        let _ = done.send(true);
        // An end that was no end-of-file is one of the client.
        if copied.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let down = async {
        let mut buffer = vec![0_u8; 32 << 10];
        loop {
            let silent = async {
                let _ = finished.wait_for(|done| *done).await;
                tokio::time::sleep(SILENCE).await;
            };
            let read = tokio::select! {
                read = from_pod.read(&mut buffer) => read?,
                () = silent => 0,
            };
            if read == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    tokio::select! {
        () = up => Ok(()),
        done = down => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_has_sent_everything_gets_its_answer() {
        let (mut client, ours) = pair().await;
        let (near, mut far) = tokio::io::duplex(64);
        let relaying = tasks::spawn("relay", relay(ours, near));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = [0; 8];
        far.read_exact(&mut got).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        drop(far);
        assert_eq!(bounded_read(&mut client).await, b"answer");
        relaying.await.unwrap().unwrap();
    }

    async fn bounded_read(client: &mut TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = client.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..read]);
        }
        all
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_and_another_is_enough() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = taken.local_addr().unwrap().port();
        let only = plan::addresses(&["127.0.0.1".into()]).unwrap();
        let error = listen_all(&only, &[Pair { local, remote: 80 }]).await.unwrap_err().text();
        assert_eq!(error, format!("unable to listen on any of the requested ports: [{{{local} 80}}]"));
        let both = [Pair { local, remote: 80 }, Pair { local: 0, remote: 81 }];
        let listeners = listen_all(&only, &both).await.unwrap();
        assert_eq!(listeners.iter().map(|(_, p)| p.remote).collect::<Vec<_>>(), [81]);
        let (_, problem) = listen(&only, both[0]).await.unwrap();
        assert_eq!(
            problem.unwrap(),
            format!(
                "Listeners failed to create with the following errors: [unable to create listener: Error listen tcp4 127.0.0.1:{local}: bind: address already in use]"
            )
        );
    }

    /// A server of one tunnel: it answers with what it gets, or says what is wrong.
    async fn server(listener: TcpListener, wrong: Option<&'static str>) {
        use futures::{SinkExt as _, StreamExt as _};
        use tokio_tungstenite::tungstenite::{Message, handshake::server};
        let (socket, _) = listener.accept().await.unwrap();
        #[allow(clippy::result_large_err, reason = "the library's own signature")]
        let choose = |request: &server::Request, mut answer: server::Response| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/n/pods/p/portforward");
            answer.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
            Ok(answer)
        };
        let mut tunnel = tokio_tungstenite::accept_hdr_async(socket, choose).await.unwrap();
        for channel in [0, 1] {
            tunnel.send(Message::binary(vec![channel, 80, 0])).await.unwrap();
        }
        if let Some(wrong) = wrong {
            tunnel.send(Message::binary([&[1], wrong.as_bytes()].concat())).await.unwrap();
        }
        while let Some(Ok(message)) = tunnel.next().await {
            if message.is_binary() {
                tunnel.send(message).await.unwrap();
            }
        }
    }

    async fn tunnel(wrong: Option<&'static str>) -> Tunnel {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tasks::spawn("server", server(listener, wrong));
        let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        Tunnel { api: Api::namespaced(client, "n"), name: "p".into(), host: url, limit: Semaphore::new(1) }
    }

    #[tokio::test]
    async fn bytes_go_through_the_tunnel_and_the_pods_complaints_end_it() {
        let at = Pair { local: 8080, remote: 80 };
        let (mut client, ours) = pair().await;
        let well = tunnel(None).await;
        let forwarding = tasks::spawn("forward", async move { forward(ours, at, &well).await });
        client.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        forwarding.abort();
        let (_client, ours) = pair().await;
        let error = forward(ours, at, &tunnel(Some("connection refused")).await).await.unwrap_err().text();
        assert_eq!(error, "lost connection to pod");
    }
}
