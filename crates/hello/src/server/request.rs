//! Requests, read to limits of bytes, headers and time. Bodies aren't: no page takes one.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const MAX_HEAD_BYTES: usize = 8 << 10;
const MAX_HEADERS: usize = 64;
/// What is read of a request after its answer.
const MAX_DISCARDED_BYTES: usize = 256 << 10;
const MAX_DISCARD_TIME: Duration = Duration::from_millis(500);

/// What of a request the pages need.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub is_head: bool,
    /// The client is a browser.
    pub wants_html: bool,
}

/// Why a request isn't answered with a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: u16,
    pub why: &'static str,
}

fn refuse<T>(code: u16, why: &'static str) -> Result<T, Refused> {
    Err(Refused { code, why })
}

/// Reads what is there before the deadline; 0 at the end and after it.
fn read_some(stream: &mut TcpStream, buffer: &mut [u8], deadline: Instant) -> usize {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return 0;
        }
        match stream.read(buffer) {
            Ok(count) => return count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return 0,
        }
    }
}

/// Reads a request up to the end of its headers. Nothing if the client left before it said anything.
pub fn read(stream: &mut TcpStream, deadline: Instant) -> Result<Option<Request>, Refused> {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let count = read_some(stream, &mut buffer, deadline);
        if count == 0 {
            return if head.is_empty() {
                Ok(None)
            } else {
                refuse(408, "the request came too slowly or not to its end")
            };
        }
        // The end may lie across two pieces.
        let searched = head.len().saturating_sub(3);
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head[searched..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return parse(&head[..searched + end]).map(Some);
        }
        if head.len() > MAX_HEAD_BYTES {
            return refuse(431, "the request's headers are too large");
        }
    }
}

fn parse(head: &[u8]) -> Result<Request, Refused> {
    let Ok(head) = std::str::from_utf8(head) else { return refuse(400, "the request isn't text") };
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else { return refuse(400, "the request line is malformed") };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return refuse(400, "the request line is malformed");
    }
    let mut wants_html = false;
    for (number, line) in lines.enumerate() {
        if number >= MAX_HEADERS {
            return refuse(431, "the request has too many headers");
        }
        let Some((name, value)) = line.split_once(':') else { return refuse(400, "a header is malformed") };
        wants_html |= name.eq_ignore_ascii_case("accept") && value.contains("text/html");
    }
    let path = target.split('?').next().unwrap_or_default().to_string();
    Ok(Request { method: method.into(), path, is_head: method == "HEAD", wants_html })
}

/// Reads what a client still sends, not for long.
pub fn discard(stream: &mut TcpStream, deadline: Instant) {
    let deadline = deadline.min(Instant::now() + MAX_DISCARD_TIME);
    let (mut left, mut buffer) = (MAX_DISCARDED_BYTES, [0; 1024]);
    while left > 0 {
        match read_some(stream, &mut buffer, deadline) {
            0 => return,
            count => left = left.saturating_sub(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_or_refused() {
        let request = parse(b"GET /peers?a=b HTTP/1.1\r\nACCEPT: text/html, */*").unwrap();
        assert_eq!((request.path.as_str(), request.wants_html, request.is_head), ("/peers", true, false));
        for (head, code) in [
            (&b"GET /"[..], 400),
            (b"GET / HTTP/2", 400),
            (b"GET http://a/ HTTP/1.1", 400),
            (b"GET / HTTP/1.1\r\nno header", 400),
            (b"GET /\xff HTTP/1.1", 400),
        ] {
            assert_eq!(parse(head).map_err(|refused| refused.code), Err(code), "{head:?}");
        }
    }
}
