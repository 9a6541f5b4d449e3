//! Kinds of `events.k8s.io`.

pub(crate) mod event;

use super::Kind;

const GROUP: &str = "events.k8s.io";

/// The same objects as the core group's.
pub(super) const OLDER: &[&Kind] = &[&event::KIND];
