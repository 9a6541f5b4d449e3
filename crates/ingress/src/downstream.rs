//! The client's side of a request.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::HeaderValue;

/// Where a connection came from, and the header values that tell backends so.
pub struct Downstream {
    pub from: IpAddr,
    /// The port that accepted it.
    pub port: u16,
    /// Whether it has TLS.
    pub secure: bool,
    /// `from`, for headers.
    pub client: HeaderValue,
    /// `port`, for headers.
    pub port_text: HeaderValue,
}

impl Downstream {
    /// The downstream of a connection.
    pub fn new(from: SocketAddr, port: u16, secure: bool) -> Self {
        let from = from.ip().to_canonical();
        let text = |text: String| HeaderValue::from_maybe_shared(Bytes::from(text));
        let nobody = || HeaderValue::from_static("");
        let client = text(from.to_string()).unwrap_or_else(|_| nobody());
        Downstream { from, port, secure, client, port_text: text(port.to_string()).unwrap_or_else(|_| nobody()) }
    }
}
