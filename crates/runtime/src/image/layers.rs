//! Unpacking layers (image-spec, layer.md) into the form that overlayfs wants.
//!
//! Archives come from strangers. What is kept in memory of one doesn't grow with it: headers, hidden names and the windows of
//! decompression are bound, and content goes to the disk, of which something is left for others. So there is no process of its own
//! for this whose memory would have to be bound.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::statvfs;
use sha2::{Digest as _, Sha256};

use super::{ImageError, ImageStore};

/// Bytes that one layer may unpack to.
pub(super) const LARGEST: u64 = 64 << 30;
/// Entries of one archive.
const MOST_ENTRIES: u64 = 10_000_000;
/// All headers of one entry, which may hold a long name, a long link, and attributes.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// A path that no system call takes (`PATH_MAX`) can't be unpacked.
const LONGEST_PATH: usize = 4095;
/// All that the names of removed files may take.
const MAX_WHITEOUT_BYTES: usize = 64 << 20;
/// What zstd may need to look back (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`): 128 MiB.
const WINDOW_LOG: u32 = 27;

/// What is left of a disk for others than images, bytes and inodes.
const LEFT: (u64, u64) = (256 << 20, 4096);
/// How much is written between two looks at the disk.
const LOOK: (u64, u64) = (32 << 20, 1024);

/// Keeps an image from filling a disk.
pub(super) struct Room {
    folder: PathBuf,
    taken: (u64, u64),
}

impl Room {
    /// On the disk that `path` is on, or is to be.
    pub fn of(path: &Path) -> Self {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        // Looked at with the first byte.
        Room { folder: folder.into(), taken: LOOK }
    }

    /// # Errors
    /// When the disk has no room for it.
    pub fn take(&mut self, bytes: u64, inodes: u64) -> io::Result<()> {
        self.taken = (self.taken.0.saturating_add(bytes), self.taken.1.saturating_add(inodes));
        if self.taken.0 < LOOK.0 && self.taken.1 < LOOK.1 {
            return Ok(());
        }
        self.taken = (0, 0);
        let disk = statvfs(&self.folder)?;
        let space = disk.blocks_available().saturating_mul(disk.fragment_size());
        // Some file systems don't count inodes.
        let inodes = if disk.files() == 0 { u64::MAX } else { disk.files_available() };
        if space < LEFT.0 || inodes < LEFT.1 {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device for images"));
        }
        Ok(())
    }
}

/// Reads through `inner` and hashes what passes.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.size = self.size.saturating_add(n as u64);
        if self.size > LARGEST {
            return Err(io::Error::other("it unpacks to more than 64 GiB"));
        }
        Ok(n)
    }
}

/// Bytes that may be read until the limit is raised. The archive library reads headers of any size into memory.
#[derive(Clone)]
struct Allowance(Rc<Cell<u64>>);

struct Bound<R> {
    inner: R,
    left: Allowance,
    room: Room,
}

impl<R: Read> Read for Bound<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let left = self.left.0.get().checked_sub(n as u64);
        self.left.0.set(left.ok_or_else(|| io::Error::other("the headers of an entry are larger than 1 MiB"))?);
        self.room.take(n as u64, 0)?;
        Ok(n)
    }
}

/// A reader of the plain tar, whatever it is packed with (by its first bytes).
pub fn decompressed(reader: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::new(reader);
    let head = io::BufRead::fill_buf(&mut reader)?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => Box::new(reader),
    })
}

/// The archive library keeps the reason of a failure in its source.
pub(super) fn with_cause(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

impl ImageStore {
    /// Unpacks a layer unless it is there, and checks that it is what `diff_id` says. Blocks.
    pub(super) fn unpack(&self, diff_id: &str, packed: impl Read + 'static) -> Result<(), ImageError> {
        let target = self.layer_path(diff_id);
        let _guard = self.keyed_mutex.lock_blocking(diff_id);
        if target.exists() {
            return Ok(());
        }
        let refuse = |reason: String| ImageError::Layer { digest: diff_id.into(), reason };
        let partial = self.folder.join("incoming").join(diff_id.replace(':', "-"));
        let _ = crate::remove_tree(&partial);
        std::fs::create_dir_all(&partial)?;
        let plain = decompressed(packed).map_err(|e| refuse(e.to_string()))?;
        let mut reader = Hashing { inner: plain, hasher: Sha256::new(), size: 0 };
        let unpacked = unpack_tar(&mut reader, &partial).and_then(|()| io::copy(&mut reader, &mut io::sink()));
        let outcome = unpacked.map_err(|e| refuse(with_cause(&e))).and_then(|_| {
            let actual = format!("sha256:{}", hex(&reader.hasher.finalize()));
            if actual == diff_id { Ok(()) } else { Err(refuse(format!("its content has the digest {actual}"))) }
        });
        if let Err(error) = outcome {
            let _ = crate::remove_tree(&partial);
            return Err(error);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a folder; all that an image names is put on the disk before it is written down"
        )]
        std::fs::rename(&partial, &target)?;
        Ok(())
    }
}

/// Who owns what is unpacked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// As the archive says.
    Theirs,
    /// The one who unpacks.
    Ours,
}

