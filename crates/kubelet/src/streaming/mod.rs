//! What exec and attach speak with their client: numbered channels of bytes in both directions.
//!
//! Two carriers: WebSocket, where every message begins with its channel (KEP-4006, `v5.channel.k8s.io` and its forerunners; [`dialect`]),
//! and SPDY/3.1, where each channel is a stream that the client opens (clients before 1.31; [`spdy`]).

#[deny(clippy::arithmetic_side_effects)]
pub mod dialect;
#[deny(clippy::arithmetic_side_effects)]
pub mod spdy;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use dialect::Dialect;
pub use dialect::Event;
use spdy::StreamOutput;

/// Channel of the input.
pub const STDIN: u8 = 0;
/// Channel of the output.
pub const STDOUT: u8 = 1;
/// Channel of the errors.
pub const STDERR: u8 = 2;
/// Carries the final status.
pub const ERROR: u8 = 3;
/// Carries the terminal's sizes.
pub const RESIZE: u8 = 4;

/// The one that both carriers have; v5 is WebSocket's own.
pub const V4: &str = "v4.channel.k8s.io";
/// Which channels the client asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// The input.
    pub stdin: bool,
    /// The output.
    pub stdout: bool,
    /// The errors.
    pub stderr: bool,
    /// Whether they are those of a terminal.
    pub tty: bool,
}

impl Wants {
    /// The channel of a stream of SPDY, if it was asked for.
    pub fn channel(self, stream_type: &str) -> Option<u8> {
        match stream_type {
            "error" => Some(ERROR),
            "stdin" if self.stdin => Some(STDIN),
            "stdout" if self.stdout => Some(STDOUT),
            // A terminal has one output.
            "stderr" if self.stderr && !self.tty => Some(STDERR),
            "resize" if self.tty => Some(RESIZE),
            _ => None,
        }
    }

    /// The streams of SPDY that there are, each with its channel, in the order in which clients open them.
    pub fn streams(self) -> impl Iterator<Item = (&'static str, u8)> {
        let all = ["error", "stdin", "stdout", "stderr", "resize"].into_iter();
        all.filter_map(move |kind| Some((kind, self.channel(kind)?)))
    }
}

/// Sends to the client, from several tasks.
#[derive(Clone)]
pub enum Sender {
    WebSocket(mpsc::Sender<Message>, Dialect),
    Spdy(Arc<HashMap<u8, StreamOutput>>),
}

impl Sender {
    /// False when the client is gone.
    pub async fn send(&self, channel: u8, data: &[u8]) -> bool {
        match self {
            Sender::WebSocket(queue, dialect) => queue.send(dialect.write(channel, data)).await.is_ok(),
            Sender::Spdy(streams) => match streams.get(&channel) {
                Some(stream) => stream.send(data).await.is_ok(),
                None => true,
            },
        }
    }

    /// The last message: how it went. The connection ends after it.
    pub async fn finish(self, status: &Value) {
        match &self {
            Sender::WebSocket(_, dialect) if dialect.outcome_is_text => {
                if status["status"] != "Success" {
                    self.send(ERROR, status["message"].as_str().unwrap_or("").as_bytes()).await;
                }
            }
            _ => {
                self.send(ERROR, status.to_string().as_bytes()).await;
            }
        }
        match self {
            Sender::WebSocket(queue, _) => {
                let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let _ = queue.send(Message::Close(Some(normal))).await;
            }
            Sender::Spdy(streams) => {
                for stream in streams.values() {
                    stream.end().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn each_dialect_tells_the_outcome_in_its_own_way() {
        let said = |protocol: &'static str, status: Value| async move {
            let (queue, mut told) = mpsc::channel(16);
            Sender::WebSocket(queue, Dialect::of(protocol)).finish(&status).await;
            let mut all = Vec::new();
            while let Some(message) = told.recv().await {
                if !message.is_close() {
                    all.push(String::from_utf8(message.into_data().to_vec()).unwrap());
                }
            }
            all
        };
        let (well, ill) = (json!({"status": "Success"}), json!({"status": "Failure", "message": "no"}));
        for oldest in ["", "channel.k8s.io"] {
            assert!(said(oldest, well.clone()).await.is_empty());
            assert_eq!(said(oldest, ill.clone()).await, ["\u{3}no"]);
        }
        assert_eq!(said("base64.channel.k8s.io", ill.clone()).await, ["3bm8="]);
        assert_eq!(said(V4, well.clone()).await, ["\u{3}{\"status\":\"Success\"}"]);
        assert!(said("v4.base64.channel.k8s.io", well).await[0].starts_with('3'));
    }
}
