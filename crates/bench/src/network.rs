//! What the cluster's network does: names answered, requests brought in (beside Debian's nginx and haproxy in the same run), and
//! bytes through a service's address beside the machine's own loopback.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use testkit::Cluster;
use testkit::node::inside;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::{Figure, at, pods, usage};

/// How long names are asked for.
const SECONDS: u64 = 5;
/// How often each proxy has its turn, and how long that lasts.
const TURNS: (usize, u64) = (6, 2);
/// Where bytes are received.
const SINK: u16 = 5001;
/// Clients that each wait for an answer before they ask again.
const CLIENTS: usize = 64;

/// Answers a second, the time in seconds in which 99 of 100 came, and how many there were.
struct Rate {
    per_second: f64,
    p99: f64,
    answers: usize,
}

/// Lets clients ask for a while. `ask` makes one client's connection and returns how long each answer took.
async fn rate<F>(seconds: u64, ask: impl Fn(Instant) -> F) -> anyhow::Result<Rate>
where
    F: Future<Output = anyhow::Result<Vec<f64>>> + Send + 'static,
{
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(ask(until))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(!times.is_empty(), "no answer came");
    times.sort_by(f64::total_cmp);
    Ok(Rate { per_second: times.len() as f64 / seconds, p99: at(&times, 0.99), answers: times.len() })
}

/// A question for the addresses of a name (RFC 1035, section 4).
fn question(name: &str) -> Vec<u8> {
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

async fn ask_names(server: SocketAddr, name: &'static str, until: Instant) -> anyhow::Result<Vec<f64>> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    socket.connect(server).await?;
    let (mut packet, mut answer, mut times) = (question(name), [0u8; 512], Vec::new());
    for id in 0u16.. {
        let begun = Instant::now();
        if begun > until {
            break;
        }
        packet[..2].copy_from_slice(&id.to_be_bytes());
        socket.send(&packet).await?;
        let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut answer)).await??;
        ensure!(length > packet.len() && answer[..2] == packet[..2] && answer[3] & 15 == 0, "a wrong answer");
        times.push(begun.elapsed().as_secs_f64());
        if id == u16::MAX {
            break;
        }
    }
    Ok(times)
}

async fn names() -> anyhow::Result<[Figure; 2]> {
    let server: SocketAddr = "10.43.0.10:53".parse()?;
    let measured = rate(SECONDS, |until| ask_names(server, "kubernetes.default.svc.cluster.local", until)).await?;
    Ok([
        Figure {
            what: "DNS answers, 64 clients on the same cores; beside it CoreDNS' published figure on 2 vCPU",
            value: measured.per_second,
            unit: "/s",
            promise: Some(33_669.0),
            less: false,
        },
        Figure { what: "the same, p99", value: measured.p99, unit: "s", promise: None, less: true },
    ])
}

/// One client that keeps its connection.
async fn ask_pages(server: SocketAddr, until: Instant) -> anyhow::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let request = b"GET / HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: bench\r\n\r\n";
    let (mut buffer, mut times) = (vec![0u8; 16 << 10], Vec::new());
    while Instant::now() < until {
        let begun = Instant::now();
        stream.write_all(request).await?;
        let mut have = 0;
        loop {
            let read = stream.read(&mut buffer[have..]).await?;
            ensure!(read > 0, "the connection was closed");
            have += read;
            let Some(end) = buffer[..have].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "a wrong answer: {head}");
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).context("no length")?;
            if have >= end + 4 + length.parse::<usize>()? {
                break;
            }
        }
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// A program in the server's network, ended when it is dropped.
struct Proxy(Child);

impl Proxy {
    fn start(cluster: &Cluster, name: &str, config: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let file: PathBuf = cluster.server.folder().join(format!("{name}.conf"));
        std::fs::write(&file, config)?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", cluster.server.network().display()))
            .arg(name)
            .args(arguments)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{name} can't be started (Debian: {name})"))?;
        Ok(Proxy(child))
    }

