//! A connection with what came and wasn't read yet, and what is to go.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Stream;

/// Room for one read: little for heads, more once that much came.
const READ: (usize, usize) = (8 << 10, 64 << 10);
/// With so much room left, no other is made. What was read out of it may be held for longer.
const ENOUGH: usize = 2 << 10;
/// Bodies of less are copied behind what goes before them.
const COPIED: usize = 4 << 10;
/// With so much to go, nothing more is asked for.
const FULL: usize = 64 << 10;

pub struct Wire {
    stream: Stream,
    pub input: BytesMut,
    room: usize,
    /// What is to go: `out` from `at` on, then `then`.
    out: Vec<u8>,
    at: usize,
    then: Bytes,
    sent: u64,
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        Wire { stream, input: BytesMut::new(), room: READ.0, out: Vec::new(), at: 0, then: Bytes::new(), sent: 0 }
    }

    /// Takes in what came; false at the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.room_left() < self.room.min(ENOUGH) || self.room > READ.0 {
            self.input.reserve(self.room);
        }
        let room = self.room_left();
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        self.room = if read == room { READ.1 } else { READ.0 };
        Poll::Ready(Ok(read > 0))
    }

    fn room_left(&self) -> usize {
        self.input.capacity().saturating_sub(self.input.len())
    }

    /// What of `out` hasn't gone yet, in bytes.
    fn waiting(&self) -> usize {
        self.out.len().saturating_sub(self.at)
    }

    /// Where heads and the like are written.
    pub fn out(&mut self) -> &mut Vec<u8> {
        // What comes behind a body that waits comes behind its bytes.
        if !self.then.is_empty() {
            let then = std::mem::take(&mut self.then);
            self.out.extend_from_slice(&then);
        }
        &mut self.out
    }

    /// What is to go next, without a copy if it is large.
    pub fn send(&mut self, bytes: Bytes) {
        if bytes.len() < COPIED || !self.then.is_empty() {
            self.out().extend_from_slice(&bytes);
        } else {
            self.then = bytes;
        }
    }

    pub fn has_output(&self) -> bool {
        self.at < self.out.len() || !self.then.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.waiting().saturating_add(self.then.len()) >= FULL
    }

    /// How much went altogether, in bytes.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends all that is to go.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_output() {
            let (out, stream) = (&self.out[self.at..], Pin::new(&mut self.stream));
            let sent = ready!(if self.then.is_empty() {
                stream.poll_write(cx, out)
            } else {
                stream.poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(&self.then)])
            })?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent = self.sent.saturating_add(sent as u64);
            let of_out = sent.min(self.waiting());
            self.at = self.at.saturating_add(of_out);
            self.then.advance(sent.saturating_sub(of_out));
        }
        self.out.clear();
        self.at = 0;
        // TLS keeps back what its connection didn't take.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What came first comes first: so a connection is handed on to those who speak another protocol on it.
impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.input.is_empty() {
            return Pin::new(&mut wire.stream).poll_read(cx, buffer);
        }
        let some = wire.input.len().min(buffer.remaining());
        buffer.put_slice(&wire.input.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        ready!(Wire::poll_flush(wire, cx))?;
        Pin::new(&mut wire.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Wire::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Wire::poll_shutdown(self.get_mut(), cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        ready!(Wire::poll_flush(wire, cx))?;
        Pin::new(&mut wire.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
