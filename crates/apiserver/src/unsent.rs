//! Answers that their clients haven't read yet: what they keep in memory is part of the [share](Shares) of who asked for them, and a client that
//! doesn't read one in time loses its connection (upstream's `--request-timeout`, which a handler that writes slowly runs into, too).
//!
//! What streams as long as its client wants (watches, logs, exec) isn't counted here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{Response, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::authentication::User;
use crate::response::{self, Body, BoxError};
use crate::shares::{Share, Shares, owner, too_many};

/// How long a client may take to read an answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that all answers together may keep in memory.
const BUDGET: usize = 128 << 20;
/// Answers up to this size aren't counted: they cost no more than the request itself.
const SMALL: usize = 16 << 10;
/// Bytes of an answer made piece by piece that may be on their way to the client; the next piece is made when there are fewer.
const WINDOW: usize = 256 << 10;
/// What the compression of one answer keeps in memory (zlib's `deflate`, with its window and hash tables).
const COMPRESSION: usize = 320 << 10;

/// Memory for unread answers.
pub fn memory() -> Arc<Shares> {
    Shares::of(BUDGET)
}

/// Marks an answer that ends by itself, with whose it is.
#[derive(Clone)]
struct Ends {
    owner: Arc<str>,
    is_read: bool,
}

/// Marks an answer as one that ends by itself, so that [`hold`] counts it. `is_read` says that nothing was changed: the answer may be
/// refused.
pub fn ending(mut answer: Response<Body>, user: &User, is_read: bool) -> Response<Body> {
    if answer.body().size_hint().exact().is_none_or(|size| size > SMALL as u64) {
        answer.extensions_mut().insert(Ends { owner: owner(user), is_read });
    }
    answer
}

/// The connection that a request came by: ends when it is cancelled.
#[derive(Clone)]
pub struct Connection(pub CancellationToken);

/// Counts an answer until its last byte is on the wire, paces it, and ends its connection when that takes too long. An answer without a mark stays
/// as it is, and so does a small one.
pub fn hold(memory: &Arc<Shares>, mut answer: Response<Body>, connection: Option<&Connection>) -> Response<Body> {
    let Some(Ends { owner, is_read }) = answer.extensions_mut().remove::<Ends>() else { return answer };
    let bytes = match answer.body().size_hint().exact() {
        Some(whole) if whole <= SMALL as u64 => return answer,
        Some(whole) => usize::try_from(whole).unwrap_or(usize::MAX),
        None if answer.headers().contains_key(header::CONTENT_ENCODING) => WINDOW + COMPRESSION,
        None => WINDOW,
    };
    // What was written was written, and its client must hear of it.
    let share = match is_read {
        true => memory.take_for(owner, bytes),
        false => Some(memory.take_anyway(owner, bytes)),
    };
    let Some(share) = share else { return response::refuse(&too_many()) };
    let (sent, is_sent) = oneshot::channel::<Infallible>();
    if let Some(connection) = connection.cloned() {
        tasks::spawn("answer-timeout", async move {
            if tokio::time::timeout(TIMEOUT, is_sent).await.is_err() {
                tracing::debug!("closed the connection of a client that didn't read an answer in time");
                connection.0.cancel();
            }
        });
    }
    let held = Arc::new(Held { share, on_the_way: AtomicUsize::new(0), room: AtomicWaker::new(), _sent: sent });
    let is_paced = connection.is_some();
    answer.map(|body| response::boxed(HeldBody { body, held, is_paced }))
}

/// What an answer and its pieces have in common. Dropped with the last of them.
struct Held {
    share: Share,
    /// Bytes that were given to the connection, and that it hasn't written yet.
    on_the_way: AtomicUsize,
    /// Wakes the body when there is room for another piece.
    room: AtomicWaker,
    _sent: oneshot::Sender<Infallible>,
}

