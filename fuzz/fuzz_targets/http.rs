//! Messages of HTTP/1.1: read whole and byte by byte, which must come to the same.
#![no_main]

use bytes::BytesMut;
use http::Method;
use http1::{Decoder, Length, Decoded, HttpError};
use libfuzzer_sys::fuzz_target;

/// What was read: the target, the headers, the body, and what is left. Nothing, if it is malformed or not whole.
type Read = Option<(String, Vec<(String, Vec<u8>)>, Vec<u8>, Vec<u8>)>;

/// Reads a request out of parts.
fn request(parts: &[&[u8]]) -> Result<Read, HttpError> {
    let (mut input, mut scanned, mut parts) = (BytesMut::new(), 0, parts.iter());
    let message = loop {
        if let Some(message) = http1::read_request(&mut input, &mut scanned)? {
            break message;
        }
        let Some(part) = parts.next() else { return Ok(None) };
        input.extend_from_slice(part);
    };
    let headers = message.head.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let (target, headers) = (message.head.uri().to_string(), headers.collect());
    let (mut decoder, mut body) = (Decoder::new(message.length), Vec::new());
    loop {
        match decoder.diff_script(&mut input)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::End => break,
            Decoded::NeedInput => match parts.next() {
                Some(part) => input.extend_from_slice(part),
                None => return Ok(None),
            },
        }
    }
    parts.for_each(|part| input.extend_from_slice(part));
    Ok(Some((target, headers, body, input.to_vec())))
}

fuzz_target!(|bytes: &[u8]| {
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    match (request(&[bytes]), request(&single)) {
        (Ok(whole), Ok(single)) => assert_eq!(whole, single),
        // Either way it is no request.
        (whole, single) => assert!(!matches!(whole, Ok(Some(_))) && !matches!(single, Ok(Some(_)))),
    }
    for method in [Method::GET, Method::HEAD] {
        let mut input = BytesMut::from(bytes);
        if let Ok(Some(answer)) = http1::read_response(&mut input, &mut 0, &method) {
            assert!(method != Method::HEAD || answer.length == Length::Exact(0));
        }
    }
});
