//! Control groups, version 1, 2 or both (hybrid).
//!
//! A cgroup is named by its path below the root of each hierarchy, as the OCI specification has it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::devices::{self, Rule};
use crate::huge_pages;
use crate::resources::Limits;

const ROOT: &str = "/sys/fs/cgroup";

/// Whether all controllers are in one hierarchy.
pub fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The folder of `cgroup` in the hierarchy that has `controller`.
fn folder(controller: &str, cgroup: &str) -> PathBuf {
    let base = if is_unified() { PathBuf::from(ROOT) } else { Path::new(ROOT).join(controller) };
    base.join(cgroup.trim_start_matches('/'))
}

/// Every folder of `cgroup`.
fn folders(cgroup: &str) -> Vec<PathBuf> {
    if cgroup.trim_matches('/').is_empty() {
        return Vec::new();
    }
    if is_unified() {
        return vec![folder("", cgroup)].into_iter().filter(|f| f.exists()).collect();
    }
    let Ok(hierarchies) = std::fs::read_dir(ROOT) else { return Vec::new() };
    hierarchies.flatten().map(|h| h.path().join(cgroup.trim_start_matches('/'))).filter(|f| f.exists()).collect()
}

/// How often the kernel killed something in the cgroup because its memory limit was reached.
pub fn oom_kills(cgroup: &str) -> u64 {
    let file = if is_unified() { "memory.events" } else { "memory.oom_control" };
    let Ok(text) = bounded::text(folder("memory", cgroup).join(file), bounded::MAX_KERNEL_FILE_BYTES) else { return 0 };
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Bytes of memory in use, the reclaimable page cache left out (what upstream calls the working set).
pub fn memory_working_set(cgroup: &str) -> Option<u64> {
    let inactive = if is_unified() { "inactive_file " } else { "total_inactive_file " };
    let usage = memory_usage(cgroup)?;
    let stat = bounded::text(folder("memory", cgroup).join("memory.stat"), bounded::MAX_KERNEL_FILE_BYTES).ok()?;
    let inactive = stat.lines().find_map(|l| l.strip_prefix(inactive)).and_then(|n| n.parse().ok()).unwrap_or(0);
    Some(usage.saturating_sub(inactive))
}

/// Bytes of memory in use, page cache included.
pub fn memory_usage(cgroup: &str) -> Option<u64> {
    let file = if is_unified() { "memory.current" } else { "memory.usage_in_bytes" };
    bounded::text(folder("memory", cgroup).join(file), bounded::MAX_KERNEL_FILE_BYTES).ok()?.trim().parse().ok()
}

/// Bytes of anonymous memory.
pub fn memory_rss(cgroup: &str) -> Option<u64> {
    let stat = bounded::text(folder("memory", cgroup).join("memory.stat"), bounded::MAX_KERNEL_FILE_BYTES).ok()?;
    let name = if is_unified() { "anon " } else { "total_rss " };
    stat.lines().find_map(|l| l.strip_prefix(name)).and_then(|n| n.parse().ok())
}

/// Puts a process into the cgroup, as far as killing and counting go.
///
/// # Errors
/// Those of the kernel.
pub fn enter(cgroup: &str, pid: i32) -> std::io::Result<()> {
    // Not into cpuset, which wants processors to be chosen first.
    let controllers: &[&str] = if is_unified() { &[""] } else { &["pids", "memory", "freezer"] };
    let there = controllers.iter().map(|c| folder(c, cgroup)).filter(|f| f.exists());
    there.into_iter().try_for_each(|folder| std::fs::write(folder.join("cgroup.procs"), pid.to_string()))
}

/// Puts a process of this program, and what it starts, into a cgroup that may use `limit` bytes of memory, none for any amount.
///
/// # Errors
/// When there is no memory controller, the cgroup can't be made, or the process has ended.
pub fn confine(cgroup: &str, pid: u32, limit: Option<u64>) -> std::io::Result<()> {
    let (file, unlimited) = if is_unified() { ("memory.max", "max") } else { ("memory.limit_in_bytes", "-1") };
    if is_unified() {
        create_leaf(cgroup)?;
    } else {
        std::fs::create_dir_all(folder("memory", cgroup))?;
    }
    let folder = folder("memory", cgroup);
    std::fs::write(folder.join(file), limit.map_or(unlimited.into(), |bytes| bytes.to_string()))?;
    std::fs::write(folder.join("cgroup.procs"), pid.to_string())
}

/// The processes in the cgroup itself.
pub fn members(cgroup: &str) -> Vec<i32> {
    let text =
        bounded::text(folder("pids", cgroup).join("cgroup.procs"), bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    text.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// Processes in the cgroup and below.
pub fn processes(cgroup: &str) -> u64 {
    let text =
        bounded::text(folder("pids", cgroup).join("pids.current"), bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Nanoseconds of processor time used.
pub fn cpu_nanoseconds(cgroup: &str) -> Option<u64> {
    if is_unified() {
        let stat = bounded::text(folder("", cgroup).join("cpu.stat"), bounded::MAX_KERNEL_FILE_BYTES).ok()?;
        let micros: u64 = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?.parse().ok()?;
        return Some(micros * 1000);
    }
    bounded::text(folder("cpuacct", cgroup).join("cpuacct.usage"), bounded::MAX_KERNEL_FILE_BYTES)
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Gives a cgroup that is in use other limits. A number of processes is never taken back.
///
/// # Errors
/// Those of the kernel; a memory limit below what is used is refused with `EBUSY`.
pub fn set_limits(cgroup: &str, limits: &Limits) -> std::io::Result<()> {
    let write =
        |controller: &str, file: &str, text: String| std::fs::write(folder(controller, cgroup).join(file), text);
    let memory = |zero: &str| if limits.memory_bytes > 0 { limits.memory_bytes.to_string() } else { zero.into() };
    if limits.pids > 0 {
        write("pids", "pids.max", limits.pids.to_string())?;
    }
    for (size, bytes) in &limits.huge_pages {
        let file = if is_unified() { "max" } else { "limit_in_bytes" };
        let file = format!("hugetlb.{}.{file}", huge_pages::in_cgroups(*size));
        // Not every machine has the controller.
        if folder("hugetlb", cgroup).join(&file).exists() {
            write("hugetlb", &file, bytes.to_string())?;
        }
    }
    let quota = if limits.cpu_milli > 0 { (limits.cpu_milli * 100).max(1000) } else { -1 };
    if is_unified() {
        let text = if quota < 0 { "max 100000".to_string() } else { format!("{quota} 100000") };
        write("", "cpu.max", text)?;
        // The weights of both versions, as the OCI runtimes convert them.
        let weight = 1 + (limits.cpu_shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        write("", "cpu.weight", weight.to_string())?;
        return write("", "memory.max", memory("max"));
    }
    write("cpu", "cpu.cfs_quota_us", quota.to_string())?;
    write("cpu", "cpu.shares", limits.cpu_shares.max(2).to_string())?;
    write("memory", "memory.limit_in_bytes", memory("-1"))
}

/// Gives a cgroup the weight that those right below it have together, when the processor is short.
///
/// # Errors
/// Those of the kernel.
pub fn weigh(cgroup: &str) -> std::io::Result<()> {
    let (controller, file, most) =
        if is_unified() { ("", "cpu.weight", 10_000) } else { ("cpu", "cpu.shares", 262_144) };
    let own = |name: &String| {
        bounded::text(folder(controller, name).join(file), bounded::MAX_KERNEL_FILE_BYTES)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let sum: u64 = children(cgroup).iter().filter_map(own).sum();
    let least = if is_unified() { 1 } else { 2 };
    std::fs::write(folder(controller, cgroup).join(file), sum.clamp(least, most).to_string())
}

/// How often it is looked whether a cgroup is frozen, and the wait between.
const FREEZING: (u32, Duration) = (20, Duration::from_millis(1));

/// Stops everything in a cgroup of version 1 as long as this lives, so that nothing there makes new processes while the present ones
/// are killed.
struct Frozen(PathBuf);

impl Frozen {
    fn new(cgroup: &str) -> Option<Self> {
        let folder = folder("freezer", cgroup);
        let state = folder.join("freezer.state");
        std::fs::write(&state, "FROZEN").ok()?;
        for _ in 0..FREEZING.0 {
            // What waits for a disk can't be frozen; the rest can be killed all the same.
            if bounded::text(&state, bounded::MAX_KERNEL_FILE_BYTES).is_ok_and(|state| state.trim() == "FROZEN") {
                break;
            }
            std::thread::sleep(FREEZING.1);
        }
        Some(Frozen(folder))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Only then do they hear that they were killed. Those below may have been frozen by a process that was killed before it could
        // thaw them; what they hold would stay for ever.
        for folder in below(&self.0) {
            let _ = std::fs::write(folder.join("freezer.state"), "THAWED");
        }
    }
}

/// Kills every process in the cgroup and below.
pub fn kill_all(cgroup: &str) {
    let _frozen = if is_unified() { None } else { Frozen::new(cgroup) };
    for folder in folders(cgroup) {
        if std::fs::write(folder.join("cgroup.kill"), "1").is_ok() {
            continue;
        }
        for folder in below(&folder) {
            let pids = bounded::text(folder.join("cgroup.procs"), bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
            for pid in pids.lines().filter_map(|p| p.parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Removes the cgroup and those below it. What still has processes stays.
pub fn remove(cgroup: &str) {
    for folder in folders(cgroup) {
        for folder in below(&folder) {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Ends what is in the cgroup and below, and removes it. A process needs a moment to be gone; after ten seconds the cgroup is left
/// as it is.
pub fn destroy(cgroup: &str) {
    for _ in 0..500 {
        if !folders(cgroup).iter().any(|f| f.exists()) {
            return;
        }
        kill_all(cgroup);
        remove(cgroup);
        std::thread::sleep(Duration::from_millis(20));
    }
    tracing::warn!(cgroup, "failed to remove a cgroup");
}

/// The paths of the cgroups right below `cgroup`, in any hierarchy.
pub fn children(cgroup: &str) -> Vec<String> {
    let mut names: Vec<String> = folders(cgroup)
        .iter()
        .filter_map(|f| std::fs::read_dir(f).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| format!("{}/{}", cgroup.trim_end_matches('/'), e.file_name().to_string_lossy()))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The folders below `folder`, the deepest first, and then itself. Containers may nest them.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_path_buf()];
    let mut next = 0;
    while let Some(at) = all.get(next).cloned() {
        let entries = std::fs::read_dir(at).into_iter().flatten().flatten();
        all.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        next += 1;
    }
    all.reverse();
    all
}

/// Makes a cgroup of version 2 for a container, in which the devices of the rules alone may be used.
///
/// # Errors
/// Those of the kernel.
pub fn restrict(cgroup: &str, rules: &[Rule]) -> std::io::Result<()> {
    let folder = folder("", cgroup);
    std::fs::create_dir_all(&folder)?;
    let refused = |e| std::io::Error::other(format!("the kernel takes no filter for devices (CONFIG_CGROUP_BPF): {e}"));
    devices::restrict(&folder, rules).map_err(refused)
}

/// Makes a cgroup for other cgroups, in all hierarchies: its children have all controllers. With version 2 no process can be in it
/// itself (cgroups(7), "no internal processes").
///
/// # Errors
/// Those of the file system.
pub fn create(cgroup: &str) -> std::io::Result<()> {
    create_leaf(cgroup)?;
    if is_unified() {
        enable_controllers(&folder("", cgroup));
    }
    Ok(())
}

/// Makes a cgroup for processes, in all hierarchies, and what is above it.
///
/// # Errors
/// Those of the file system.
pub fn create_leaf(cgroup: &str) -> std::io::Result<()> {
    if is_unified() {
        let mut at = PathBuf::from(ROOT);
        for part in cgroup.trim_matches('/').split('/') {
            enable_controllers(&at);
            at.push(part);
            std::fs::create_dir_all(&at)?;
        }
        return Ok(());
    }
    for controller in ["memory", "cpu", "cpuacct", "pids", "devices", "freezer", "cpuset", "hugetlb"] {
        if Path::new(ROOT).join(controller).exists() {
            std::fs::create_dir_all(folder(controller, cgroup))?;
        }
    }
    Ok(())
}

fn enable_controllers(folder: &Path) {
    let available =
        bounded::text(folder.join("cgroup.controllers"), bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    for controller in available.split_whitespace() {
        let _ = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_froze_is_killed_too() {
        let cgroup = format!("/timonel-test-frozen-{}", std::process::id());
        let child = format!("{cgroup}/child");
        if create_leaf(&child).is_err() {
            assert!(!nix::unistd::geteuid().is_root(), "root can make a cgroup");
            return;
        }
        let mut process = std::process::Command::new("sleep").arg("3600").spawn().unwrap();
        enter(&child, i32::try_from(process.id()).unwrap()).unwrap();
        // By a process that died before it could thaw it.
        std::mem::forget(Frozen::new(&child));
        kill_all(&cgroup);
        assert!(!process.wait().unwrap().success());
        destroy(&cgroup);
        assert!(folders(&cgroup).is_empty());
    }
}
