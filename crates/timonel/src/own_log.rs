//! The log of a process that writes it to a file, as where there is no systemd: it is put aside before it grows without end.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

const MAX_LOG_BYTES: u64 = 32 << 20;
const CHECK_PERIOD: Duration = Duration::from_secs(60);

/// Looks after it for as long as the process lives, if it is a file at all.
pub async fn keep_small() {
    let Some(path) = file() else { return };
    loop {
        let of = path.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || put_aside(&of, MAX_LOG_BYTES)).await {
            tracing::warn!(%error, file = %path.display(), "failed to rotate the log");
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

/// The file that standard error leads to.
fn file() -> Option<PathBuf> {
    let stat = nix::sys::stat::fstat(std::io::stderr().as_fd()).ok()?;
    let is_file = nix::sys::stat::SFlag::from_bits_truncate(stat.st_mode) & nix::sys::stat::SFlag::S_IFMT
        == nix::sys::stat::SFlag::S_IFREG;
    if is_file { std::fs::read_link("/proc/self/fd/2").ok() } else { None }
}

/// Copies it and empties it, as `logrotate` does with `copytruncate`: whoever has it open for appending goes on at its beginning.
fn put_aside(path: &Path, largest: u64) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    // Several processes may write to it.
    let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| std::io::Error::from(error))?;
    if file.metadata()?.len() <= largest {
        return Ok(());
    }
    let mut aside = path.as_os_str().to_os_string();
    aside.push(".1");
    std::fs::copy(path, &aside)?;
    file.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_large_log_is_put_aside_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("timonel.log");
        let mut log = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        writeln!(log, "first").unwrap();
        put_aside(&path, 100).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\n", "small enough");
        put_aside(&path, 3).unwrap();
        writeln!(log, "second").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("timonel.log.1")).unwrap(), "first\n");
    }
}
