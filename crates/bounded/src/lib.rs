//! Bounded reads of untrusted input, and durable writes of state files.
//!
//! Every read whose size another party decides goes through this crate: files in containers and volumes, HTTP responses and bodies, lines
//! from sockets, output of programs, files of the kernel. `clippy.toml` forbids the unbounded readers of the standard library and of other
//! crates; [`values`] bounds parsed values in number, depth and expanded size. State that must survive a power cut is written by [`durable`].
//!
//! This crate knows no kind of object and no protocol: the caller names the limit.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod body;
pub mod durable;
mod files;
mod lines;
mod output;
pub mod values;

pub use body::{BodyError, body, body_with_trailers};
pub use files::{bytes, bytes_of, prefix, text, text_of};
pub use lines::{line, line_async};
pub use output::{output, output_blocking};
pub use values::{
    Budget, Exceeded, Limits, MAX_DEPTH, MAX_REQUEST_BYTES, MAX_STORED_BYTES, Measure, OBJECT_COST, check_result,
    check_stored,
};

/// Limit for files of the kernel (`/proc`, `/sys`, cgroup files). The largest is `/proc/self/mountinfo` of a machine with thousands of pods.
pub const MAX_KERNEL_FILE_BYTES: u64 = 64 << 20;

/// Limit for files that this program or an administrator has written.
pub const MAX_OWN_FILE_BYTES: u64 = 64 << 20;
