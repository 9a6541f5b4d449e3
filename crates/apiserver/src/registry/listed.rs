//! Lists while their clients read them: the objects as they were, in the order in which they are sent.
//!
//! A list holds on to the objects of the cache and copies none. What is replaced or deleted meanwhile lives on for it alone, so the cache tells it,
//! and it is charged for that, or cut off.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};

use super::Entry;

/// Bytes of objects that are sent at a time, if the first one isn't larger.
pub const PIECE: usize = 128 << 10;

/// Objects in an order, and their JSON in pieces, which clients share as long as these objects are the latest.
#[derive(Debug)]
pub struct Listed {
    pub items: Box<[Arc<Entry>]>,
    /// The revision of the last change that they show.
    pub changed: u64,
    /// Bytes of all items.
    pub bytes: usize,
    /// Where the pieces begin; none for what isn't shared.
    starts: Box<[usize]>,
    /// The pieces that a client has read; none any more once the objects have changed, or nobody reads them.
    pieces: RwLock<Option<Box<[Option<Bytes>]>>>,
}

impl Listed {
    /// Of one client.
    pub fn of_one(items: Vec<Arc<Entry>>, changed: u64) -> Self {
        let bytes = items.iter().map(|item| item.bytes.len()).sum();
        Listed { items: items.into(), changed, bytes, starts: Box::default(), pieces: RwLock::new(None) }
    }

    /// Of all clients that read it before the next change.
    pub fn shared(items: Vec<Arc<Entry>>, changed: u64) -> Self {
        let (mut starts, mut size) = (Vec::new(), usize::MAX);
        for (i, item) in items.iter().enumerate() {
            // A large object is a piece of its own, so that nothing of it is copied.
            if size >= PIECE || item.bytes.len() >= PIECE {
                starts.push(i);
                size = 0;
            }
            size = size.saturating_add(item.bytes.len());
        }
        let pieces = vec![None; starts.len()].into_boxed_slice();
        Listed { starts: starts.into(), pieces: RwLock::new(Some(pieces)), ..Self::of_one(items, changed) }
    }

    /// The objects from `next` on, until they have `bytes`; none at the end.
    pub fn batch(&self, next: &mut usize, bytes: usize) -> Vec<Arc<Entry>> {
        let (mut batch, mut size) = (Vec::new(), 0usize);
        while size < bytes
            && let Some(item) = self.items.get(*next)
        {
            *next = next.saturating_add(1);
            size = size.saturating_add(item.bytes.len());
            batch.push(item.clone());
        }
        batch
    }

    /// Whether clients share its pieces.
    pub fn is_shared(&self) -> bool {
        !self.starts.is_empty()
    }

    /// The objects of the piece `n`, as JSON with commas in between.
    pub fn piece(&self, n: usize) -> Option<Bytes> {
        let start = *self.starts.get(n)?;
        if let Some(item) = self.items.get(start).filter(|item| item.bytes.len() >= PIECE) {
            return Some(item.bytes.clone());
        }
        let kept = self.pieces.read().as_ref().and_then(|pieces| pieces.get(n).cloned().flatten());
        if kept.is_some() {
            return kept;
        }
        let end = self.starts.get(n.saturating_add(1)).copied().unwrap_or(self.items.len());
        let items = self.items.get(start..end)?;
        let mut out = BytesMut::with_capacity(items.iter().map(|item| item.bytes.len() + 1).sum());
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.put_u8(b',');
            }
            out.put_slice(&item.bytes);
        }
        let piece = out.freeze();
        if let Some(place) = self.pieces.write().as_mut().and_then(|pieces| pieces.get_mut(n)) {
            *place = Some(piece.clone());
        }
        Some(piece)
    }

    /// Forgets the pieces: each client makes its own from now on.
    pub fn forget_pieces(&self) {
        *self.pieces.write() = None;
    }
}

/// A list that one client reads.
pub struct Reading {
    listed: Mutex<Option<Arc<Listed>>>,
    /// The order of the items.
    order: Order,
    charge: Box<dyn Fn(usize) -> bool + Send + Sync>,
}

/// What a list is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Key,
    Revision,
}

/// A list holds on to too much that isn't there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list was read too slowly: too many of its objects have changed since")]
pub struct CutOff;