    /// It and its workers.
    fn processes(&self) -> Vec<u32> {
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx ends its workers at SIGTERM.
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// What backends are told of a request, as the ingress does it and ingress-nginx does: each name with nginx' and with haproxy's word.
const TOLD: [(&str, &str, &str); 8] = [
    ("X-Forwarded-For", "$remote_addr", "%[src]"),
    ("X-Real-IP", "$remote_addr", "%[src]"),
    ("X-Forwarded-Proto", "$scheme", "http"),
    ("X-Forwarded-Scheme", "$scheme", "http"),
    ("X-Scheme", "$scheme", "http"),
    ("X-Forwarded-Host", "$http_host", "%[req.hdr(host)]"),
    ("X-Forwarded-Port", "$server_port", "%[dst_port]"),
    ("X-Request-ID", "$request_id", "%[uuid()]"),
];

/// nginx removes its pid file at its end, so that is one of its own.
fn nginx(backend: &str, pid: &Path) -> String {
    let pid = pid.display();
    let told: String = TOLD.iter().map(|(name, value, _)| format!("proxy_set_header {name} {value}; ")).collect();
    format!(
        "daemon off; worker_processes 2; pid {pid}; error_log stderr crit;\nevents {{ worker_connections 1024; }}\nhttp {{ \
         access_log off; keepalive_requests 1000000000; upstream b {{ server {backend}; keepalive 64; keepalive_requests 1000000000; }} server {{ listen 8081; location / {{ proxy_pass http://b; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host; {told} }} }} }}\n"
    )
}

fn haproxy(backend: &str) -> String {
    let told: String =
        TOLD.iter().map(|(name, _, value)| format!(" http-request set-header {name} {value}\n")).collect();
    format!(
        "global\n nbthread 2\ndefaults\n mode http\n timeout client 30s\n timeout server 30s\n timeout connect 5s\n \
         http-reuse always\nfrontend f\n bind :8082\n default_backend b\n{told}backend b\n server s {backend}\n"
    )
}

async fn pages(cluster: &Cluster, client: &Client) -> anyhow::Result<Vec<Figure>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let page = format!(
        "worker_processes 1; pid /run/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; keepalive_requests 1000000000; \
         server {{ listen 80; location / {{ default_type text/plain; return 200 '{}'; }} }} }}\n",
        "x".repeat(1000)
    );
    let map = json!({"metadata": {"name": "page"}, "data": {"nginx.conf": page}});
    maps.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
    let command = ["/usr/sbin/nginx", "-c", "/conf/nginx.conf", "-g", "daemon off;"];
    let pod = json!({"metadata": {"name": "page", "labels": {"app": "page"}}, "spec": {"terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "conf", "configMap": {"name": "page"}}],
        "containers": [{"name": "c", "image": "nginx:1.27", "command": command, "ports": [{"containerPort": 80}],
                        "volumeMounts": [{"name": "conf", "mountPath": "/conf"}]}]}});
    pods::until_ready(client, serde_json::from_value(pod)?).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service = json!({"metadata": {"name": "page"}, "spec": {"selector": {"app": "page"}, "ports": [{"port": 80}]}});
    services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let ingresses: Api<Ingress> = Api::namespaced(client.clone(), "default");
    let backend = json!({"service": {"name": "page", "port": {"number": 80}}});
    let ingress = json!({"metadata": {"name": "page"}, "spec": {"rules": [{"host": "bench.example.com",
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    ingresses.create(&PostParams::default(), &serde_json::from_value(ingress)?).await?;
    let pod = Api::<Pod>::namespaced(client.clone(), "default").get("page").await?;
    let backend = format!("{}:80", pod.status.and_then(|s| s.pod_ip).context("the pod has no address")?);
    let nginx = Proxy::start(cluster, "nginx", &nginx(&backend, &cluster.server.folder().join("nginx.pid")), &["-c"])?;
    let haproxy = Proxy::start(cluster, "haproxy", &haproxy(&backend), &["-f"])?;
    let door = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    for port in [80, 8081, 8082] {
        let begun = Instant::now();
        while let Err(error) = ask_pages(door(port), Instant::now() + Duration::from_millis(100)).await {
            ensure!(begun.elapsed() < Duration::from_secs(10), "nothing answers on port {port}: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let server = *cluster.server.parts().get("node").context("the node's part")?;
    let proxies = [(80, vec![server]), (8081, nginx.processes()), (8082, haproxy.processes())];
    let mut turns: [Vec<Rate>; 3] = Default::default();
    let mut used = [0.0; 3];
    // In turn, so that what the machine does besides meets all of them.
    for _ in 0..TURNS.0 {
        for (((port, processes), turns), used) in proxies.iter().zip(&mut turns).zip(&mut used) {
            let before = processor(processes)?;
            turns.push(rate(TURNS.1, |until| ask_pages(door(*port), until)).await?);
            *used += processor(processes)? - before;
        }
    }
    // The turn in the middle, for each figure.
    let median = |turns: &[Rate], figure: fn(&Rate) -> f64| {
        let mut values: Vec<f64> = turns.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        at(&values, 0.5)
    };
    let per_second = turns.each_ref().map(|turns| median(turns, |turn| turn.per_second));
    let p99 = turns.each_ref().map(|turns| median(turns, |turn| turn.p99) * 1e3);
    let answers = turns.each_ref().map(|turns| turns.iter().map(|turn| turn.answers).sum::<usize>() as f64);
    let cost: [f64; 3] = std::array::from_fn(|i| used[i] / answers[i] * 1e6);
    let figure = |what, [ours, nginx, haproxy]: [f64; 3], unit, less| {
        let beside = |what, other| Figure { what, value: ours, unit, promise: Some(other), less };
        [beside(what, nginx), beside("the same; beside it haproxy", haproxy)]
    };
    let rates = figure("requests through the ingress, 64 clients; beside it nginx", per_second, "/s", false);
    let times = figure("the same, p99; beside it nginx", p99, "ms", true);
    let costs = figure("processor time for a request through the ingress; beside it nginx", cost, "µs", true);
    Ok([rates, times, costs].into_iter().flatten().collect())
}

/// Processor seconds that processes have used.
fn processor(processes: &[u32]) -> anyhow::Result<f64> {
    Ok(usage(processes)?.1)
}

/// MB a second of one connection, from one network to an address that leads to the port in another.
fn transfer(from: &Path, to: &Path, address: IpAddr) -> anyhow::Result<f64> {
    let sink = inside(to, || TcpListener::bind(("0.0.0.0", SINK)))??;
    let receiver = std::thread::spawn(move || -> std::io::Result<f64> {
        let (mut stream, _) = sink.accept()?;
        let (mut buffer, mut total, begun) = (vec![0u8; 256 << 10], 0, Instant::now());
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total as f64 / 1e6 / begun.elapsed().as_secs_f64()),
                read => total += read,
            }
        }
    });
    let sent = inside(from, move || -> std::io::Result<()> {
        let mut stream = std::net::TcpStream::connect((address, SINK))?;
        let (block, until) = (vec![0u8; 256 << 10], Instant::now() + Duration::from_secs(3));
        while Instant::now() < until {
            stream.write_all(&block)?;
        }
        Ok(())
    });
    sent??;
    Ok(receiver.join().map_err(|_| anyhow::anyhow!("the receiver failed"))??)
}

async fn throughput(cluster: &Cluster, client: &Client) -> anyhow::Result<Figure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut networks = Vec::new();
    for name in ["source", "sink"] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"]}]}});
        pods::until_ready(client, serde_json::from_value(pod)?).await?;
        let uid = pods.get(name).await?.metadata.uid.context("the pod has no uid")?;
        networks.push(PathBuf::from(cluster.server.run_dir()).join("pods").join(uid).join("ns/net"));
    }
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service =
        json!({"metadata": {"name": "sink"}, "spec": {"selector": {"app": "sink"}, "ports": [{"port": SINK}]}});
    let service = services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let address: IpAddr = service.spec.and_then(|s| s.cluster_ip).context("the service has no address")?.parse()?;
    // The rules follow the endpoints, those the service.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let own = cluster.server.network();
    let (mut ours, mut loopback) = (0.0f64, 0.0f64);
    for _ in 0..3 {
        ours = ours.max(tokio::task::block_in_place(|| transfer(&networks[0], &networks[1], address))?);
        loopback = loopback.max(tokio::task::block_in_place(|| transfer(&own, &own, Ipv4Addr::LOCALHOST.into()))?);
    }
    Ok(Figure {
        what: "from a pod to another by a service's address; beside it the machine's loopback",
        value: ours,
        unit: "MB/s",
        promise: Some(loopback),
        less: false,
    })
}

pub async fn measure(cluster: &Cluster, client: Client) -> anyhow::Result<Vec<Figure>> {
    let mut figures = names().await?.into_iter().collect::<Vec<_>>();
    figures.extend(pages(cluster, &client).await?);
    figures.push(throughput(cluster, &client).await?);
    Ok(figures)
}
