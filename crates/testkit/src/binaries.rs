//! Binaries of this workspace that tests run.

use std::path::PathBuf;

use anyhow::Context as _;

/// A program of this workspace, which is built where the test is.
///
/// # Errors
/// When it isn't.
pub fn beside_test(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    beside.with_context(|| format!("the binary {name} isn't built: cargo build"))
}
