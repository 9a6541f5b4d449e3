//! Where the objects of a list come from: the cache, or the past.

use std::sync::Arc;

use apimachinery::Status;
use bytes::Bytes;
use store::ReadError;

use crate::ApiServer;
use crate::authentication::User;
use crate::registry::{Entry, Filter, Listed, Order, PIECE, Reading, store_key};
use crate::request::ResourceRequest;

/// Where the objects of a list come from.
#[derive(Clone)]
pub enum Source {
    /// From the cache.
    Present(Arc<Listed>),
    /// From the store's history.
    Past(Past),
}

/// Objects as they were.
#[derive(Clone)]
pub struct Past {
    pub filter: Filter,
    pub revision: u64,
    /// The key after which they begin.
    pub after: String,
    /// How many there are at most.
    pub limit: usize,
}

impl Past {
    /// Some of the objects, of at least one piece if there are so many, and none when there are no more.
    ///
    /// # Errors
    /// When the store has forgotten them: their revision is compacted.
    pub async fn next(&mut self, server: &ApiServer, info: &ResourceRequest) -> Result<Vec<Arc<Entry>>, ReadError> {
        let prefix = store_key(info.kind, "");
        let below = match self.filter.namespace.as_str() {
            "" => prefix.clone(),
            namespace => format!("{prefix}{namespace}/"),
        };
        let mut found = Vec::new();
        while self.limit > 0 && found.is_empty() {
            let most = store::Most { keys: PAGE, bytes: PIECE };
            let after = format!("{prefix}{}", self.after);
            let page = server.store.page_at(&below, self.revision, &after, most).await?;
            for item in page.items {
                let key: Arc<str> = item.key.strip_prefix(prefix.as_str()).unwrap_or(&item.key).into();
                self.after = key.to_string();
                let entry = Entry::new(info.kind, key, &item.value, item.revision);
                if self.limit > 0 && self.filter.matches(info.kind, &entry) {
                    self.limit -= 1;
                    found.push(Arc::new(entry));
                }
            }
            if !page.is_cut {
                self.limit = 0;
            }
        }
        Ok(found)
    }
}

/// Objects that are read of the past at a time.
const PAGE: usize = 500;

/// How far a list has come.
#[derive(Clone)]
pub(super) enum Origin {
    Present {
        reading: Arc<Reading>,
        next: usize,
        /// The next piece of those that clients share.
        piece: usize,
    },
    Past(Past),
}

impl Origin {
    /// What a list is made of: the objects as they are, or those of an earlier revision.
    ///
    /// # Errors
    /// 429 when the user's share of unsent answers is used up, 404 when the kind isn't served any more.
    pub fn of(server: &Arc<ApiServer>, user: &User, info: &ResourceRequest, source: Source) -> Result<Self, Status> {
        let listed = match source {
            Source::Past(past) => return Ok(Origin::Past(past)),
            Source::Present(listed) => listed,
        };
        let own = if listed.is_shared() { 0 } else { listed.items.len().saturating_mul(size_of::<Arc<Entry>>()) };
        let share = server.unsent.take(user, own)?;
        let resource = server.cache.stored(info.kind)?;
        let reading = resource.read(listed, Order::Key, move |bytes| share.grow(bytes));
        Ok(Origin::Present { reading, next: 0, piece: 0 })
    }

    /// The next objects, of about `bytes`; none when there are no more.
    ///
    /// # Errors
    /// 500 when objects of the earlier revision can't be read, or more were replaced meanwhile than may be held on to.
    pub async fn next(
        &mut self,
        server: &ApiServer,
        info: &ResourceRequest,
        bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, Status> {
        match self {
            Origin::Past(past) => past.next(server, info).await.map_err(Status::internal),
            Origin::Present { reading, next, .. } => Ok(reading.listed().map_err(Status::internal)?.batch(next, bytes)),
        }
    }

    /// The next piece as JSON, of those that clients share.
    ///
    /// # Errors
    /// 500 when more objects were replaced meanwhile than may be held on to.
    pub fn piece(&mut self) -> Result<Option<Bytes>, Status> {
        let Origin::Present { reading, piece, .. } = self else { return Ok(None) };
        let made = reading.listed().map_err(Status::internal)?.piece(*piece);
        *piece += 1;
        Ok(made)
    }

    pub fn is_shared(&self) -> bool {
        matches!(self, Origin::Present { reading, .. } if reading.listed().is_ok_and(|listed| listed.is_shared()))
    }
}
