//! Heads of requests and answers: read into what all of the ingress works with, and written.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use crate::framing::Length;
use crate::{HEAD, HEADERS, Trouble};

/// A message whose body is still to come. Its head is without what is about this connection alone (RFC 9110, section 7.6.1).
#[derive(Debug)]
pub struct Message<H> {
    pub head: H,
    pub length: Length,
    /// Whether its sender wants to go on with the connection.
    pub stays: bool,
    /// The client waits for a word before it sends the body (RFC 9110, section 10.1.1).
    pub expects: bool,
}

/// The protocol that a client wants to change to, or a backend changes to, in the message's extensions.
#[derive(Debug, Clone)]
pub struct Upgrade(pub HeaderValue);

/// What headers say of the message itself and of its connection.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects: bool,
    upgrade: Option<HeaderValue>,
}

const MALFORMED: Trouble = Trouble::Malformed("the head is malformed");

/// Takes a head, if all of it came: up to its empty line. What was `looked` at already isn't again. Lines may end without a carriage return
/// (RFC 9112, section 2.2).
fn take(input: &mut BytesMut, looked: &mut usize) -> Result<Option<Bytes>, Trouble> {
    let blank = input.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if blank > 0 {
        // Some send an empty line behind a body.
        input.advance(blank);
        *looked = 0;
    }
    while let Some(end) =
        memchr::memchr(b'\n', &input[*looked..]).map(|end| looked.saturating_add(end).saturating_add(1))
    {
        let empty = match input[end..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => break,
            _ => {
                *looked = end;
                continue;
            }
        };
        *looked = 0;
        return Ok(Some(input.split_to(end.saturating_add(empty)).freeze()));
    }
    if input.len() < HEAD { Ok(None) } else { Err(Trouble::LargeHead) }
}

fn whole<T>(parsed: Result<httparse::Status<T>, httparse::Error>) -> Result<T, Trouble> {
    match parsed {
        Ok(httparse::Status::Complete(end)) => Ok(end),
        Err(httparse::Error::TooManyHeaders) => Err(Trouble::LargeHead),
        _ => Err(MALFORMED),
    }
}

/// Headers, and what they say of the message. There will be `more`.
fn headers(head: &Bytes, lines: &[httparse::Header<'_>], more: usize) -> Result<(HeaderMap, Said), Trouble> {
    let mut map = HeaderMap::with_capacity(lines.len().saturating_add(more));
    let mut said = Said::default();
    let mut named: Vec<&[u8]> = Vec::new();
    for line in lines {
        let value = || HeaderValue::from_maybe_shared(head.slice_ref(line.value)).map_err(|_| MALFORMED);
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        // By their lengths, so that most headers are compared with nothing.
        match line.name.len() {
            14 if is("content-length") => {
                let length = digits(line.value).ok_or(Trouble::Malformed("the length of the body isn't a number"))?;
                if said.length.is_some_and(|other| other != length) {
                    return Err(Trouble::Malformed("the body has two lengths"));
                }
                if said.length.replace(length).is_none() {
                    map.append(header::CONTENT_LENGTH, value()?);
                }
            }
            17 if is("transfer-encoding") => {
                if said.chunked || !line.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Trouble::Malformed("the only transfer coding that is known is chunked"));
                }
                said.chunked = true;
            }
            10 if is("connection") => {
                for word in line.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    match word {
                        _ if word.eq_ignore_ascii_case(b"close") => said.close = true,
                        _ if word.eq_ignore_ascii_case(b"keep-alive") => said.keep_alive = true,
                        _ => named.push(word),
                    }
                }
            }
            7 if is("upgrade") => said.upgrade = Some(value()?),
            6 if is("expect") => said.expects |= line.value.eq_ignore_ascii_case(b"100-continue"),
            2 if is("te") => {}
            7 if is("trailer") => {}
            10 if is("keep-alive") => {}
            18 if is("proxy-authenticate") => {}
            19 if is("proxy-authorization") => {}
            _ => drop(map.append(HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| MALFORMED)?, value()?)),
        }
    }
    if said.chunked && said.length.is_some() {
        return Err(Trouble::Malformed("the body has both a length and a transfer coding"));
    }
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
    said.upgrade = said.upgrade.filter(|_| upgrades);
    Ok((map, said))
}