/// Unpacks a layer, packed or not, into a folder; for whoever wants to see what becomes of hostile ones.
///
/// # Errors
/// With what is wrong with it.
pub fn unpack_layer(packed: impl Read + 'static, into: &Path) -> io::Result<()> {
    unpack_tar(&mut decompressed(packed)?, into)
}

fn unpack_tar(reader: &mut impl Read, into: &Path) -> io::Result<()> {
    let whiteouts = extract(reader, into, Ownership::Theirs)?;
    whiteouts.iter().try_for_each(|(parent, hidden)| whiteout(into, parent, hidden))
}

/// What removes a file or the content of a folder below: the folder, and the name.
type Whiteout = (PathBuf, String);

fn unpack_options<R: Read>(reader: R, ownership: Ownership) -> tar::Archive<R> {
    let mut archive = tar::Archive::new(reader);
    let theirs = ownership == Ownership::Theirs;
    archive.set_preserve_permissions(theirs);
    archive.set_preserve_ownerships(theirs);
    archive.set_preserve_mtime(theirs);
    archive.set_overwrite(true);
    archive
}

/// The extended attributes of a file. Those of the class `trusted` are the machine's own (xattr(7)): overlayfs keeps in them what is hidden,
/// and where the rest of a file lies. Upstream's runtimes leave them out, too.
fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    if !entry.header().entry_type().is_file() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let name = extension.key_bytes().strip_prefix(b"SCHILY.xattr.");
        if let Some(name) = name.filter(|name| !name.starts_with(b"trusted.")) {
            found.push((OsString::from_vec(name.to_vec()), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

/// Unpacks an archive and returns the whiteouts that are in it: they come last of all, as they are for what lies below, wherever
/// they stand.
pub(super) fn extract(reader: impl Read, into: &Path, ownership: Ownership) -> io::Result<Vec<Whiteout>> {
    let left = Allowance(Rc::new(Cell::new(u64::MAX)));
    let (mut room, content) = (Room::of(into), Room::of(into));
    let mut archive = unpack_options(Bound { inner: reader, left: left.clone(), room: content }, ownership);
    let mut entries = archive.entries()?;
    let (mut whiteouts, mut hidden_bytes) = (Vec::new(), 0);
    for number in 0.. {
        // What is left of an entry is read with the header of the next, and must be small, too.
        left.0.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        left.0.set(u64::MAX);
        let path = entry.path()?.into_owned();
        if number >= MOST_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MOST_ENTRIES} entries")));
        }
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(io::Error::other(format!("a path is longer than {LONGEST_PATH} bytes")));
        }
        if entry.size() > LARGEST {
            return Err(io::Error::other(format!("the file {} has more than 64 GiB", path.display())));
        }
        if path.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(io::Error::other(format!("the path {} leads out of the layer", path.display())));
        }
        // Folders that it lies in may have to be made, too; many entries in one folder aren't counted as many times.
        let depth = path.components().count() as u64;
        room.take(0, if depth > 64 { depth } else { 1 })?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if ownership == Ownership::Theirs
            && let Some(hidden) = name.strip_prefix(".wh.")
        {
            let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
            let size = parent.as_os_str().len().saturating_add(hidden.len());
            hidden_bytes = size.saturating_add(size_of::<Whiteout>()).saturating_add(hidden_bytes);
            if hidden_bytes > MAX_WHITEOUT_BYTES {
                return Err(io::Error::other("the names of what it removes are larger than 64 MiB"));
            }
            whiteouts.push((parent, hidden.to_string()));
            continue;
        }
        let attributes = if ownership == Ownership::Theirs { attributes(&mut entry)? } else { Vec::new() };
        // Refuses to write through a link that leads out.
        if !entry.unpack_in(into)? {
            return Err(io::Error::other(format!("the path {} leads out of the layer", path.display())));
        }
        // The folders on the way to it were looked at just now, and the last name isn't followed.
        let relative: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        for (name, value) in attributes {
            xattr::set(into.join(&relative), &name, &value)
                .map_err(|e| io::Error::new(e.kind(), format!("the attribute {name:?} of {}: {e}", path.display())))?;
        }
    }
    Ok(whiteouts)
}

/// Marks something of a lower layer as removed, in overlayfs' way (a 0:0 device, or an opaque folder).
fn whiteout(into: &Path, parent: &Path, hidden: &str) -> io::Result<()> {
    const OPAQUE: &str = "trusted.overlay.opaque";
    let folder = crate::rootfs::make_inside(into, parent, true)?;
    if hidden == ".wh..opq" {
        return xattr::set(&folder, OPAQUE, b"y");
    }
    if !matches!(Path::new(hidden).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
        return Err(io::Error::other(format!(".wh.{hidden} in {} hides nothing", parent.display())));
    }
    let place = folder.join(hidden);
    match std::fs::symlink_metadata(&place) {
        // What the layer itself brings there takes the place of what it hides.
        Ok(own) if own.is_dir() => xattr::set(&place, OPAQUE, b"y"),
        Ok(_) => Ok(()),
        Err(_) => Ok(mknod(&place, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?),
    }
}

#[cfg(test)]
mod tests;
