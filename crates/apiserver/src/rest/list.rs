//! The answer that a list is: made piece by piece while its client reads it (KEP-5116), in whatever form. Nothing of it is in memory but the
//! piece that is sent, and the objects that the cache has anyway.
//!
//! A small list is made at once, by the same code, and has a `Content-Length`.

mod origin;
mod text;

use std::collections::VecDeque;
use std::sync::Arc;

use api::protobuf;
use apimachinery::{Status, yaml};
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::Value;

pub use origin::{Past, Source};

use crate::ApiServer;
use crate::authentication::User;
use crate::conversion;
use crate::json;
use crate::registry::{Entry, PIECE, Printer};
use crate::render::{partial, table_by};
use crate::request::ResourceRequest;
use crate::response::negotiation::{Form, YAML};
use crate::response::{self, Body, BoxError};
use origin::Origin;
use text::Text;

/// What a client is answered to a list.
pub struct Answer {
    pub form: Form,
    /// Whether it is written as YAML.
    pub yaml: bool,
    pub revision: u64,
    /// The token for what comes after it, and how much that is, if that is known.
    pub more: Option<(String, Option<usize>)>,
}

/// Answers with a list.
///
/// # Errors
/// 429 for who has too many lists that he doesn't read, and what a conversion of its first objects fails with.
pub async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    source: Source,
    answer: Answer,
) -> Result<Response<Body>, Status> {
    let is_small = matches!(&source, Source::Present(listed) if listed.bytes <= PIECE);
    let origin = Origin::of(server, user, info, source)?;
    let (rows, media) = match answer.form {
        Form::Json => (Rows::Json, "application/json"),
        Form::Protobuf => match size_as_protobuf(server, info, origin.clone()).await? {
            Some(size) => (Rows::Protobuf { size }, protobuf::MEDIA_TYPE),
            None => (Rows::Json, "application/json"),
        },
        Form::Partial(version) => (Rows::Partial(version), "application/json"),
        Form::Table(version) => (Rows::Table(version, server.catalog.printer(info.kind)), "application/json"),
    };
    let frame = Text::around(info, &rows, &answer);
    let (server, info, is_yaml) = (server.clone(), info.clone(), answer.yaml);
    let mut list =
        List { server, info, origin, rows, is_yaml, text: frame, ready: VecDeque::new(), stage: Stage::Begin };
    let media = if is_yaml { YAML } else { media };
    // An error of the first objects is one that the client hears of.
    let first = list.next().await?.unwrap_or_default();
    if is_small {
        let mut all = Vec::from(first);
        while let Some(piece) = list.next().await? {
            all.extend_from_slice(&piece);
        }
        return Ok(response::with_type(200, media, response::full(all)));
    }
    let rest = futures::stream::unfold(Some(list), |list| async {
        let mut list = list?;
        match list.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(list))),
            Ok(None) => None,
            Err(status) => {
                tracing::debug!(message = %status.message, "a list broke off");
                Some((Err(BoxError::from(status.message)), None))
            }
        }
    });
    use futures::StreamExt as _;
    let pieces = futures::stream::once(std::future::ready(Ok(first))).chain(rest);
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
    Ok(response::with_type(200, media, response::boxed(body)))
}

/// Bytes of all objects as items of a list in protobuf; none if one of them has fields that protobuf hasn't.
async fn size_as_protobuf(
    server: &ApiServer,
    info: &ResourceRequest,
    mut origin: Origin,
) -> Result<Option<usize>, Status> {
    let mut size = 0usize;
    loop {
        let batch = origin.next(server, info, PIECE).await?;
        if batch.is_empty() {
            return Ok(Some(size));
        }
        for entry in conversion::entries(server, info.kind, batch).await? {
            let message = entry.protobuf(info.kind);
            if !message.complete {
                return Ok(None);
            }
            size = size.saturating_add(protobuf::item_size(message.bytes.len()));
        }
    }
}

