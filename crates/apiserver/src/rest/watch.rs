//! Watches: changes as lines of JSON, for as long as the client stays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::protobuf;
use apimachinery::{Cause, ObjectExt as _, Status};
use bytes::Bytes;
use http::Response;
use rand::RngExt as _;
use serde_json::{Value, json};

use super::read::refuse_options;
use crate::ApiServer;
use crate::authentication::User;
use crate::conversion;
use crate::registry::{Entry, Event, EventType, Events, Listed, Order, Reading, WatchStart, frame};
use crate::render::{partial, table};
use crate::request::ResourceRequest;
use crate::response::negotiation::Form;
use crate::response::{self, Body};
use crate::shares::Shares;

/// How often a watch with `allowWatchBookmarks` gets a bookmark.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// Watches that may be open at once: each costs its client nothing, and this process some 10 KB for as long as it lasts. A program with ten watches
/// on each of a thousand nodes has half of them.
const MAX_WATCHES: usize = 20_000;

/// The places of all watches.
pub fn places_of_watches() -> Arc<Shares> {
    Shares::of(MAX_WATCHES)
}

/// Begins a watch.
///
/// # Errors
/// 400 and 422 for selectors and options that can't be. That the resource version is too old (410) is an event of the stream.
/// 429 for who has too many open.
pub async fn watch(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    form: Form,
) -> Result<Response<Body>, Status> {
    let place = server.watches.take(user, 1)?;
    Ok(response::held_until_sent(begun(server, user, info, form).await?, place))
}

async fn begun(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    form: Form,
) -> Result<Response<Body>, Status> {
    let resource = server.cache.stored(info.kind)?;
    let mut filter = info.query.filter(info.kind, &info.path.namespace)?;
    if !info.path.name.is_empty() {
        filter.fields.terms.push(("metadata.name".into(), info.path.name.clone(), true));
    }
    let from = begin(info)?;
    let present = server.cache.revision();
    let subscription = match resource.subscribe(filter, from, present) {
        Ok(subscription) => subscription,
        Err(too_old) => {
            let text = format!("too old resource version: {} ({})", too_old.requested, too_old.oldest);
            let status = Status::gone(text).to_json();
            if form == Form::Protobuf {
                let event = protobuf::event("ERROR", &protobuf::status(&status)).into();
                return Ok(response::protobuf_stream(futures::stream::iter([event])));
            }
            let line = frame("ERROR", &crate::json::to_vec(&status));
            return Ok(response::json_stream(futures::stream::iter([line])));
        }
    };
    let feed = Feed {
        info: info.clone(),
        form,
        revision: subscription.revision,
        server: server.clone(),
        bookmarks: info.query.flag("allowWatchBookmarks"),
    };
    let initial = Arc::new(Listed::of_one(subscription.initial, subscription.revision));
    let share = server.unsent.take(user, initial.items.len().saturating_mul(size_of::<Arc<Entry>>()))?;
    let mut beginning = Beginning {
        initial: Some(resource.read(initial, Order::Revision, move |bytes| share.grow(bytes))),
        next: 0,
        backlog: subscription.backlog.into_iter(),
        is_marked: info.query.flag("sendInitialEvents"),
        ready: VecDeque::new(),
    };
    // An object that can't be converted is told of as long as there is no answer yet.
    beginning.advance(&feed).await?;
    let timeout = match info.query.number::<u64>("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        // Spread, so that not all clients come back at once (upstream's `--min-request-timeout`).
        _ => Duration::from_secs(rand::rng().random_range(1800..3600)),
    };
    let answer = if form == Form::Protobuf { response::protobuf_stream } else { response::json_stream };
    Ok(answer(feed.stream(beginning, subscription.events, timeout)))
}

/// Where the parameters say that the watch begins.
fn begin(info: &ResourceRequest) -> Result<WatchStart, Status> {
    let revision = info.query.number::<u64>("resourceVersion")?;
    let initial = !info.query.get("sendInitialEvents").is_empty();
    const FIELD: &str = "resourceVersionMatch";
    let mut causes = Vec::new();
    match info.query.get(FIELD) {
        "" if initial => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            causes.push(Cause::forbidden(FIELD, why));
        }
        "" => {}
        _ if !initial => {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            causes.push(Cause::forbidden(FIELD, why));
        }
        "NotOlderThan" => {}
        other => causes.push(Cause::not_supported(FIELD, &other.into(), &["NotOlderThan"])),
    }
    refuse_options(causes)?;
    if info.query.flag("sendInitialEvents") {
        return Ok(WatchStart::Now);
    }
    Ok(match revision {
        None | Some(0) => WatchStart::Now,
        Some(revision) => WatchStart::After(revision),
    })
}

/// What a watch begins with: made as it is sent. It holds on to the objects of the cache as a list does.
struct Beginning {
    initial: Option<Arc<Reading>>,
    next: usize,
    backlog: std::vec::IntoIter<(EventType, Arc<Event>)>,
    /// Whether a bookmark tells the client that it has seen what there was.
    is_marked: bool,
    /// Made, and not sent yet.
    ready: VecDeque<Bytes>,
}

