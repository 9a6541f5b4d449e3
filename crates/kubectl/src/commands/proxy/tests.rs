use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::flags::Args;

/// A server of the API that tells what it was asked.
async fn api() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tasks::spawn("api", async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = vec![0_u8; 4096];
            let read = socket.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let asked = head.lines().next().unwrap_or("").to_string();
            let answer = if head.to_lowercase().contains("upgrade: echo") {
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nupgraded".to_string()
            } else {
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{asked}", asked.len())
            };
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
        }
    });
    address
}

/// A proxy with the default filter, and where it listens.
async fn proxy_to(api: &str, files: &Path) -> String {
    let matches = crate::flags::add(clap::Command::new("proxy"), COMMAND.flags[0], false).get_matches_from(["proxy"]);
    let mut args = Args::default();
    args.read(COMMAND.flags[0].iter(), &matches);
    let cx = Context::new(args);
    let config = kube::Config::new(api.parse().unwrap());
    let server = Arc::new(Server {
        client: Client::try_from(config).unwrap(),
        filter: Some(Filter::of(&cx).unwrap()),
        prefixes: Prefixes { api: "/".into(), files: Some("/static/".into()) },
        files: files.into(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let limit = Arc::new(Semaphore::new(8));
    tasks::spawn("proxy", async move {
        loop {
            serve_one(listener.accept().await.map(|(stream, _)| stream), &server, &limit).await;
        }
    });
    address
}

async fn ask(address: &str, path: &str, host: &str, more: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let connection = if more.is_empty() { "Connection: close\r\n" } else { more };
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{connection}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        all.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn requests_are_passed_on_or_refused() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("a.txt"), "a file").unwrap();
    let address = proxy_to(&api().await, files.path()).await;
    let asks = async |path: &str, host: &str| ask(&address, path, host, "").await;
    let got = asks("/api/v1/pods?limit=1", "localhost:8001").await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("GET /api/v1/pods?limit=1 HTTP/1.1"), "{got}");
    for (path, host) in [
        ("/api/v1/pods", "evil.example"),
        ("/api/v1/namespaces/n/pods/p/exec", "localhost"),
        ("/api/v1/namespaces/n/pods/p/%65xec", "localhost"),
    ] {
        let got = asks(path, host).await;
        assert!(got.starts_with("HTTP/1.1 403"), "{path} {host}: {got}");
    }
    let got = asks("/static/a.txt", "localhost").await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("a file"), "{got}");
    assert!(asks("/static/", "localhost").await.contains("a.txt</a>"));
    let got = asks("/static/%2e%2e/secret", "localhost").await;
    assert!(got.starts_with("HTTP/1.1 301"), "{got}");
    let got = ask(&address, "/api/v1/x", "localhost", "Connection: Upgrade\r\nUpgrade: echo\r\n").await;
    assert!(got.starts_with("HTTP/1.1 101") && got.ends_with("upgraded"), "{got}");
}

#[tokio::test]
async fn a_socket_that_was_left_is_replaced_and_other_files_stay() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s").display().to_string();
    drop(unix(&path).unwrap());
    drop(unix(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
    let file = folder.path().join("f");
    std::fs::write(&file, "x").unwrap();
    assert!(unix(&file.display().to_string()).is_err());
    assert!(file.is_file());
}