/// The items of a list.
enum Rows {
    Json,
    Protobuf { size: usize },
    Partial(&'static str),
    Table(&'static str, Printer),
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Begin,
    /// Nothing was written between the brackets yet.
    First,
    More,
    End,
}

/// A list on its way.
struct List {
    server: Arc<ApiServer>,
    info: ResourceRequest,
    origin: Origin,
    rows: Rows,
    is_yaml: bool,
    text: Text,
    /// Made, and not sent yet.
    ready: VecDeque<Bytes>,
    stage: Stage,
}

impl List {
    /// The next piece; none when all was sent.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let mut out = Vec::new();
        while self.ready.is_empty() && out.len() < PIECE {
            match self.stage {
                Stage::End => break,
                Stage::Begin => {
                    out.append(&mut self.text.head);
                    self.stage = Stage::First;
                }
                Stage::First | Stage::More => self.add(&mut out).await?,
            }
        }
        if !out.is_empty() {
            self.ready.push_back(out.into());
        }
        Ok(self.ready.pop_front())
    }

    /// Adds some objects, or the end.
    async fn add(&mut self, out: &mut Vec<u8>) -> Result<(), Status> {
        let List { server, info, .. } = self;
        let shares_pieces =
            matches!(self.rows, Rows::Json) && !self.is_yaml && server.catalog.has_one_version(info.kind);
        if shares_pieces && self.origin.is_shared() {
            if let Some(piece) = self.origin.piece()? {
                self.begin_row(out);
                self.flush(out);
                self.push(piece);
                return Ok(());
            }
        } else {
            let batch = self.origin.next(server, info, conversion::batch_bytes(server, info.kind)).await?;
            if !batch.is_empty() {
                let batch = conversion::entries(server, info.kind, batch).await?;
                self.write(out, &batch);
                return Ok(());
            }
        }
        if self.stage == Stage::First {
            out.extend_from_slice(self.text.empty);
        }
        out.append(&mut self.text.tail);
        self.stage = Stage::End;
        Ok(())
    }

    /// Has bytes sent that others have, too, some at a time: so of a large object no more counts than of what is made.
    fn push(&mut self, mut bytes: Bytes) {
        while bytes.len() > 2 * PIECE {
            self.ready.push_back(bytes.split_to(PIECE));
        }
        self.ready.push_back(bytes);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if !out.is_empty() {
            self.ready.push_back(std::mem::take(out).into());
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, batch: &[Arc<Entry>]) {
        match &self.rows {
            Rows::Protobuf { .. } => {
                batch.iter().for_each(|entry| protobuf::item(out, &entry.protobuf(self.info.kind).bytes));
            }
            Rows::Json if !self.is_yaml => {
                for entry in batch {
                    self.begin_row(out);
                    // Of a large object nothing is copied.
                    if entry.bytes.len() >= PIECE {
                        self.flush(out);
                        self.push(entry.bytes.clone());
                    } else {
                        out.extend_from_slice(&entry.bytes);
                    }
                }
            }
            Rows::Json => self.write_values(out, batch.iter().map(|entry| entry.parse()).collect()),
            Rows::Partial(version) => {
                let version = *version;
                self.write_values(out, batch.iter().map(|entry| partial(version, &entry.parse())).collect());
            }
            Rows::Table(version, printer) => {
                let objects: Vec<Value> = batch.iter().map(|entry| entry.parse()).collect();
                let mut table = table_by(printer, &self.info, version, &objects, Value::Null);
                let rows = table["rows"].as_array_mut().map(std::mem::take).unwrap_or_default();
                self.write_values(out, rows);
            }
        }
        self.stage = Stage::More;
    }

    fn write_values(&mut self, out: &mut Vec<u8>, values: Vec<Value>) {
        for value in values {
            self.begin_row(out);
            if self.is_yaml {
                out.extend_from_slice(yaml::write(&Value::Array(vec![value])).as_bytes());
            } else {
                json::write(out, &value);
            }
        }
    }

    fn begin_row(&mut self, out: &mut Vec<u8>) {
        match self.stage {
            Stage::First => out.extend_from_slice(self.text.open),
            _ if self.is_yaml => {}
            _ => out.push(b','),
        }
        self.stage = Stage::More;
    }
}
