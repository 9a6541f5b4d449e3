//! Heads of requests and responses: parsed into the types of the crate `http`, and written.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use crate::framing::Length;
use crate::{HttpError, MAX_HEAD_BYTES, MAX_HEADERS};

/// A message whose body follows. Hop-by-hop headers are removed from its head (RFC 9110, section 7.6.1).
#[derive(Debug)]
pub struct Message<H> {
    /// The request or response without its body.
    pub head: H,
    /// How the body's length is given.
    pub length: Length,
    /// Whether the connection persists after this message (RFC 9112, section 9.3).
    pub keep_alive: bool,
    /// The client waits for 100 (Continue) before it sends the body (RFC 9110, section 10.1.1).
    pub expect_continue: bool,
}

/// Extension of a message: the protocol of its `Upgrade` header (RFC 9110, section 7.8).
#[derive(Debug, Clone)]
pub struct Upgrade(pub HeaderValue);

/// Values of the headers that concern framing and the connection.
#[derive(Default)]
struct FramingHeaders {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expect_continue: bool,
    upgrade: Option<HeaderValue>,
}

const MALFORMED: HttpError = HttpError::Malformed("the head is malformed");

/// Splits off the head, up to its empty line, if it is complete. The first `scanned` bytes aren't searched again. Lines may end without a
/// carriage return (RFC 9112, section 2.2).
fn split_head(input: &mut BytesMut, scanned: &mut usize) -> Result<Option<Bytes>, HttpError> {
    let blank = input.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if blank > 0 {
        // Some clients send an empty line after a body (RFC 9112, section 2.2).
        input.advance(blank);
        *scanned = 0;
    }
    while let Some(end) =
        memchr::memchr(b'\n', &input[*scanned..]).map(|end| scanned.saturating_add(end).saturating_add(1))
    {
        let empty = match input[end..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => break,
            _ => {
                *scanned = end;
                continue;
            }
        };
        *scanned = 0;
        return Ok(Some(input.split_to(end.saturating_add(empty)).freeze()));
    }
    if input.len() < MAX_HEAD_BYTES { Ok(None) } else { Err(HttpError::HeadTooLarge) }
}

fn complete<T>(parsed: Result<httparse::Status<T>, httparse::Error>) -> Result<T, HttpError> {
    match parsed {
        Ok(httparse::Status::Complete(end)) => Ok(end),
        Err(httparse::Error::TooManyHeaders) => Err(HttpError::HeadTooLarge),
        _ => Err(MALFORMED),
    }
}

/// Headers, and what they say of the message. There will be `more`.
fn headers(
    head: &Bytes,
    lines: &[httparse::Header<'_>],
    more: usize,
) -> Result<(HeaderMap, FramingHeaders), HttpError> {
    let mut map = HeaderMap::with_capacity(lines.len().saturating_add(more));
    let mut framing = FramingHeaders::default();
    let mut named: Vec<&[u8]> = Vec::new();
    for line in lines {
        let value = || HeaderValue::from_maybe_shared(head.slice_ref(line.value)).map_err(|_| MALFORMED);
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        // Names are matched by their lengths first, so that most headers need no comparison.
        match line.name.len() {
            14 if is("content-length") => {
                let length = digits(line.value).ok_or(HttpError::Malformed("content-length isn't a number"))?;
                if framing.length.is_some_and(|other| other != length) {
                    return Err(HttpError::Malformed("two different values of content-length"));
                }
                if framing.length.replace(length).is_none() {
                    map.append(header::CONTENT_LENGTH, value()?);
                }
            }
            17 if is("transfer-encoding") => {
                if framing.chunked || !line.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HttpError::Malformed("a transfer coding other than chunked"));
                }
                framing.chunked = true;
            }
            10 if is("connection") => {
                for word in line.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    match word {
                        _ if word.eq_ignore_ascii_case(b"close") => framing.close = true,
                        _ if word.eq_ignore_ascii_case(b"keep-alive") => framing.keep_alive = true,
                        _ => named.push(word),
                    }
                }
            }
            7 if is("upgrade") => framing.upgrade = Some(value()?),
            6 if is("expect") => framing.expect_continue |= line.value.eq_ignore_ascii_case(b"100-continue"),
            2 if is("te") => {}
            7 if is("trailer") => {}
            10 if is("keep-alive") => {}
            18 if is("proxy-authenticate") => {}
            19 if is("proxy-authorization") => {}
            _ => drop(map.append(HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| MALFORMED)?, value()?)),
        }
    }
    if framing.chunked && framing.length.is_some() {
        return Err(HttpError::Malformed("both content-length and transfer-encoding"));
    }
    let upgrades = remove_hop_by_hop(&mut map, &named);
    framing.upgrade = framing.upgrade.filter(|_| upgrades);
    Ok((map, framing))
}

/// Removes the headers that `connection` names (RFC 9110, section 7.6.1); returns whether `upgrade` is one of them.
fn remove_hop_by_hop(map: &mut HeaderMap, named: &[&[u8]]) -> bool {
    let mut upgrades = false;
    for name in named {
        upgrades |= name.eq_ignore_ascii_case(b"upgrade");
        // Not what the message can't be understood without.
        if let Ok(name) = HeaderName::from_bytes(name)
            && ![header::HOST, header::CONTENT_LENGTH].contains(&name)
        {
            map.remove(name);
        }
    }
    upgrades
}