/// A body that is part of somebody's share.
struct HeldBody {
    body: Body,
    held: Arc<Held>,
    /// Whether the pieces go to a connection, which drops each when it is written. A client in the process may collect them.
    is_paced: bool,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_paced && self.held.on_the_way.load(Ordering::Acquire) >= WINDOW {
            self.held.room.register(cx.waker());
            if self.held.on_the_way.load(Ordering::Acquire) >= WINDOW {
                return Poll::Pending;
            }
        }
        // What is there as a whole is counted already.
        let is_whole = self.body.size_hint().exact().is_some();
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else { return Poll::Ready(None) };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(other) => return Poll::Ready(Some(Ok(other))),
        };
        let mut more = None;
        if !is_whole && data.len() > WINDOW {
            more = self.held.share.another(data.len());
            if more.is_none() {
                return Poll::Ready(Some(Err("its client has too much unread already".into())));
            }
        }
        self.held.on_the_way.fetch_add(data.len(), Ordering::AcqRel);
        let piece = Piece { data, held: self.held.clone(), _more: more };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a body on its way.
struct Piece {
    data: Bytes,
    held: Arc<Held>,
    _more: Option<Share>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.on_the_way.fetch_sub(self.data.len(), Ordering::AcqRel);
        self.held.room.wake();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn answer(user: &User, is_read: bool, pieces: &[usize]) -> Response<Body> {
        let pieces: Vec<Bytes> = pieces.iter().map(|n| Bytes::from(vec![b'x'; *n])).collect();
        let answer = match pieces.as_slice() {
            [whole] => response::json_bytes(200, whole.clone()),
            _ => response::json_stream(futures::stream::iter(pieces)),
        };
        ending(answer, user, is_read)
    }

    #[tokio::test]
    async fn an_answer_counts_until_its_last_byte_is_gone() {
        let unsent = Shares::of(3 << 20);
        let user = User::new("anna", &[]);
        let whole = hold(&unsent, answer(&user, true, &[1 << 20]), None);
        assert_eq!((unsent.total(), whole.body().size_hint().exact()), (1 << 20, Some(1 << 20)));
        let data = whole.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((unsent.total(), data.len()), (1 << 20, 1 << 20), "it may still be in the buffer of a connection");
        drop(data);
        assert_eq!(unsent.total(), 0);
        let small = hold(&unsent, answer(&user, true, &[SMALL]), None);
        assert_eq!((unsent.total(), small.status().as_u16()), (0, 200));
        // A piece that is larger than the window counts besides.
        let mut stream = hold(&unsent, answer(&user, true, &[10, WINDOW + 1, 4 << 20]), None).into_body();
        assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap().len(), 10);
        assert_eq!(unsent.total(), WINDOW);
        let piece = stream.frame().await.unwrap().unwrap();
        assert_eq!(unsent.total(), 2 * WINDOW + 1);
        assert!(stream.frame().await.unwrap().is_err(), "there is no room for it");
        drop((piece, stream));
        assert_eq!(unsent.total(), 0);
    }

    #[test]
    fn only_reads_are_refused() {
        let unsent = Shares::of(1 << 20);
        let user = User::new("anna", &[]);
        let _first = hold(&unsent, answer(&user, true, &[1 << 20]), None);
        for (is_read, code) in [(true, 429), (false, 200)] {
            assert_eq!(hold(&unsent, answer(&user, is_read, &[1 << 20]), None).status().as_u16(), code);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_sent_no_more_than_a_window_and_loses_the_connection() {
        let unsent = memory();
        let user = User::new("anna", &[]);
        let connection = Connection(CancellationToken::new());
        let pieces = [WINDOW / 2; 10];
        let mut body = hold(&unsent, answer(&user, true, &pieces), Some(&connection)).into_body();
        let unread = [body.frame().await.unwrap().unwrap(), body.frame().await.unwrap().unwrap()];
        assert!(futures::poll!(body.frame()).is_pending());
        drop(unread);
        assert!(futures::poll!(body.frame()).is_ready(), "there is room again");
        let begun = tokio::time::Instant::now();
        connection.0.cancelled().await;
        assert_eq!(begun.elapsed().as_secs(), TIMEOUT.as_secs());

        let connection = Connection(CancellationToken::new());
        let mut body = hold(&unsent, answer(&user, true, &pieces), Some(&connection)).into_body();
        while let Some(frame) = body.frame().await {
            assert!(frame.is_ok());
        }
        drop(body);
        tokio::time::sleep(2 * TIMEOUT).await;
        assert!(!connection.0.is_cancelled(), "it was read in time");
    }
}
