//! What is stored and which kinds there are: the watch cache, the objects in it, and the catalog of kinds. Nothing here knows HTTP or users.
//!
//! - [`Catalog`]: all kinds, built-in and of custom resource definitions.
//! - [`Cache`]: for each kind a [`Resource`], with its objects ([`Entry`]) and watchers ([`Subscription`]).
//! - [`encode`] and [`splice`]: the canonical bytes that the store keeps and that get, list and watch copy.

mod cache;
mod canonical;
mod catalog;
mod entry;
mod filter;
mod head;
mod history;
mod listed;
mod names;
mod resource;
mod watch;

pub use cache::{Cache, object_key, store_key};
pub use canonical::{EventType, encode, frame, splice};
pub use catalog::{Catalog, Printer, is_definition};
pub use entry::Entry;
pub use filter::Filter;
pub use listed::{Listed, Order, PIECE, Reading};
pub use names::generated_name;
pub use resource::Resource;
pub use watch::{Event, Events, Subscription, WatchStart};

/// What the tests of this room share.
#[cfg(test)]
mod fixtures {
    use serde_json::{Value, json};

    pub fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": "a", "namespace": "n", "labels": {"app": "x", "tier": "y"}, "resourceVersion": "5"},
               "spec": {"nodeName": "node-1", "hostNetwork": true, "containers": [{"name": "c"}]},
               "status": {"phase": "Running"}})
    }
}
