//! The machine: its capacity, its memory and disks, and what of it is allocatable to pods ([`allocatable`]).

pub mod allocatable;

use std::io;
use std::path::Path;

use runtime::huge_pages;

/// The machine's capacity and identity, upstream's `MachineInfo`.
#[derive(Debug, Clone, Default)]
pub struct MachineInfo {
    /// Cores that this process may use.
    pub cpus: usize,
    /// Memory, in KiB.
    pub memory_kib: u64,
    /// The size of the data folder's file system, in bytes.
    pub disk_bytes: u64,
    /// The most processes and threads that the kernel allows.
    pub pids: u64,
    /// The memory that is set aside for huge pages, in bytes, by their size in bytes.
    pub huge_pages: Vec<(u64, u64)>,
    /// The kernel's release.
    pub kernel: String,
    /// The operating system's name.
    pub os_image: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
}

fn read(path: &str) -> String {
    bounded::text(path, bounded::MAX_OWN_FILE_BYTES).unwrap_or_default().trim().to_string()
}

impl MachineInfo {
    /// Reads it from the kernel. `data_dir` is a folder of the file system whose size counts.
    pub fn gather(data_dir: &Path) -> Self {
        let memory = read("/proc/meminfo");
        let total = memory.lines().find_map(|l| l.strip_prefix("MemTotal:"));
        let disk = nix::sys::statvfs::statvfs(data_dir);
        let release = read("/etc/os-release");
        let os = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
        MachineInfo {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_kib: total.and_then(|t| t.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0),
            disk_bytes: disk.map_or(0, |d| d.blocks() * d.fragment_size()),
            pids: ["pid_max", "threads-max"]
                .iter()
                .filter_map(|file| read(&format!("/proc/sys/kernel/{file}")).parse().ok())
                .min()
                .unwrap_or(0),
            huge_pages: huge_pages::sizes().into_iter().map(|size| (size, huge_pages::set_aside(size))).collect(),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: os.map_or_else(|| "Linux".into(), |o| o.trim_matches('"').into()),
            machine_id: read("/etc/machine-id"),
            boot_id: runtime::boot_id(),
        }
    }
}

/// Use of the machine's memory, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// All memory.
    pub total: u64,
    /// All memory but the working set.
    pub available: u64,
    /// Used memory without what the kernel could give back from files that weren't touched lately.
    pub working_set: u64,
    /// All memory that isn't free.
    pub used: u64,
}

impl Memory {
    /// Reads `/proc/meminfo`.
    pub fn read() -> Self {
        let text = bounded::text("/proc/meminfo", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
        let of = |name: &str| -> u64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let (total, free) = (of("MemTotal"), of("MemFree"));
        let used = total.saturating_sub(free);
        let working_set = used.saturating_sub(of("Inactive(file)"));
        Memory { total, available: total.saturating_sub(working_set), working_set, used }
    }
}

/// What a folder counts for that can't be measured: more than any limit, 4 PiB.
const UNMEASURABLE: u64 = 1 << 52;

/// Disk usage of a folder, in bytes; a folder that isn't there uses none. Blocks the thread, the longer the larger the folder is.
pub fn disk_usage(folder: &Path) -> u64 {
    match runtime::disk_usage(folder) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => 0,
        Err(error) => {
            // A pod that nests folders so that they can't be measured isn't within its limits.
            tracing::warn!(folder = %folder.display(), %error, "failed to measure the disk usage of a folder");
            UNMEASURABLE
        }
    }
}
