//! How the messages of a WebSocket are written that carry channels of bytes. Alone in its file, so that it can be fuzzed.

use base64::Engine as _;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

/// In a WebSocket of v5: the next byte is a channel that ends.
const CLOSE: u8 = 255;

/// Something from the client.
#[derive(Debug)]
pub enum Event {
    /// Bytes of a channel.
    Data(u8, Bytes),
    /// The channel ends; the connection stays.
    End(u8),
}

/// How the messages of a WebSocket are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// As text: the channel's digit (or what comes that far after `0`), and the rest in base64.
    base64: bool,
    /// The outcome is a text, or nothing when all went well; later it is a Status.
    pub outcome_is_text: bool,
    /// A channel may end before the others.
    closes: bool,
}

impl Dialect {
    /// The dialect of a subprotocol.
    pub fn of(protocol: &str) -> Self {
        Dialect {
            base64: protocol.contains("base64."),
            outcome_is_text: !protocol.starts_with('v'),
            closes: protocol.starts_with("v5."),
        }
    }

    /// The message with these bytes of a channel.
    pub fn write(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let text = base64::engine::general_purpose::STANDARD.encode(data);
            return Message::Text(format!("{}{text}", char::from(b'0'.saturating_add(channel))).into());
        }
        let mut message = Vec::with_capacity(data.len().saturating_add(1));
        message.push(channel);
        message.extend_from_slice(data);
        Message::Binary(message.into())
    }

    /// What a message says; `None` for one that says nothing, or isn't written as it should be.
    pub fn read(self, data: &Bytes) -> Option<Event> {
        let (&first, rest) = data.split_first()?;
        if self.base64 {
            let channel = first.checked_sub(b'0')?;
            let data = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
            return Some(Event::Data(channel, data.into()));
        }
        match (first, rest) {
            (CLOSE, [channel]) if self.closes => Some(Event::End(*channel)),
            _ => Some(Event::Data(first, data.slice(1..))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a client sends is read without harm, and what we would write is read as it was.
        #[test]
        fn messages_of_every_dialect_are_read(channel in 0u8..5, data in prop::collection::vec(any::<u8>(), 0..100)) {
            for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io", ""] {
                let dialect = Dialect::of(protocol);
                let _ = dialect.read(&data.clone().into());
                let written = dialect.write(channel, &data).into_data();
                match dialect.read(&written) {
                    Some(Event::Data(to, read)) => prop_assert!(to == channel && read == data),
                    other => prop_assert!(false, "{protocol}: {other:?}"),
                }
            }
            prop_assert!(matches!(Dialect::of("v5.channel.k8s.io").read(&vec![CLOSE, 0].into()), Some(Event::End(0))));
        }
    }
}
