//! What is done to processes, disks and clocks.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use testkit::node::Node;

/// A library between a program and the clock, which comes with Debian's package libfaketime.
pub(super) const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// What each node's data folder has room for. Images leave 256 MB of it.
const DISK: &str = "size=448m,nr_inodes=30000";
pub(super) fn kill(pid: u32) {
    // It may have ended by itself.
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(std::process::Stdio::null()).status();
}

/// A disk of its own for a node's data.
pub(super) fn small_disk(node: &mut Node) -> anyhow::Result<()> {
    let data = node.folder().join("data");
    std::fs::create_dir_all(&data)?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&data).status()?;
    anyhow::ensure!(mounted.success(), "a file system in memory can't be mounted");
    Ok(())
}

/// Lets a node's processes see the clock that the file `clock` says.
pub(super) fn own_clock(node: &mut Node, clock: &Path) {
    for (name, value) in [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1"),
        // Waits go by the time since the start, which no clock that is set changes.
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ] {
        node.set_env(name, value);
    }
}

pub(super) fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

const FILL: &str = "fill";

/// Writes until there is no room.
pub(super) fn use_room(data: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(data.join(FILL))?;
    let mut file = File::create(data.join(FILL).join("room"))?;
    for size in [1 << 20, 4096, 1] {
        let block = vec![b'x'; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}

/// Makes files until there is no inode.
pub(super) fn use_inodes(data: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(data.join(FILL))?;
    let more = (0..u32::MAX).map(|i| File::create(data.join(FILL).join(i.to_string())));
    more.take_while(Result::is_ok).for_each(drop);
    Ok(())
}

pub(super) fn give_back(data: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(data.join(FILL))?.flatten() {
        std::fs::remove_file(entry.path())?;
    }
    Ok(std::fs::remove_dir(data.join(FILL))?)
}
