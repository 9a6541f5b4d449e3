//! What comes in from outside, read to a limit; and what is kept, written as a whole.
//!
//! Every read of something that another may make as large as it likes goes through this crate: files of containers and volumes,
//! answers and bodies, lines of sockets, what programs print, files of the kernel. `clippy.toml` forbids the readers of the standard library and of
//! others that have no limit; [`values`] bounds what is parsed of it, in values, depth and expanded size. What is to be found again after a
//! power cut is written by [`durable`].
//!
//! This crate knows no kind of object and no protocol: who reads names the limit.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod body;
pub mod durable;
mod files;
mod lines;
mod output;
pub mod values;

pub use body::{BodyError, body, gathered};
pub use files::{beginning, bytes, bytes_of, text, text_of};
pub use lines::{line, line_async};
pub use output::{output, output_blocking};
pub use values::{Budget, DEPTH, Exceeded, Limits, Measure, OBJECT, REQUEST_BYTES, STORED_BYTES, result, stored};

/// The most that is read of a file of the kernel (`/proc`, `/sys`, cgroups). The list of mounts of a machine with thousands of pods
/// is the largest one.
pub const KERNEL: u64 = 64 << 20;

/// The most that is read of a file that this program has written itself, and of one that an administrator has.
pub const OWN: u64 = 64 << 20;
