//! Processes that are going to die: after their last write they get no answer to anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use apiserver::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use tokio::sync::Notify;
use tower::Service;

use crate::cluster::Metrics;

/// How long controllers and scheduler live.
pub struct Life {
    /// Writes that they still do.
    left: AtomicUsize,
    over: AtomicBool,
    ended: Notify,
}

impl Life {
    /// One that ends with this many writes.
    pub fn new(writes: usize) -> Arc<Self> {
        Arc::new(Life { left: AtomicUsize::new(writes), over: AtomicBool::new(false), ended: Notify::new() })
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        while !self.is_over() {
            self.ended.notified().await;
        }
    }

    /// Ends it now.
    pub fn end(&self) {
        self.left.store(1, Ordering::Relaxed);
        self.spend();
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn spend(&self) {
        let left = self.left.load(Ordering::Relaxed).saturating_sub(1);
        self.left.store(left, Ordering::Relaxed);
        if left == 0 && !self.over.swap(true, Ordering::Relaxed) {
            self.ended.notify_waiters();
        }
    }

    /// A body that stops, without an end, when the life is over.
    fn bound(self: Arc<Self>, body: Body) -> Body {
        let own = self.clone();
        let frames = BodyStream::new(body).take_until(async move { own.ended().await });
        let end = futures::stream::poll_fn(move |_| if self.is_over() { Poll::Pending } else { Poll::Ready(None) });
        StreamBody::new(frames.chain(end)).boxed_unsync()
    }
}

/// The way to the API for a process that is going to die: after its last write it gets no answer to anything.
#[derive(Clone)]
pub struct Mortal {
    pub inner: apiserver::InProcess,
    pub store: Arc<store::MemoryStore>,
    pub metrics: Metrics,
    pub life: Arc<Life>,
}

impl<B> Service<Request<B>> for Mortal
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (life, store) = (self.life.clone(), self.store.clone());
        // Events are told in passing and decide nothing.
        let writes = request.method() != Method::GET && !request.uri().path().contains("/events");
        if let Some(answer) = self.metrics.lock().unwrap().get(request.uri().path()) {
            let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
            return Box::pin(async move { Ok(Response::new(body)) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let before = store.revision();
            if !life.is_over() {
                let answer = answer.await;
                // A write that changes nothing leaves nothing behind.
                if writes && answer.as_ref().is_ok_and(|a| a.status().is_success()) && store.revision() > before {
                    life.spend();
                }
                if !life.is_over() {
                    return answer.map(|a| a.map(|body| life.bound(body)));
                }
            }
            std::future::pending().await
        })
    }
}
