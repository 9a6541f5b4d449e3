//! Where a body ends (RFC 9112, sections 6 and 7).

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{Trouble, Wire};

/// How a message says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Exact(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// The longest line with a chunk's size, and all that may come behind the last chunk, in bytes.
const CHUNK_LINE: usize = 1 << 10;
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// What a decoder made of what came.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Data(Bytes),
    /// Something must come first.
    More,
    End,
}

/// Takes a body out of what comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoder {
    Exact(u64),
    /// What is left of a chunk with its line end.
    Chunk(u64),
    /// The line with a chunk's size is next.
    ChunkSize,
    /// The line end behind a chunk is next.
    ChunkEnd,
    Trailers,
    Close,
    Done,
}

impl Decoder {
    pub fn new(length: Length) -> Self {
        match length {
            Length::Exact(0) => Decoder::Done,
            Length::Exact(length) => Decoder::Exact(length),
            Length::Chunked => Decoder::ChunkSize,
            Length::Close => Decoder::Close,
        }
    }

    pub fn is_done(&self) -> bool {
        *self == Decoder::Done
    }

    /// What is still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Decoder::Exact(left) => Some(*left),
            Decoder::Done => Some(0),
            _ => None,
        }
    }

    /// # Errors
    /// When it isn't a body as it was announced.
    pub fn step(&mut self, input: &mut BytesMut) -> Result<Step, Trouble> {
        loop {
            match self {
                Decoder::Done => return Ok(Step::End),
                _ if input.is_empty() => return Ok(Step::More),
                Decoder::Close => return Ok(Step::Data(input.split().freeze())),
                Decoder::Exact(left) | Decoder::Chunk(left) => {
                    let some = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left = left.saturating_sub(some as u64);
                    match self {
                        Decoder::Exact(0) => *self = Decoder::Done,
                        Decoder::Chunk(0) => *self = Decoder::ChunkEnd,
                        _ => {}
                    }
                    return Ok(Step::Data(input.split_to(some).freeze()));
                }
                Decoder::ChunkSize => match chunk_size(input)? {
                    Some((end, size)) => {
                        input.advance(end);
                        *self = if size == 0 { Decoder::Trailers } else { Decoder::Chunk(size) };
                    }
                    None => return Ok(Step::More),
                },
                Decoder::ChunkEnd => {
                    if input.len() < 2 {
                        return Ok(Step::More);
                    }
                    if input[..2] != *b"\r\n" {
                        return Err(Trouble::Malformed("a chunk isn't as long as it says"));
                    }
                    input.advance(2);
                    *self = Decoder::ChunkSize;
                }
                // Nobody is told of them, as a proxy may decide (RFC 9110, section 6.5.1).
                Decoder::Trailers => {
                    let mut trailers = [httparse::EMPTY_HEADER; 32];
                    match httparse::parse_headers(input, &mut trailers) {
                        Ok(httparse::Status::Complete((end, _))) if end <= MAX_TRAILER_BYTES => {
                            input.advance(end);
                            *self = Decoder::Done;
                        }
                        Ok(httparse::Status::Partial) if input.len() < MAX_TRAILER_BYTES => return Ok(Step::More),
                        _ => return Err(Trouble::Malformed("what follows the last chunk is malformed")),
                    }
                }
            }
        }
    }
}

/// The end of the line with a chunk's size, and the size. The parser takes any bytes behind the number, and no number for zero; others
/// would read that differently.
fn chunk_size(input: &[u8]) -> Result<Option<(usize, u64)>, Trouble> {
    let malformed = || Err(Trouble::Malformed("a chunk has no proper size"));
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

/// Puts a body on a connection.
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
    pub fn data(&mut self, bytes: Bytes, wire: &mut Wire) -> Result<(), Trouble> {
        match self {
            _ if bytes.is_empty() => {}
            Encoder::Nothing => {}
            Encoder::Close => wire.send(bytes),
            Encoder::Exact(left) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(Trouble::Malformed("the body is too long"))?;
                wire.send(bytes);
            }
            Encoder::Chunked => {
                use std::io::Write as _;
                // Writing to memory can't fail.
                let _ = write!(wire.out(), "{:x}\r\n", bytes.len());
                wire.send(bytes);
                wire.out().extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// # Errors
    /// When less came than was announced.
    pub fn end(&mut self, wire: &mut Wire) -> Result<(), Trouble> {
        match self {
            Encoder::Exact(1..) => return Err(Trouble::Malformed("the body is too short")),
            Encoder::Chunked => wire.out().extend_from_slice(b"0\r\n\r\n"),
            _ => {}
        }
        Ok(())
    }
}
