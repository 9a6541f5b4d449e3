//! Get and list: which objects. What is sent of a list is [`list`]'s.

use std::sync::Arc;

use apimachinery::{Cause, Status};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use serde_json::{Value, json};
use store::ReadError;

use super::list::{self, Answer, Past, Source};
use crate::ApiServer;
use crate::authentication::User;
use crate::conversion;
use crate::registry::{Entry, Filter, Listed, PIECE};
use crate::render::one;
use crate::request::ResourceRequest;
use crate::response::Body;
use crate::response::negotiation::Form;

/// Get.
///
/// # Errors
/// 404 without the object, 504 for a resource version that isn't reached in time.
pub async fn get(server: &ApiServer, info: &ResourceRequest, form: Form) -> Result<Response<Body>, Status> {
    if let Some(revision) = info.query.number::<u64>("resourceVersion")? {
        wait_for(server, revision).await?;
    }
    let entry = server.cache.stored(info.kind)?.get(&info.key()).ok_or_else(|| info.not_found())?;
    if !info.kind.has_versions() {
        return Ok(one(server, info, form, 200, entry.bytes.clone()));
    }
    let converted = conversion::entries(server, info.kind, vec![entry]).await?;
    let bytes = converted.first().map(|e| e.bytes.clone()).ok_or_else(|| info.not_found())?;
    Ok(one(server, info, form, 200, bytes))
}

/// Where a list goes on: the revision it is of, and the key to begin after. Without a revision it goes on with what is
/// there then, which may not agree with the pages before.
pub struct Continue {
    revision: Option<u64>,
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        let revision = self.revision.map_or(json!(-1), |r| json!(r));
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.after}).to_string())
    }

    /// # Errors
    /// 400 for what no list returned.
    pub fn decode(token: &str) -> Result<Self, Status> {
        let parse = || -> Option<Continue> {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            let revision = match value["rv"].as_i64()? {
                -1 => None,
                revision => Some(u64::try_from(revision).ok()?),
            };
            Some(Continue { revision, after: value["start"].as_str()?.into() })
        };
        parse().ok_or_else(|| Status::bad_request("continue key is not valid: it must be one that a list returned"))
    }
}

/// List, of the present or, by `resourceVersion` and `continue`, of the past.
///
/// # Errors
/// 400 and 422 for selectors and options that can't be, 410 for a past that is compacted, 504 for a resource version that isn't reached in
/// time.
pub async fn list(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    form: Form,
    yaml: bool,
) -> Result<Response<Body>, Status> {
    let resource = server.cache.stored(info.kind)?;
    let filter = info.query.filter(info.kind, &info.path.namespace)?;
    let limit = info.query.number::<usize>("limit")?.unwrap_or(0);
    let token = info.query.get("continue");
    let wanted = wanted_revision(info)?;
    if let Some(newer) = wanted.not_older_than {
        wait_for(server, newer).await?;
    }
    let present = server.cache.revision();
    let is_whole = limit == 0 && token.is_empty() && wanted.exactly.is_none();
    if is_whole && filter.is_everything() {
        let listed = resource.whole_list();
        let answer = Answer { form, yaml, revision: present.max(listed.changed), more: None };
        return list::answer(server, user, info, Source::Present(listed), answer).await;
    }
    let from = if token.is_empty() {
        Continue { revision: wanted.exactly, after: String::new() }
    } else {
        Continue::decode(token)?
    };
    let (portion, revision) = match from.revision {
        Some(revision) => (at_revision(server, info, &filter, revision, &from.after, limit).await?, revision),
        None => {
            let (items, changed) = resource.list(&filter);
            (Portion::of(items, changed, &from.after, limit), present.max(changed))
        }
    };
    let more = (portion.left > 0).then(|| {
        // How many are left is only known without selectors.
        let left = (filter.labels.is_empty() && filter.fields.terms.is_empty()).then_some(portion.left);
        (Continue { revision: Some(revision), after: portion.last }.encode(), left)
    });
    list::answer(server, user, info, portion.source, Answer { form, yaml, revision, more }).await
}

/// The objects of a page of a list, the key of the last one, and how many there are after them.
struct Portion {
    source: Source,
    last: String,
    left: usize,
}

impl Portion {
    /// At most `limit` (0: any number) of `items` after the key `after`.
    fn of(mut items: Vec<Arc<Entry>>, changed: u64, after: &str, limit: usize) -> Self {
        let start = if after.is_empty() { 0 } else { items.partition_point(|e| e.key.as_ref() <= after) };
        items.drain(..start);
        let left = if limit == 0 { 0 } else { items.len().saturating_sub(limit) };
        items.truncate(items.len() - left);
        let last = items.last().map(|e| e.key.to_string()).unwrap_or_default();
        Portion { source: Source::Present(Arc::new(Listed::of_one(items, changed))), last, left }
    }
}

