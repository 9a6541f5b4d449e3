//! What the API server must know of each built-in kind of Kubernetes v1.37. A new kind is one entry in [`kinds`];
//! defaults, checks and columns of its own are added only where upstream has some.
//!
//! - [`kinds`]: the table of group, version, kind, plural, scope, short names, subresources
//! - [`Subresource`]: what kinds have beside their objects
//! - [`schema`]: field names and types, from which unknown fields and wrong types are found
//! - [`decode`], [`protobuf`]: from bytes to values
//! - [`merge`]: which lists a strategic merge patch merges, and by which key
//! - [`defaults`], [`validate`]: what upstream fills in and refuses
//! - [`managed`]: fields and their managers, for server-side apply
//! - [`custom`]: the same for kinds of custom resource definitions
//! - [`pod_logs`]: what is asked of a pod's logs
//! - [`pod_security`]: the Pod Security Standards
//! - [`static_pods`]: pods that nodes have from elsewhere
//! - [`quota`]: what objects use of a ResourceQuota
//! - [`versions`]: older versions of built-in kinds
//! - [`columns`]: what `kubectl get` prints
//!
//! No I/O; all functions work on JSON values.

pub mod columns;
pub mod custom;
pub mod decode;
pub mod defaults;
pub mod kinds;
pub mod managed;
pub mod merge;
pub mod pod_logs;
pub mod pod_security;
pub mod protobuf;
pub mod quota;
pub mod schema;
pub mod static_pods;
pub mod validate;
pub mod versions;

pub use kinds::{KINDS, Kind, OLDER, Subresource, Verbs, find};
