//! Answers everybody on a port, by TCP and UDP, with the name of the machine that it runs on and the address of who asks:
//! `whoami [PORT]`. With `whoami ask HOST:PORT` it asks another one by UDP.

#![allow(clippy::disallowed_methods, reason = "who runs it sees a panic")]

use std::io::Write as _;
use std::net::{IpAddr, TcpListener, UdpSocket};

fn answer(peer: IpAddr) -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} {}\n", name.trim(), peer.to_canonical())
}

fn ask(whom: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(whom)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    socket.send(b"who?")?;
    let mut packet = [0; 512];
    let length = socket.recv(&mut packet)?;
    std::io::stdout().write_all(&packet[..length])
}

fn main() -> std::io::Result<()> {
    if let [_, word, whom] = std::env::args().collect::<Vec<_>>().as_slice()
        && word == "ask"
    {
        return ask(whom);
    }
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(80);
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    let socket = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
    std::thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok((_, peer)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(answer(peer.ip()).as_bytes(), peer);
        }
    });
    for mut stream in listener.incoming().filter_map(Result::ok) {
        let Ok(peer) = stream.peer_addr() else { continue };
        let _ = stream.write_all(answer(peer.ip()).as_bytes());
    }
    Ok(())
}