/// A number without a sign, which those of the library may have.
fn digits(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

impl Said {
    fn stays(&self, version: Version) -> bool {
        if version == Version::HTTP_10 { self.keep_alive && !self.close } else { !self.close }
    }
}

/// Reads the head of a request; nothing, if it isn't all there yet.
///
/// # Errors
/// When it is malformed, or its body might be read in two ways.
pub fn request(input: &mut BytesMut, looked: &mut usize) -> Result<Option<Message<Request<()>>>, Trouble> {
    let Some(bytes) = take(input, looked)? else { return Ok(None) };
    let mut room = [const { MaybeUninit::uninit() }; HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    whole(parsed.parse_with_uninit_headers(&bytes, &mut room))?;
    let version = version(parsed.version);
    let (headers, said) = headers(&bytes, parsed.headers, 10)?;
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(parsed.method.unwrap_or("").as_bytes()).map_err(|_| MALFORMED)?;
    let target = bytes.slice_ref(parsed.path.unwrap_or("").as_bytes());
    *head.uri_mut() = Uri::from_maybe_shared(target).map_err(|_| Trouble::Malformed("the target is malformed"))?;
    *head.version_mut() = version;
    *head.headers_mut() = headers;
    if version == Version::HTTP_10 && said.chunked {
        return Err(Trouble::Malformed("HTTP/1.0 has no chunks"));
    }
    let length = if said.chunked { Length::Chunked } else { Length::Exact(said.length.unwrap_or(0)) };
    let (stays, expects) = (said.stays(version), said.expects);
    if let Some(upgrade) = said.upgrade.filter(|_| version == Version::HTTP_11) {
        head.extensions_mut().insert(Upgrade(upgrade));
    }
    Ok(Some(Message { head, length, stays, expects }))
}

/// Reads the head of an answer to a request of this method; nothing, if it isn't all there yet.
///
/// # Errors
/// When it is malformed, or its body might be read in two ways.
pub fn answer(input: &mut BytesMut, looked: &mut usize, to: &Method) -> Result<Option<Message<Response<()>>>, Trouble> {
    let Some(bytes) = take(input, looked)? else { return Ok(None) };
    let mut room = [const { MaybeUninit::uninit() }; HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    whole(config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut room))?;
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0)).map_err(|_| MALFORMED)?;
    let version = version(parsed.version);
    let (headers, said) = headers(&bytes, parsed.headers, 0)?;
    let length = match said.length {
        _ if *to == Method::HEAD || has_no_body(status) => Length::Exact(0),
        Some(length) => Length::Exact(length),
        None if said.chunked => Length::Chunked,
        None => Length::Close,
    };
    let stays = said.stays(version) && length != Length::Close;
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    if let Some(upgrade) = said.upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS) {
        head.extensions_mut().insert(Upgrade(upgrade));
    }
    Ok(Some(Message { head, length, stays, expects: false }))
}

/// Answers that never have one (RFC 9110, section 6.4.1).
pub fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What a head says of the body behind it.
pub enum Announced {
    Length(u64),
    Chunked,
    /// There is none.
    None,
    /// What the headers say already, though none follows.
    AsTold,
}

/// Writes the head of a request to a backend.
pub fn write_request(head: &Request<()>, announced: &Announced, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_headers(head.headers(), announced, out);
    write_upgrade(head.extensions(), out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an answer to a client. `connection` is what is said of it, if anything.
pub fn write_answer(head: &Response<()>, announced: &Announced, connection: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status().canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    write_headers(head.headers(), announced, out);
    write_upgrade(head.extensions(), out);
    if let Some(connection) = connection {
        header_line(b"connection", connection.as_bytes(), out);
    }
    // An answer has the time at which it was made (RFC 9110, section 6.6.1).
    if !head.headers().contains_key(header::DATE) && !head.status().is_informational() {
        header_line(b"date", httpdate::fmt_http_date(std::time::SystemTime::now()).as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_headers(headers: &HeaderMap, announced: &Announced, out: &mut Vec<u8>) {
    let mut told = false;
    for (name, value) in headers {
        let stays = match announced {
            _ if *name == header::TRANSFER_ENCODING => false,
            _ if *name != header::CONTENT_LENGTH => true,
            Announced::Length(length) => {
                let right = !told && digits(value.as_bytes()) == Some(*length);
                told |= right;
                right
            }
            Announced::AsTold => true,
            Announced::Chunked | Announced::None => false,
        };
        if stays {
            header_line(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    match announced {
        Announced::Length(_) if told => {}
        Announced::Length(length) => header_line(b"content-length", length.to_string().as_bytes(), out),
        Announced::Chunked => header_line(b"transfer-encoding", b"chunked", out),
        Announced::None | Announced::AsTold => {}
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
