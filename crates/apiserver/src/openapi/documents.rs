//! Documents that clients asked for, kept compressed until the definitions change.
//!
//! Every client of kubectl's kind asks for them anew, and each takes the processor for a while to make: whoever asks often would make
//! the others wait. Upstream keeps them as well (`kube-openapi`'s handlers), with an `ETag` of their content.

use std::collections::HashMap;
use std::io::Write as _;

use apimachinery::Status;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::making;
use crate::response::{self, Body, negotiation};

/// At most so much is kept, compressed: the built-in kinds' documents have less than a third of that.
const MAX_KEPT_BYTES: usize = 8 << 20;

/// A document as it is made.
pub struct Made {
    /// The whole document, in the form that its content type says.
    pub bytes: Vec<u8>,
    pub content_type: &'static str,
    /// How long clients may keep it.
    pub cache_control: &'static str,
}

/// A document as it is kept.
#[derive(Clone)]
struct Document {
    packed: Bytes,
    length: usize,
    tag: HeaderValue,
    content_type: &'static str,
    cache_control: &'static str,
}

impl Document {
    fn pack(made: &Made) -> std::io::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::with_capacity(made.bytes.len() / 8), Compression::fast());
        encoder.write_all(&made.bytes)?;
        let mut packed = encoder.finish()?;
        packed.shrink_to_fit();
        let tag = negotiation::tag(&made.bytes);
        let Made { content_type, cache_control, .. } = *made;
        Ok(Document { packed: packed.into(), length: made.bytes.len(), tag, content_type, cache_control })
    }

    /// The answer to a client: 304 if it has the document, compressed if it accepts that and `whole` isn't set.
    async fn answer(self, request: &HeaderMap, whole: bool) -> Response<Body> {
        let mut answer = if !whole && negotiation::has_tag(request, &self.tag) {
            let mut answer = response::with_type(200, self.content_type, response::full(Bytes::new()));
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer
        } else if !whole && negotiation::wants_gzip(request) {
            let mut answer = response::with_type(200, self.content_type, response::full(self.packed));
            negotiation::mark_compressed(answer.headers_mut());
            answer
        } else {
            let unpack = move || bounded::bytes_of(GzDecoder::new(&*self.packed), self.length as u64);
            let unpacked = tokio::task::spawn_blocking(unpack);
            match unpacked.await {
                Ok(Ok(bytes)) => response::with_type(200, self.content_type, response::full(bytes)),
                _ => return response::error(&Status::internal("the document can't be read")),
            }
        };
        // Tagged by its content, whatever form it is sent in but YAML.
        if !whole {
            answer.headers_mut().insert(header::ETAG, self.tag);
        }
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(self.cache_control));
        answer
    }
}

/// The documents of one generation of the catalog.
#[derive(Default)]
struct Kept {
    generation: u64,
    documents: HashMap<String, Document>,
}

impl Kept {
    fn get(&self, name: &str, generation: u64) -> Option<Document> {
        self.documents.get(name).filter(|_| self.generation == generation).cloned()
    }

    fn put(&mut self, name: &str, generation: u64, document: Document) {
        let size: usize = self.documents.values().map(|document| document.packed.len()).sum();
        if self.generation != generation || size.saturating_add(document.packed.len()) > MAX_KEPT_BYTES {
            *self = Kept { generation, ..Kept::default() };
        }
        self.documents.insert(name.into(), document);
    }
}

/// The documents that were asked for.
#[derive(Default)]
pub struct Documents {
    kept: parking_lot::Mutex<Kept>,
    /// Documents are made one at a time; who waits for its turn may find its own one made.
    turn: tokio::sync::Mutex<()>,
}

impl Documents {
    /// The answer with the document `name` of a generation of the catalog, which `make` makes if it isn't kept. `whole` is for who goes on to write it
    /// in another form: neither compressed nor tagged.
    ///
    /// # Errors
    /// 404 when there is no such document, 500 when it can't be made.
    pub async fn answer(
        &self,
        name: &str,
        generation: u64,
        make: impl FnOnce() -> Option<Made> + Send + 'static,
        request: &HeaderMap,
        whole: bool,
    ) -> Result<Response<Body>, Status> {
        let kept = self.kept.lock().get(name, generation);
        let document = match kept {
            Some(document) => document,
            None => self.wait_for(name, generation, make).await?,
        };
        Ok(document.answer(request, whole).await)
    }

    /// Makes a document when it is its turn, unless another client had it made meanwhile.
    async fn wait_for(
        &self,
        name: &str,
        generation: u64,
        make: impl FnOnce() -> Option<Made> + Send + 'static,
    ) -> Result<Document, Status> {
        let _turn = self.turn.lock().await;
        if let Some(document) = self.kept.lock().get(name, generation) {
            return Ok(document);
        }
        let made = making::on_a_thread(move || make().map(|made| Document::pack(&made)));
        let packed = made.await?.ok_or_else(Status::no_route)?;
        let document = packed.map_err(|error| Status::internal(format!("the document can't be packed: {error}")))?;
        self.kept.lock().put(name, generation, document.clone());
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    async fn body(answer: Response<Body>) -> Bytes {
        answer.into_body().collect().await.unwrap().to_bytes()
    }

    /// Asks for the document "d", and counts in `made` how often it is made.
    async fn ask(
        documents: &Documents,
        made: &Arc<AtomicUsize>,
        generation: u64,
        request: &HeaderMap,
    ) -> Response<Body> {
        let made = made.clone();
        let make = move || {
            made.fetch_add(1, Ordering::Relaxed);
            Some(Made { bytes: vec![b'x'; 100_000], content_type: "application/json", cache_control: "no-cache" })
        };
        documents.answer("d", generation, make, request, false).await.unwrap()
    }

    #[tokio::test]
    async fn a_document_is_made_once_for_a_generation() {
        let (documents, made) = (Documents::default(), Arc::new(AtomicUsize::new(0)));
        let plain = ask(&documents, &made, 1, &HeaderMap::new()).await;
        let tag = plain.headers()[header::ETAG].to_str().unwrap().to_string();
        assert_eq!(body(plain).await, vec![b'x'; 100_000]);
        let packed = ask(&documents, &made, 1, &with(header::ACCEPT_ENCODING, "gzip")).await;
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(packed.headers()[header::ETAG].to_str().unwrap(), tag);
        assert!(body(packed).await.len() < 1000);
        let known = ask(&documents, &made, 1, &with(header::IF_NONE_MATCH, &format!("\"a\", {tag}"))).await;
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
        assert!(body(known).await.is_empty());
        assert_eq!(made.load(Ordering::Relaxed), 1);
        ask(&documents, &made, 2, &HeaderMap::new()).await;
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn who_asks_at_the_same_time_waits_for_one_making() {
        let (documents, made, none) = (Documents::default(), Arc::new(AtomicUsize::new(0)), HeaderMap::new());
        futures::future::join_all((0..20).map(|_| ask(&documents, &made, 7, &none))).await;
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let unknown = documents.answer("other", 7, || None, &none, false).await;
        assert_eq!(unknown.unwrap_err().code, 404);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        let document = |size: usize| Document {
            packed: vec![0; size].into(),
            length: size,
            tag: HeaderValue::from_static("t"),
            content_type: "a",
            cache_control: "b",
        };
        for n in 0..100 {
            kept.put(&n.to_string(), 0, document(1 << 20));
            assert!(kept.documents.len() <= 8);
            assert!(kept.get(&n.to_string(), 0).is_some());
        }
    }
}
