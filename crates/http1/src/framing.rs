//! Message body length and transfer codings (RFC 9112, sections 6 and 7).

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{BufferedStream, HttpError};

/// How the length of a message's body is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// `Content-Length`, in bytes.
    Exact(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends when the connection is closed.
    Close,
}

/// Limits of the line with a chunk's size, and of the trailer section.
const CHUNK_LINE: usize = 1 << 10;
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// Result of a step of a [`Decoder`].
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// More input is needed.
    NeedInput,
    /// The body is complete.
    End,
}

/// Incremental decoder of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoder {
    /// Remaining bytes of a body with a length.
    Exact(u64),
    /// Remaining bytes of a chunk, with its line end.
    Chunk(u64),
    /// The next line has a chunk's size.
    ChunkSize,
    /// The line end after a chunk is next.
    ChunkEnd,
    /// The trailer section is next.
    Trailers,
    /// The body lasts until the connection is closed.
    Close,
    /// The body is complete.
    Done,
}

impl Decoder {
    /// A decoder of a body of this length.
    pub fn new(length: Length) -> Self {
        match length {
            Length::Exact(0) => Decoder::Done,
            Length::Exact(length) => Decoder::Exact(length),
            Length::Chunked => Decoder::ChunkSize,
            Length::Close => Decoder::Close,
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        *self == Decoder::Done
    }

    /// Remaining bytes of the body, if known.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Decoder::Exact(remaining) => Some(*remaining),
            Decoder::Done => Some(0),
            _ => None,
        }
    }

    /// Takes the next bytes of the body from `input`.
    ///
    /// # Errors
    /// [`HttpError::Malformed`] when the chunked coding is malformed.
    pub fn step(&mut self, input: &mut BytesMut) -> Result<Decoded, HttpError> {
        loop {
            match self {
                Decoder::Done => return Ok(Decoded::End),
                _ if input.is_empty() => return Ok(Decoded::NeedInput),
                Decoder::Close => return Ok(Decoded::Data(input.split().freeze())),
                Decoder::Exact(remaining) | Decoder::Chunk(remaining) => {
                    let some = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                    *remaining = remaining.saturating_sub(some as u64);
                    match self {
                        Decoder::Exact(0) => *self = Decoder::Done,
                        Decoder::Chunk(0) => *self = Decoder::ChunkEnd,
                        _ => {}
                    }
                    return Ok(Decoded::Data(input.split_to(some).freeze()));
                }
                Decoder::ChunkSize => match chunk_size(input)? {
                    Some((end, size)) => {
                        input.advance(end);
                        *self = if size == 0 { Decoder::Trailers } else { Decoder::Chunk(size) };
                    }
                    None => return Ok(Decoded::NeedInput),
                },
                Decoder::ChunkEnd => {
                    if input.len() < 2 {
                        return Ok(Decoded::NeedInput);
                    }
                    if input[..2] != *b"\r\n" {
                        return Err(HttpError::Malformed("a chunk is longer than its size"));
                    }
                    input.advance(2);
                    *self = Decoder::ChunkSize;
                }
                // Trailers are dropped, as a proxy may (RFC 9110, section 6.5.1).
                Decoder::Trailers => {
                    let mut trailers = [httparse::EMPTY_HEADER; 32];
                    match httparse::parse_headers(input, &mut trailers) {
                        Ok(httparse::Status::Complete((end, _))) if end <= MAX_TRAILER_BYTES => {
                            input.advance(end);
                            *self = Decoder::Done;
                        }
                        Ok(httparse::Status::Partial) if input.len() < MAX_TRAILER_BYTES => {
                            return Ok(Decoded::NeedInput);
                        }
                        _ => return Err(HttpError::Malformed("the trailer section is malformed")),
                    }
                }
            }
        }
    }
}

/// The end of the line with a chunk's size, and the size. `httparse` accepts any bytes after the number, and a missing number as zero; other
/// parsers read these differently, so they are rejected here.
fn chunk_size(input: &[u8]) -> Result<Option<(usize, u64)>, HttpError> {
    let malformed = || Err(HttpError::Malformed("a chunk's size is malformed"));
    let line = &input[..input.len().min(CHUNK_LINE)];
    let end = memchr::memchr(b'\n', line);
    if !input[0].is_ascii_hexdigit() || (end.is_none() && line.len() == CHUNK_LINE) {
        return malformed();
    }
    let Some(end) = end.map(|end| end.saturating_add(1)) else { return Ok(None) };
    match httparse::parse_chunk_size(&line[..end]) {
        Ok(httparse::Status::Complete((read, size))) if read == end => Ok(Some((end, size))),
        _ => malformed(),
    }
}

/// Encoder of a body onto a connection.
#[derive(Debug)]
pub enum Encoder {
    Exact(u64),
    Chunked,
    /// The connection ends with it.
    Close,
    /// There is none, whatever the head says: the answer to HEAD, 204 and 304.
    Nothing,
}

impl Encoder {
    /// # Errors
    /// When it is more than was announced.
    pub fn data(&mut self, bytes: Bytes, stream: &mut BufferedStream) -> Result<(), HttpError> {
        match self {
            _ if bytes.is_empty() => {}
            Encoder::Nothing => {}
            Encoder::Close => stream.send(bytes),
            Encoder::Exact(remaining) => {
                *remaining =
                    remaining.checked_sub(bytes.len() as u64).ok_or(HttpError::Malformed("the body is too long"))?;
                stream.send(bytes);
            }
            Encoder::Chunked => {
                use std::io::Write as _;
                // Writing to memory can't fail.
                let _ = write!(stream.out(), "{:x}\r\n", bytes.len());
                stream.send(bytes);
                stream.out().extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// # Errors
    /// When less came than was announced.
    pub fn end(&mut self, stream: &mut BufferedStream) -> Result<(), HttpError> {
        match self {
            Encoder::Exact(1..) => return Err(HttpError::Malformed("the body is too short")),
            Encoder::Chunked => stream.out().extend_from_slice(b"0\r\n\r\n"),
            _ => {}
        }
        Ok(())
    }
}
