//! Header blocks of SPDY/3.1: one zlib stream over the whole session, with a dictionary.

use std::collections::HashMap;
use std::io;

use flate2::{Decompress, FlushDecompress, Status};

/// The most bytes of one stream's headers.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// Headers of one stream; those of Kubernetes have four.
const MAX_HEADERS: usize = 64;

/// The dictionary that header blocks are packed with (section 2.6.10.1): words, each behind its length, and a text.
pub fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
        proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
        user-agent vary via warning www-authenticate method get status 200\u{a0}OK version HTTP/1.1 url public set-cookie \
        keep-alive origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
        Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
        Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
        Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
        application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
        charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('\u{a0}', " ");
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TEXT.as_bytes());
    out
}

/// Reads header blocks, which are one zlib stream over the whole session.
pub struct Unpacker {
    stream: Decompress,
    /// What the stream is packed with, until it has asked for it.
    dictionary: Option<Vec<u8>>,
}

impl Unpacker {
    /// At the beginning of a session.
    pub fn new() -> Self {
        Unpacker { stream: Decompress::new(true), dictionary: Some(dictionary()) }
    }

    /// The headers of one block.
    ///
    /// # Errors
    /// When it is malformed or too large.
    pub fn headers(&mut self, block: &[u8]) -> io::Result<HashMap<String, String>> {
        let mut plain = Vec::with_capacity(MAX_HEADER_BYTES);
        let mut input = block;
        while !input.is_empty() {
            let (read, written) = (self.stream.total_in(), plain.len());
            let mut asked = false;
            match self.stream.decompress_vec(input, &mut plain, FlushDecompress::Sync) {
                // It has to last as long as the session.
                Ok(Status::StreamEnd) => return Err(io::Error::other("the headers' compression ended")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    let dictionary = self.dictionary.take().ok_or_else(|| io::Error::other(error))?;
                    self.stream.set_dictionary(&dictionary).map_err(io::Error::other)?;
                    asked = true;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
            if plain.len() >= MAX_HEADER_BYTES {
                return Err(io::Error::other("the headers are too large"));
            }
            let used = usize::try_from(self.stream.total_in().saturating_sub(read)).unwrap_or(usize::MAX);
            // Each round must get on, or it would be the last that there is.
            if used == 0 && plain.len() == written && !asked {
                return Err(io::Error::other("the headers can't be unpacked"));
            }
            input = input.get(used..).unwrap_or_default();
        }
        read_headers(&plain).ok_or_else(|| io::Error::other("the headers are malformed"))
    }
}

/// Parses an unpacked block; nothing for a malformed one.
pub fn read_headers(mut plain: &[u8]) -> Option<HashMap<String, String>> {
    fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (head, rest) = from.split_at_checked(n)?;
        *from = rest;
        Some(head)
    }
    fn count(from: &mut &[u8]) -> Option<usize> {
        let bytes = take(from, 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }
    let pairs = count(&mut plain).filter(|pairs| *pairs <= MAX_HEADERS)?;
    let mut headers = HashMap::new();
    for _ in 0..pairs {
        let n = count(&mut plain)?;
        let name = String::from_utf8_lossy(take(&mut plain, n)?).to_ascii_lowercase();
        let n = count(&mut plain)?;
        let value = String::from_utf8_lossy(take(&mut plain, n)?).into_owned();
        headers.insert(name, value);
    }
    Some(headers)
}
