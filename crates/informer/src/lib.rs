//! The toolkit of control loops: shared informers, work queues, and recording of events (client-go's `informers`, `workqueue`, `record`).
//!
//! - [`Informers`] has one cache for each kind that is used. All control loops of a process share it.
//! - [`follow`] hands on changes of objects that no cache holds. No other code lists and watches.
//! - [`Queue`] has the keys of objects to reconcile: each key once, one worker per key at a time, with back-off.
//! - [`Quarantine`] isolates objects whose handling panics or crashes the process.
//! - [`SyncLoop`] says when a loop runs that reads whole caches: changes are batched, failures back off, a resync repairs.
//! - [`Recorder`] writes Events, with deduplication and rate limits.
//!
//! Invariant: a control loop is level-triggered. It acts on the cache, never on the content of a notification, so a lost or duplicated
//! notification does no harm.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests see a panic by themselves"))]

mod cache;
mod claims;
mod definition;
mod events;
mod follow;
mod metadata;
mod objects;
pub mod pod;
pub mod quarantine;
mod queue;
mod reflector;
mod resource_claims;
mod sync_loop;

pub use cache::{Change, Informer, Informers, Keyed, Synced};
pub use claims::{Claim, claim_of, claims};
pub use definition::CustomResourceDefinition;
pub use events::{Recorder, error_message};
pub use follow::{Event, follow, follow_object, wait_until};
pub use metadata::Metadata;
pub use pod::Pod;
pub use quarantine::Quarantine;
pub use queue::{Key, Queue};
pub use reflector::Selection;
pub use resource_claims::{ClaimName, is_made_for, is_reserved_for, resource_claims};
pub use sync_loop::{Cause, SyncLoop, Trigger};

/// Waits for the caches of several informers.
#[macro_export]
macro_rules! synced {
    ($($informer:expr),* $(,)?) => { $( $informer.synced().await; )* };
}

/// Implements `kube::Resource` for the type of a custom resource. It must have a field `metadata`.
#[macro_export]
macro_rules! custom_kind {
    ($kind:ident, $group:literal, $version:literal, $plural:literal, $scope:ident) => {
        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = $scope;
            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                stringify!($kind).into()
            }
            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
