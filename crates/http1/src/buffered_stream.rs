//! A connection with a read buffer and a write buffer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Stream;

/// Capacity that is reserved for a read: the smaller for heads, the larger once a read has filled the smaller.
const MIN_READ_BYTES: usize = 8 << 10;
const MAX_READ_BYTES: usize = 64 << 10;
/// With this much capacity left nothing is reserved. Bytes that were split off keep the old allocation alive.
const MIN_READ_BUFFER_BYTES: usize = 2 << 10;
/// Smaller parts of a body are copied into the write buffer.
const MAX_COPIED_BODY_BYTES: usize = 4 << 10;
/// With this much in the write buffer, no more of a body is requested.
const MAX_WRITE_BUFFER_BYTES: usize = 64 << 10;

/// A connection with a read buffer and a write buffer.
pub struct BufferedStream {
    stream: Stream,
    /// Bytes that were received and aren't parsed yet.
    pub input: BytesMut,
    room: usize,
    /// The write buffer: `out` from `at` on, then `then`.
    out: Vec<u8>,
    at: usize,
    then: Bytes,
    bytes_sent: u64,
}

impl BufferedStream {
    /// Empty buffers around a connection.
    pub fn new(stream: Stream) -> Self {
        BufferedStream {
            stream,
            input: BytesMut::new(),
            room: MIN_READ_BYTES,
            out: Vec::new(),
            at: 0,
            then: Bytes::new(),
            bytes_sent: 0,
        }
    }

    /// Reads more into `input`; false at the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.spare_capacity() < self.room.min(MIN_READ_BUFFER_BYTES) || self.room > MIN_READ_BYTES {
            self.input.reserve(self.room);
        }
        let room = self.spare_capacity();
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        self.room = if read == room { MAX_READ_BYTES } else { MIN_READ_BYTES };
        Poll::Ready(Ok(read > 0))
    }

    fn spare_capacity(&self) -> usize {
        self.input.capacity().saturating_sub(self.input.len())
    }

    /// Bytes of `out` that aren't sent yet.
    fn unsent(&self) -> usize {
        self.out.len().saturating_sub(self.at)
    }

    /// The write buffer, for heads.
    pub fn out(&mut self) -> &mut Vec<u8> {
        // Bytes of a body that are still queued come first.
        if !self.then.is_empty() {
            let then = std::mem::take(&mut self.then);
            self.out.extend_from_slice(&then);
        }
        &mut self.out
    }

    /// Queues bytes of a body, without a copy if they are many.
    pub fn send(&mut self, bytes: Bytes) {
        if bytes.len() < MAX_COPIED_BODY_BYTES || !self.then.is_empty() {
            self.out().extend_from_slice(&bytes);
        } else {
            self.then = bytes;
        }
    }

    /// Whether there is something to flush.
    pub fn has_pending_output(&self) -> bool {
        self.at < self.out.len() || !self.then.is_empty()
    }

    /// Whether no more should be queued before a flush.
    pub fn is_write_buffer_full(&self) -> bool {
        self.unsent().saturating_add(self.then.len()) >= MAX_WRITE_BUFFER_BYTES
    }

    /// Bytes that were sent altogether.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Sends the write buffer.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_pending_output() {
            let (out, stream) = (&self.out[self.at..], Pin::new(&mut self.stream));
            let bytes_sent = ready!(if self.then.is_empty() {
                stream.poll_write(cx, out)
            } else {
                stream.poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(&self.then)])
            })?;
            if bytes_sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes_sent = self.bytes_sent.saturating_add(bytes_sent as u64);
            let of_out = bytes_sent.min(self.unsent());
            self.at = self.at.saturating_add(of_out);
            self.then.advance(bytes_sent.saturating_sub(of_out));
        }
        self.out.clear();
        self.at = 0;
        // TLS has a buffer of its own.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends the end of the stream.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Reads the buffer first, so that a connection can be handed to another protocol.
impl AsyncRead for BufferedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.input.is_empty() {
            return Pin::new(&mut stream.stream).poll_read(cx, buffer);
        }
        let some = stream.input.len().min(buffer.remaining());
        buffer.put_slice(&stream.input.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BufferedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(BufferedStream::poll_flush(stream, cx))?;
        Pin::new(&mut stream.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        BufferedStream::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        BufferedStream::poll_shutdown(self.get_mut(), cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(BufferedStream::poll_flush(stream, cx))?;
        Pin::new(&mut stream.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
