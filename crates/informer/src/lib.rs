//! What every control loop needs from the API: shared caches, work queues, and events for people.
//!
//! - [`Informers`] keeps one decoded copy of each kind that anybody asked for. All control loops of a process share it.
//! - [`Queue`] holds the keys of objects that need work: each key once, one worker per key at a time, with back-off.
//! - [`Quarantine`] finds objects whose handling panics or ends the process.
//! - [`Recorder`] writes Events, counting repetitions instead of piling them up.
//!
//! Invariant: a control loop acts on what an informer shows, never on what a change notification carried; so a lost or
//! doubled notification does no harm.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests see a panic by themselves"))]

mod cache;
mod claims;
mod events;
mod objects;
pub mod pod;
pub mod quarantine;
mod queue;
mod reflector;

pub use cache::{Change, Informer, Informers, Keyed};
pub use claims::{Claim, claim_of, claims};
pub use events::{Recorder, told};
pub use pod::Pod;
pub use quarantine::Quarantine;
pub use queue::{Key, Queue};

/// Waits for the caches of several informers.
#[macro_export]
macro_rules! synced {
    ($($informer:expr),* $(,)?) => { $( $informer.synced().await; )* };
}

/// Makes a type an object of the API: one of a custom resource that control loops read. It has a field `metadata`.
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