impl Reading {
    /// `charge` is asked whether the list may hold on to some bytes more.
    pub(super) fn new(listed: Arc<Listed>, order: Order, charge: Box<dyn Fn(usize) -> bool + Send + Sync>) -> Self {
        Reading { listed: Mutex::new(Some(listed)), order, charge }
    }

    /// The objects, as long as they may be held.
    ///
    /// # Errors
    /// When the list was cut off.
    pub fn listed(&self) -> Result<Arc<Listed>, CutOff> {
        self.listed.lock().clone().ok_or(CutOff)
    }

    /// Hears that the cache has another object in the place of `old`, or none.
    pub(super) fn replaced(&self, old: &Arc<Entry>) {
        let mut listed = self.listed.lock();
        let Some(now) = listed.as_ref() else { return };
        let found = match self.order {
            Order::Key => now.items.binary_search_by(|item| item.key.cmp(&old.key)),
            Order::Revision => now.items.binary_search_by_key(&old.revision, |item| item.revision),
        };
        let is_held = found.is_ok_and(|i| now.items.get(i).is_some_and(|item| Arc::ptr_eq(item, old)));
        if is_held && !(self.charge)(old.weight()) {
            *listed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use api::kinds;
    use serde_json::json;

    use super::*;
    use crate::registry::encode;

    fn entry(name: &str, revision: u64, bytes: usize) -> Arc<Entry> {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x".repeat(bytes)}});
        Arc::new(Entry::new(kinds::CONFIG_MAPS, name.into(), &encode(&object), revision))
    }

    #[test]
    fn pieces_make_up_the_list_and_are_shared_while_it_is_the_latest() {
        let sizes = [10, PIECE * 2, 10, PIECE / 2, PIECE / 2, 10, 10];
        let items: Vec<_> =
            sizes.iter().enumerate().map(|(i, size)| entry(&format!("m{i}"), i as u64, *size)).collect();
        let whole: Vec<&[u8]> = items.iter().map(|item| item.bytes.as_ref()).collect();
        let whole = whole.join(&b","[..]);
        let listed = Listed::shared(items, 7);
        let all = |listed: &Listed| (0..).map_while(|n| listed.piece(n)).collect::<Vec<Bytes>>();
        let join = |pieces: &[Bytes]| pieces.join(&b","[..]);
        let (first, again) = (all(&listed), all(&listed));
        assert_eq!((join(&first), first.len()), (whole.clone(), 4));
        assert!(first.iter().zip(&again).all(|(a, b)| a.as_ptr() == b.as_ptr()));
        listed.forget_pieces();
        let alone = all(&listed);
        assert_eq!(join(&alone), whole);
        assert_eq!(alone[1].as_ptr(), first[1].as_ptr(), "of a large object nothing is copied");
        assert_ne!(alone[0].as_ptr(), listed.piece(0).unwrap().as_ptr());
        assert!(Listed::shared(Vec::new(), 7).piece(0).is_none());
    }

    #[test]
    fn a_list_is_charged_for_what_it_alone_holds_on_to_and_is_cut_off() {
        let items = vec![entry("a", 3, 1000), entry("b", 1, 1000), entry("c", 2, 1000)];
        let mut by_revision = items.clone();
        by_revision.sort_by_key(|item| item.revision);
        for (order, items) in [(Order::Key, items), (Order::Revision, by_revision)] {
            let charged = Arc::new(AtomicUsize::new(0));
            let sum = charged.clone();
            let charge = move |bytes| sum.fetch_add(bytes, Ordering::Relaxed) + bytes < 3000;
            let reading = Reading::new(Arc::new(Listed::of_one(items.clone(), 3)), order, Box::new(charge));
            reading.replaced(&entry("a", 3, 1000));
            reading.replaced(&entry("d", 4, 1000));
            assert_eq!(charged.load(Ordering::Relaxed), 0, "others' objects");
            reading.replaced(&items[0]);
            reading.replaced(&items[1]);
            assert!(charged.load(Ordering::Relaxed) > 2000 && reading.listed().is_ok());
            reading.replaced(&items[2]);
            assert!(reading.listed().is_err());
        }
    }
}
