//! The vocabulary of the Kubernetes API: what every other crate speaks.
//!
//! Objects are `serde_json::Value` here; their kinds are described in the `api` crate. Nothing in this crate does
//! I/O or knows a particular kind, with the exception of names that the API conventions fix for all kinds
//! (`metadata`, `status`).
//!
//! Reading order: [`object`] (metadata access), [`status`] (errors as clients see them), [`selector`], [`quantity`],
//! [`patch`], [`fields`], [`jsonpath`], [`names`], [`bounded`], [`yaml`], [`clock`], [`backoff`], [`duration`], [`cron`], [`ranges`], [`addresses`].

#![warn(missing_docs, clippy::missing_errors_doc)]

pub mod addresses;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod backoff;
pub mod clock;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod cron;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod duration;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod fields;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod jsonpath;
pub mod names;
pub mod object;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod patch;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod quantity;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod ranges;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod selector;
pub mod status;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod yaml;

pub use bounded;

pub use addresses::{AddressRanges, Family, authority};
pub use backoff::{Backoff, ExponentialBackoff};
pub use fields::FieldSet;
pub use object::ObjectExt;
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Cause, Status};
