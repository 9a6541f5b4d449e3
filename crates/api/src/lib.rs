//! What the API server must know of each built-in kind of Kubernetes v1.37.
//!
//! - [`kinds`]: a module for each kind: names, subresources, defaults, checks, columns and whatever else is particular to it, as a
//!   [`kinds::Strategy`]
//! - [`schema`]: field names and types, from which unknown fields and wrong types are found
//! - [`decode`], [`protobuf`]: from bytes to values
//! - [`merge`]: which lists a strategic merge patch merges, and by which key
//! - [`defaults`], [`validate`], [`columns`]: tools that they share, which know no kind
//! - [`managed`]: fields and their managers, for server-side apply
//! - [`custom`]: the same for kinds of custom resource definitions; `structural`: their schemas
//! - [`type_checking`]: whether the expressions of policies go with their kinds
//! - [`quota`]: what objects use of a ResourceQuota
//! - [`pod_logs`]: what is asked of a pod's logs
//! - [`pod_security`]: the Pod Security Standards
//! - [`static_pods`]: pods that nodes have from elsewhere
//! - [`service_families`]: which families of addresses a Service has
//!
//! No I/O; all functions work on JSON values.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

pub mod columns;
pub mod custom;
pub mod decode;
pub mod defaults;
pub mod extremes;
pub mod kinds;
pub mod managed;
pub mod merge;
pub mod protobuf;
pub mod schema;
mod structural;
pub mod type_checking;
pub mod validate;

#[cfg(test)]
mod tests;

pub use kinds::pod::{logs as pod_logs, qos_class, resize as check_resize, security as pod_security, static_pods};
pub use kinds::service::families as service_families;
pub use kinds::{KINDS, Kind, OLDER, Subresource, Verbs, find, quota};
