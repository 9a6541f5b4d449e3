//! Writes rules with `nft`, one transaction a change.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::plan::Ruleset;

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("the program nft can't be run (is the package nftables installed?): {0}")]
    Spawn(std::io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

async fn nft(arguments: &[&str], script: &str) -> Result<(), ApplyError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ApplyError::Spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(ApplyError::Spawn)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(ApplyError::Refused(text.lines().take(6).collect::<Vec<_>>().join(" | ")))
}

/// Makes the kernel's table, which is as `present` says, as `wanted` says. Without `present` it is written anew.
pub async fn write(table: &str, present: Option<&Ruleset>, wanted: &Ruleset) -> Result<(), ApplyError> {
    let script = match present {
        Some(present) => wanted.difference(present, table),
        None => wanted.full(table),
    };
    if script.is_empty() {
        return Ok(());
    }
    nft(&["-f", "-"], &script).await
}

pub async fn exists(table: &str) -> bool {
    nft(&["list", "chain", "ip", table, "services"], "").await.is_ok()
}

pub async fn remove(table: &str) -> Result<(), ApplyError> {
    // Adding first makes deleting right whether the table was there or not.
    nft(&["-f", "-"], &format!("add table ip {table}\ndelete table ip {table}\n")).await
}
