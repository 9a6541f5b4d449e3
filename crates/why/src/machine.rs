//! Facts of the machine that asks, where it is one of the cluster's: read once, judged by a rule.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

/// A certificate that has less than so many days left is told of, if it should have been renewed.
pub const CERTIFICATE_DAYS: i64 = 30;

/// A certificate of this machine.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Its file.
    pub file: String,
    /// From when it is valid.
    pub issued: Timestamp,
    /// Until when it is valid.
    pub expires: Timestamp,
}

impl Certificate {
    /// Whether less than a quarter of its life is left: it is renewed when a third is.
    pub fn is_short_of_life(&self, now: Timestamp) -> bool {
        let (life, left) = (self.expires.duration_since(self.issued), self.expires.duration_since(now));
        left < life.checked_div(4).unwrap_or(SignedDuration::ZERO)
    }
}

/// What a machine is like.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The name of its node.
    pub node: String,
    /// Its data folder.
    pub data_dir: String,
    /// Bytes free on the disk of the data folder, and its size.
    pub disk: Option<(u64, u64)>,
    /// What fills the data folder.
    pub largest: Vec<(String, u64)>,
    /// Instances of inotify that root's processes have, and `fs.inotify.max_user_instances`.
    pub inotify: Option<(u64, u64)>,
    /// Files that are open, and `fs.file-max`.
    pub files: Option<(u64, u64)>,
    /// Whether it forwards packets.
    pub forwards: Option<bool>,
    /// Modules of the kernel that aren't there.
    pub missing_modules: Vec<String>,
    /// A firewall that runs.
    pub firewall: Option<String>,
    /// Whether its clock is known to be left alone.
    pub clock_unsynchronized: bool,
    /// Its certificates.
    pub certificates: Vec<Certificate>,
    /// The size of its database in bytes.
    pub database: Option<u64>,
    /// Backups: a path, and when it was made.
    pub backups: Vec<(String, Timestamp)>,
}

fn number(path: &str) -> Option<u64> {
    bounded::text(path, bounded::MAX_KERNEL_FILE_BYTES).ok()?.trim().parse().ok()
}

impl Machine {
    /// That of a data folder, if there is one: a server's or an agent's.
    pub fn read(data_dir: &Path, node: String, firewall: Option<String>) -> Option<Self> {
        if !data_dir.join("server").is_dir() && !data_dir.join("agent").is_dir() {
            return None;
        }
        let file_systems = bounded::text("/proc/filesystems", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
        let overlay = file_systems.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
        Some(Machine {
            node,
            data_dir: data_dir.display().to_string(),
            disk: disk(data_dir),
            largest: largest(data_dir),
            inotify: number("/proc/sys/fs/inotify/max_user_instances").map(|limit| (inotify_instances(), limit)),
            files: open_files(),
            forwards: number("/proc/sys/net/ipv4/ip_forward").map(|v| v == 1),
            missing_modules: if overlay { Vec::new() } else { vec!["overlay".into()] },
            firewall,
            clock_unsynchronized: Path::new("/run/systemd/timesync").is_dir()
                && !Path::new("/run/systemd/timesync/synchronized").exists(),
            certificates: certificates(data_dir),
            database: size(&data_dir.join("server/db")),
            backups: backups(&data_dir.join("server/backups")),
        })
    }
}

/// Instances of inotify that processes of root have: the limit is each user's.
fn inotify_instances() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let processes = std::fs::read_dir("/proc").into_iter().flat_map(|entries| entries.take(ENTRIES).flatten());
    let of_root = processes.filter(|process| process.metadata().is_ok_and(|m| m.uid() == 0));
    let files = of_root.flat_map(|process| {
        std::fs::read_dir(process.path().join("fd")).into_iter().flat_map(|fds| fds.take(ENTRIES).flatten())
    });
    let instances =
        files.filter(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:inotify"));
    instances.count().try_into().unwrap_or(u64::MAX)
}

/// `/proc/sys/fs/file-nr`: how many are open, how many are free of these, how many may be.
fn open_files() -> Option<(u64, u64)> {
    let text = bounded::text("/proc/sys/fs/file-nr", bounded::MAX_KERNEL_FILE_BYTES).ok()?;
    let mut numbers = text.split_whitespace().map(|n| n.parse().ok());
    let (open, _, limit) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((open, limit))
}

fn disk(folder: &Path) -> Option<(u64, u64)> {
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    let unit = found.fragment_size();
    Some((found.blocks_available().saturating_mul(unit), found.blocks().saturating_mul(unit)))
}

/// So many entries of one folder are looked at.
const ENTRIES: usize = 10_000;

/// The bytes of the files of a folder, not of folders in it.
fn size(folder: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(folder).ok()?.take(ENTRIES).flatten();
    Some(entries.filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum())
}

/// The large files of the folders that grow.
fn largest(data_dir: &Path) -> Vec<(String, u64)> {
    let folders = ["server/db", "server/backups", "agent/images", "agent/image-store"];
    let sizes = folders
        .iter()
        .filter_map(|folder| Some((data_dir.join(folder).display().to_string(), size(&data_dir.join(folder))?)));
    let mut all: Vec<_> = sizes.filter(|(_, bytes)| *bytes > 1 << 20).collect();
    all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    all
}

fn certificates(data_dir: &Path) -> Vec<Certificate> {
    let mut all = Vec::new();
    for folder in ["server", "server/tls", "agent", "agent/tls", "agent/pki"] {
        let Ok(entries) = std::fs::read_dir(data_dir.join(folder)) else { continue };
        for entry in entries.take(ENTRIES).flatten() {
            let path = entry.path();
            if !path.extension().is_some_and(|e| e == "crt" || e == "pem") {
                continue;
            }
            let Ok(text) = bounded::bytes(&path, bounded::MAX_OWN_FILE_BYTES) else { continue };
            all.extend(certificate(&path.display().to_string(), &text));
        }
    }
    all.sort_by_key(|certificate| certificate.expires);
    all
}

fn certificate(file: &str, text: &[u8]) -> Option<Certificate> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text).ok()?;
    let parsed = pem.parse_x509().ok()?;
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let validity = parsed.validity();
    Some(Certificate { file: file.into(), issued: time(validity.not_before)?, expires: time(validity.not_after)? })
}

fn backups(folder: &Path) -> Vec<(String, Timestamp)> {
    let entries = std::fs::read_dir(folder).into_iter().flat_map(|entries| entries.take(ENTRIES).flatten());
    let made = entries.filter_map(|entry| {
        let time = entry.metadata().ok()?.modified().ok()?;
        Some((entry.path().display().to_string(), Timestamp::try_from(time).ok()?))
    });
    let mut all: Vec<_> = made.collect();
    all.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    all
}