/// Parses a number; unlike `str::parse` it accepts no sign.
fn digits(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

impl FramingHeaders {
    fn keep_alive(&self, version: Version) -> bool {
        if version == Version::HTTP_10 { self.keep_alive && !self.close } else { !self.close }
    }
}

/// Parses the head of a request; `None` if it isn't complete yet.
///
/// # Errors
/// When it is too large or malformed, or the length of its body is ambiguous.
pub fn request(input: &mut BytesMut, scanned: &mut usize) -> Result<Option<Message<Request<()>>>, HttpError> {
    let Some(bytes) = split_head(input, scanned)? else { return Ok(None) };
    let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    complete(parsed.parse_with_uninit_headers(&bytes, &mut room))?;
    let version = version(parsed.version);
    let (headers, framing) = headers(&bytes, parsed.headers, 10)?;
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(parsed.method.unwrap_or("").as_bytes()).map_err(|_| MALFORMED)?;
    let target = bytes.slice_ref(parsed.path.unwrap_or("").as_bytes());
    *head.uri_mut() = Uri::from_maybe_shared(target).map_err(|_| HttpError::Malformed("the target is malformed"))?;
    *head.version_mut() = version;
    *head.headers_mut() = headers;
    if version == Version::HTTP_10 && framing.chunked {
        return Err(HttpError::Malformed("HTTP/1.0 has no chunks"));
    }
    let length = if framing.chunked { Length::Chunked } else { Length::Exact(framing.length.unwrap_or(0)) };
    let (keep_alive, expect_continue) = (framing.keep_alive(version), framing.expect_continue);
    if let Some(upgrade) = framing.upgrade.filter(|_| version == Version::HTTP_11) {
        head.extensions_mut().insert(Upgrade(upgrade));
    }
    Ok(Some(Message { head, length, keep_alive, expect_continue }))
}

/// Parses the head of the response to a request of this method; `None` if it isn't complete yet.
///
/// # Errors
/// When it is too large or malformed, or the length of its body is ambiguous.
pub fn response(
    input: &mut BytesMut,
    scanned: &mut usize,
    to: &Method,
) -> Result<Option<Message<Response<()>>>, HttpError> {
    let Some(bytes) = split_head(input, scanned)? else { return Ok(None) };
    let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    complete(config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut room))?;
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0)).map_err(|_| MALFORMED)?;
    let version = version(parsed.version);
    let (headers, framing) = headers(&bytes, parsed.headers, 0)?;
    let length = match framing.length {
        _ if *to == Method::HEAD || has_no_body(status) => Length::Exact(0),
        Some(length) => Length::Exact(length),
        None if framing.chunked => Length::Chunked,
        None => Length::Close,
    };
    let keep_alive = framing.keep_alive(version) && length != Length::Close;
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    if let Some(upgrade) = framing.upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS) {
        head.extensions_mut().insert(Upgrade(upgrade));
    }
    Ok(Some(Message { head, length, keep_alive, expect_continue: false }))
}

/// Whether a response of this status never has a body (RFC 9110, section 6.4.1).
pub fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The headers that a head gets for the body after it.
pub enum BodyFraming {
    Length(u64),
    Chunked,
    /// There is no body.
    None,
    /// The headers stay as they are, though no body follows (response to HEAD, 304).
    AsInHeaders,
}

/// Writes the head of a request to a backend.
pub fn write_request(head: &Request<()>, framing: &BodyFraming, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_headers(head.headers(), framing, out);
    write_upgrade(head.extensions(), out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a response to a client. `connection` is the value of that header, if it gets one.
pub fn write_response(head: &Response<()>, framing: &BodyFraming, connection: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status().canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    write_headers(head.headers(), framing, out);
    write_upgrade(head.extensions(), out);
    if let Some(connection) = connection {
        header_line(b"connection", connection.as_bytes(), out);
    }
    // An origin server sends a Date (RFC 9110, section 6.6.1).
    if !head.headers().contains_key(header::DATE) && !head.status().is_informational() {
        header_line(b"date", httpdate::fmt_http_date(std::time::SystemTime::now()).as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_headers(headers: &HeaderMap, framing: &BodyFraming, out: &mut Vec<u8>) {
    let mut length_written = false;
    for (name, value) in headers {
        let copy = match framing {
            _ if *name == header::TRANSFER_ENCODING => false,
            _ if *name != header::CONTENT_LENGTH => true,
            BodyFraming::Length(length) => {
                let right = !length_written && digits(value.as_bytes()) == Some(*length);
                length_written |= right;
                right
            }
            BodyFraming::AsInHeaders => true,
            BodyFraming::Chunked | BodyFraming::None => false,
        };
        if copy {
            header_line(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    match framing {
        BodyFraming::Length(_) if length_written => {}
        BodyFraming::Length(length) => header_line(b"content-length", length.to_string().as_bytes(), out),
        BodyFraming::Chunked => header_line(b"transfer-encoding", b"chunked", out),
        BodyFraming::None | BodyFraming::AsInHeaders => {}
    }
}

fn write_upgrade(extensions: &http::Extensions, out: &mut Vec<u8>) {
    if let Some(Upgrade(protocol)) = extensions.get() {
        header_line(b"upgrade", protocol.as_bytes(), out);
        header_line(b"connection", b"upgrade", out);
    }
}

fn header_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