#[derive(Default)]
struct Wanted {
    exactly: Option<u64>,
    not_older_than: Option<u64>,
}

/// `resourceVersion` and `resourceVersionMatch` of a list.
fn wanted_revision(info: &ResourceRequest) -> Result<Wanted, Status> {
    let revision = info.query.number::<u64>("resourceVersion")?;
    let continued = !info.query.get("continue").is_empty();
    let matching = info.query.get("resourceVersionMatch");
    const FIELD: &str = "resourceVersionMatch";
    let mut causes = Vec::new();
    if !matching.is_empty() {
        if continued {
            causes.push(Cause::forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if revision.is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            causes.push(Cause::forbidden(FIELD, why));
        }
        match matching {
            "Exact" if revision == Some(0) => {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                causes.push(Cause::forbidden(FIELD, why));
            }
            "Exact" | "NotOlderThan" => {}
            other => causes.push(Cause::not_supported(FIELD, &other.into(), &["Exact", "NotOlderThan", ""])),
        }
    }
    if info.query.flag("sendInitialEvents") {
        causes.push(Cause::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    refuse_options(causes)?;
    if continued && revision.is_some_and(|r| r > 0) {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let limited = info.query.number::<usize>("limit")?.unwrap_or(0) > 0;
    Ok(match revision {
        Some(r) if r > 0 && (matching == "Exact" || (matching.is_empty() && limited)) => {
            Wanted { exactly: Some(r), not_older_than: None }
        }
        Some(r) if r > 0 => Wanted { exactly: None, not_older_than: Some(r) },
        _ => Wanted::default(),
    })
}

/// The answer to options of a list or watch that don't go together.
///
/// # Errors
/// 422 with the causes, if there are any.
pub fn refuse_options(causes: Vec<Cause>) -> Result<(), Status> {
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes)) }
}

/// Waits a little for a revision that a client has seen elsewhere.
async fn wait_for(server: &ApiServer, revision: u64) -> Result<(), Status> {
    let reached = tokio::time::timeout(std::time::Duration::from_secs(3), server.cache.wait_for(revision)).await;
    reached.map_err(|_| {
        let text = format!("Too large resource version: {revision}, current: {}", server.cache.revision());
        Status::new(504, "Timeout", text)
    })
}

/// The matching objects as of `revision`: from the cache while nothing changed since, else from the store's history. Of these, what is more than a
/// piece is only counted here, and read again when it is sent.
async fn at_revision(
    server: &ApiServer,
    info: &ResourceRequest,
    filter: &Filter,
    revision: u64,
    after: &str,
    limit: usize,
) -> Result<Portion, Status> {
    let resource = server.cache.stored(info.kind)?;
    let (items, changed) = resource.list(filter);
    if changed <= revision {
        wait_for(server, revision).await?;
        return Ok(Portion::of(items, changed, after, limit));
    }
    let most = if limit == 0 { usize::MAX } else { limit };
    let page = Past { filter: filter.clone(), revision, after: after.into(), limit: most };
    let mut rest = Past { limit: usize::MAX, ..page.clone() };
    let is_selected = !filter.labels.is_empty() || !filter.fields.terms.is_empty();
    let (mut kept, mut bytes, mut count) = (Vec::new(), 0usize, 0usize);
    let (mut last, mut left) = (String::new(), 0usize);
    loop {
        let found = rest.next(server, info).await.map_err(|e| not_readable(e, after))?;
        let is_end = found.is_empty();
        for entry in found {
            if count == most {
                left += 1;
                continue;
            }
            count += 1;
            last = entry.key.to_string();
            bytes = bytes.saturating_add(entry.bytes.len());
            kept.push(entry);
        }
        if bytes > PIECE {
            kept = Vec::new();
        }
        // `remainingItemCount` is left out for lists with a selector.
        if is_end || (limit == 0 && bytes > PIECE) || (is_selected && left > 0) {
            break;
        }
    }
    let source = match bytes > PIECE {
        true => Source::Past(page),
        false => Source::Present(Arc::new(Listed::of_one(kept, revision))),
    };
    Ok(Portion { source, last, left })
}

/// Why a page of the past, after the key `after`, can't be read.
fn not_readable(error: ReadError, after: &str) -> Status {
    match error {
        ReadError::Compacted { .. } if after.is_empty() => {
            Status::gone(format!("The resourceVersion for the provided list is too old: {error}"))
        }
        ReadError::Compacted { .. } => Status {
            continues: Some(Continue { revision: None, after: after.into() }.encode()),
            ..Status::gone(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter, or use the continue token in this response to retrieve the \
                 remainder of the results. Continuing with the provided token results in an inconsistent list - \
                 objects that were created, modified, or deleted between the time the first chunk was returned and \
                 now may show up in the list.",
            )
        },
        other => Status::internal(other),
    }
}
