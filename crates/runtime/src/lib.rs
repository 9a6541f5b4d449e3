//! Containers and images on this machine.
//!
//! Containers belong to shims: single-threaded processes, one per pod, that are this same binary started anew
//! ([`shim_main`]). A shim starts containers through `libcontainer`, writes their logs, reaps them and keeps their
//! state on disk, so that the daemon may die, restart or be replaced without a container noticing. The daemon talks to
//! shims over a socket ([`client`], [`protocol`]).
//!
//! - [`client`]: one pod's shim, from the daemon's side
//! - [`spec`]: from a container's configuration to the OCI bundle
//! - [`namespaces`]: net, ipc and uts namespaces that outlive processes (so there is no pause container)
//! - [`rootfs`]: overlay mounts
//! - [`files`]: files in a folder, and news of them
//! - [`app_armor`]: profiles for containers, where the kernel has it
//! - [`cgroup`]: v1, v2 and hybrid
//! - [`devices`]: which devices a container may use
//! - [`process`]: the ends of processes that are no children of ours
//! - `program`: this program as containers may meet it
//! - [`quota`]: folders that hold so much and no more
//! - [`tree`]: the size and the removal of what containers have left
//! - [`selinux`]: labels of containers and their files, where the kernel has it
//! - [`keyed_mutex`]: one at a time for each name
//! - [`users`]: pods whose users are none of the machine's
//! - [`image`]: images from archives and registries
//!
//! This crate knows nothing of pods' specs or of the Kubernetes API.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

pub mod app_armor;
pub mod cgroup;
pub mod client;
pub mod devices;
pub mod files;
pub mod huge_pages;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod image;
pub mod inside;
pub mod keyed_mutex;
mod late_mounts;
mod mountpoint;
pub mod namespaces;
pub mod process;
mod program;
pub mod protocol;
pub mod quota;
mod resources;
pub mod rootfs;
pub mod selinux;
pub mod seqpacket;
mod shim;
pub mod spec;
mod terminal;
pub mod tree;
pub mod users;

pub use client::{ContainerEvent, ShimClient};
pub use image::{Image, ImageError, ImageStore};
pub use shim::logs::{MAX_LOG_BYTES, files as log_files, rotate as rotate_log};
pub use shim::profile::check as seccomp_profile;
pub use shim::shim_main;
pub use tree::{disk_usage, remove_tree};
pub use users::Users;

/// What the kernel calls this run of the machine (random(4)).
pub fn boot_id() -> String {
    bounded::text("/proc/sys/kernel/random/boot_id", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default().trim().into()
}
