//! Port-forward as the oldest WebSocket clients ask for it: the ports are named in the query, and each has two channels, one for data and one
//! for an error (upstream's `v4.channel.k8s.io` of port-forward). Both begin with the port's number.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::channels::Socket;
use super::portforward::connect;
use crate::streaming::V4;
use crate::streaming::dialect::{Dialect, Event};

/// The subprotocols; a client that names none speaks the first one.
pub const PROTOCOLS: [&str; 3] = [V4, "v4.base64.channel.k8s.io", ""];
/// Ports of one connection: a channel's number is one byte, or one digit.
const MAX_PORTS: usize = 64;
/// Messages of a port that wait to be taken.
const MAX_QUEUED_MESSAGES: usize = 4;

/// What is wrong with the ports of a query, in upstream's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPorts {
    /// There are none.
    #[error("query parameter \"ports\" is required")]
    Missing,
    /// There are more than one connection can have.
    #[error("no more than {} ports can be forwarded at once", MAX_PORTS)]
    TooMany,
    /// One isn't a number from 1 to 65535.
    #[error("unable to parse {0:?} as a port")]
    Malformed(String),
}

/// The ports that a query names.
///
/// # Errors
/// [`BadPorts`]
pub fn ports(query: &[(String, String)]) -> Result<Vec<u16>, BadPorts> {
    let named: Vec<&str> =
        query.iter().filter(|(key, _)| key == "ports").flat_map(|(_, list)| list.split(',')).collect();
    if named.is_empty() {
        return Err(BadPorts::Missing);
    }
    if named.len() > MAX_PORTS {
        return Err(BadPorts::TooMany);
    }
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    named.into_iter().map(|text| port(text).ok_or_else(|| BadPorts::Malformed(text.into()))).collect()
}

/// Joins the channels to the ports, until the client is gone.
pub async fn serve(socket: Socket, protocol: &str, network: Option<PathBuf>, ports: Vec<u16>) {
    let dialect = Dialect::of(if protocol.is_empty() { V4 } else { protocol });
    let (mut sink, mut source) = socket.split();
    let (queue, mut outgoing) = mpsc::channel::<Message>(16);
    tasks::spawn("port-forward", async move {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    let mut inputs = Vec::new();
    for (data, port) in (0u8..).step_by(2).zip(ports) {
        let (sender, input) = mpsc::channel(MAX_QUEUED_MESSAGES);
        inputs.push(sender);
        let (queue, network) = (queue.clone(), network.clone());
        tasks::spawn("port-forward", async move {
            let error = data.saturating_add(1);
            for channel in [data, error] {
                let _ = queue.send(dialect.write(channel, &port.to_le_bytes())).await;
            }
            if let Err(reason) = join(network, port, input, &queue, dialect, data).await {
                let text = format!("error forwarding port {port} to pod: {reason}");
                let _ = queue.send(dialect.write(error, text.as_bytes())).await;
            }
        });
    }
    drop(queue);
    while let Some(Ok(message)) = source.next().await {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some(Event::Data(channel, bytes)) = dialect.read(&bytes) else { continue };
        let input = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
        if let Some(input) = input.filter(|_| !bytes.is_empty()) {
            let _ = input.send(bytes).await;
        }
    }
}

async fn join(
    network: Option<PathBuf>,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    queue: &mpsc::Sender<Message>,
    dialect: Dialect,
    channel: u8,
) -> io::Result<()> {
    let (mut read, mut write) = connect(network, port).await?.into_split();
    let down = async {
        let mut buffer = vec![0u8; 32 << 10];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok::<_, io::Error>(()),
                Ok(n) => queue.send(dialect.write(channel, &buffer[..n])).await.map_err(io::Error::other)?,
            }
        }
    };
    let up = async {
        while let Some(bytes) = input.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    // There is no way to say that one direction is over: the pod's end is the end.
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_in_the_query() {
        let read = |values: &[&str]| {
            ports(&values.iter().map(|value| ("ports".to_string(), (*value).to_string())).collect::<Vec<_>>())
        };
        assert_eq!(read(&["80,8080", "443"]), Ok(vec![80, 8080, 443]));
        let many = "1,".repeat(MAX_PORTS) + "1";
        for bad in [&[][..], &["0"], &["65536"], &["http"], &[""], &[many.as_str()]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