impl Beginning {
    /// Makes some lines, if none is ready and there are more.
    async fn advance(&mut self, feed: &Feed) -> Result<(), Status> {
        while self.ready.is_empty() {
            if let Some(reading) = &self.initial {
                let listed = reading.listed().map_err(Status::internal)?;
                let batch = listed.batch(&mut self.next, conversion::batch_bytes(&feed.server, feed.info.kind));
                if batch.is_empty() {
                    self.initial = None;
                }
                for entry in conversion::entries(&feed.server, feed.info.kind, batch).await? {
                    let event = Event::new(EventType::Added, entry, None);
                    self.ready.push_back(feed.line(EventType::Added, &event, &event.entry));
                }
            } else if let Some((seen, event)) = self.backlog.next() {
                self.ready.push_back(feed.converted(seen, &event).await?);
            } else if std::mem::take(&mut self.is_marked) {
                self.ready.push_back(feed.bookmark(true));
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next line; none when it is over.
    async fn next(&mut self, feed: &Feed) -> Result<Option<Bytes>, Status> {
        self.advance(feed).await?;
        Ok(self.ready.pop_front())
    }
}

struct Feed {
    info: ResourceRequest,
    form: Form,
    revision: u64,
    server: Arc<ApiServer>,
    bookmarks: bool,
}

impl Feed {
    /// The line of an event, in the version that the client watches.
    async fn converted(&self, seen: EventType, event: &Event) -> Result<Bytes, Status> {
        if !self.info.kind.has_versions() {
            return Ok(self.line(seen, event, event.object_for(seen)));
        }
        let shown = event.object_for(seen);
        let converted = conversion::entries(&self.server, self.info.kind, vec![shown.clone()]).await?;
        Ok(self.line(seen, event, converted.first().unwrap_or(shown)))
    }

    fn line(&self, seen: EventType, event: &Event, entry: &Arc<Entry>) -> Bytes {
        let kind = self.info.kind;
        if self.form == Form::Json {
            let same = Arc::ptr_eq(entry, event.object_for(seen));
            return if same { event.frame(seen) } else { frame(seen.as_str(), &entry.bytes) };
        }
        if self.form == Form::Protobuf {
            return self.protobuf(seen.as_str(), &entry.protobuf(kind).bytes);
        }
        let object = entry.parse();
        let value = match self.form {
            Form::Table(version) => {
                let metadata = json!({"resourceVersion": object.resource_version()});
                table(&self.server, &self.info, version, &[object], metadata)
            }
            Form::Partial(version) => partial(version, &object),
            Form::Json | Form::Protobuf => unreachable!("answered above"),
        };
        frame(seen.as_str(), &crate::json::to_vec(&value))
    }

    fn protobuf(&self, what: &str, message: &[u8]) -> Bytes {
        protobuf::event(what, &protobuf::object(self.info.kind, message)).into()
    }

    fn bookmark(&self, initial: bool) -> Bytes {
        let kind = self.info.kind;
        let mut object = json!({"kind": kind.kind, "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.revision.to_string()}});
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let value: Value = match self.form {
            Form::Table(version) => json!({"kind": "Table", "apiVersion": version, "columnDefinitions": [],
                "metadata": {"resourceVersion": self.revision.to_string()},
                "rows": [{"cells": [], "object": partial(version, &object)}]}),
            Form::Partial(version) => partial(version, &object),
            Form::Protobuf => return self.protobuf("BOOKMARK", &protobuf::object_message(kind, &object).0),
            Form::Json => object,
        };
        frame("BOOKMARK", &crate::json::to_vec(&value))
    }

    /// The lines in order; ends when the client's time is up, or when it fell behind and its queue was closed.
    fn stream(
        mut self,
        beginning: Beginning,
        events: Events,
        timeout: Duration,
    ) -> impl futures::Stream<Item = Bytes> + Send + 'static {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        let ticks = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
        let state = (beginning, events, deadline, ticks);
        self.revision = self.revision.max(1);
        futures::stream::unfold(
            (self, state),
            |(mut feed, (mut beginning, mut events, mut deadline, mut ticks))| async move {
                // One whose first objects can't be converted, or are read too slowly, ends, and its client begins again.
                if let Some(line) = beginning.next(&feed).await.ok()? {
                    return Some((line, (feed, (beginning, events, deadline, ticks))));
                }
                let line = tokio::select! {
                    event = events.recv() => {
                        let (seen, event) = event?;
                        feed.revision = event.entry.revision;
                        // A watch to which an event can't be converted ends, and its client begins again.
                        feed.converted(seen, &event).await.ok()?
                    }
                    _ = ticks.tick(), if feed.bookmarks => {
                        // Read before the queue is found empty, so no event up to it is still to come.
                        let revision = feed.server.cache.revision();
                        if events.is_empty() {
                            feed.revision = feed.revision.max(revision);
                        }
                        feed.bookmark(false)
                    }
                    () = &mut deadline => return None,
                };
                Some((line, (feed, (beginning, events, deadline, ticks))))
            },
        )
    }
}
