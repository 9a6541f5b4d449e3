//! Unpacking layers (image-spec, layer.md) into the form that overlayfs wants.

use std::io::{BufReader, Read};
use std::path::{Component, Path};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sha2::{Digest as _, Sha256};

use super::{ImageError, ImageStore};

/// Bytes that one layer may unpack to.
const LARGEST: u64 = 64 << 30;

/// Reads through `inner` and hashes what passes.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.size += n as u64;
        if self.size > LARGEST {
            return Err(std::io::Error::other("it unpacks to more than 64 GiB"));
        }
        Ok(n)
    }
}

/// A reader of the plain tar, whatever it is packed with (by its first bytes).
pub fn decompressed(reader: impl Read + 'static) -> std::io::Result<Box<dyn Read>> {
    let mut reader = BufReader::new(reader);
    let head = std::io::BufRead::fill_buf(&mut reader)?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(reader)?),
        _ => Box::new(reader),
    })
}

/// The archive library keeps the reason of a failure in its source.
fn with_cause(error: &std::io::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

impl ImageStore {
    /// Unpacks a layer unless it is there, and checks that it is what `diff_id` says. Blocks.
    pub(super) fn unpack(&self, diff_id: &str, packed: impl Read + 'static) -> Result<(), ImageError> {
        let target = self.layer_path(diff_id);
        let _turn = self.turns.of_blocking(diff_id);
        if target.exists() {
            return Ok(());
        }
        let refuse = |reason: String| ImageError::Layer { digest: diff_id.into(), reason };
        let partial = self.folder.join("incoming").join(diff_id.replace(':', "-"));
        let _ = crate::remove_tree(&partial);
        std::fs::create_dir_all(&partial)?;
        let plain = decompressed(packed).map_err(|e| refuse(e.to_string()))?;
        let mut reader = Hashing { inner: plain, hasher: Sha256::new(), size: 0 };
        let unpacked =
            unpack_tar(&mut reader, &partial).and_then(|()| std::io::copy(&mut reader, &mut std::io::sink()));
        let outcome = unpacked.map_err(|e| refuse(with_cause(&e))).and_then(|_| {
            let actual = format!("sha256:{}", hex(&reader.hasher.finalize()));
            if actual == diff_id { Ok(()) } else { Err(refuse(format!("its content has the digest {actual}"))) }
        });
        if let Err(error) = outcome {
            let _ = crate::remove_tree(&partial);
            return Err(error);
        }
        std::fs::rename(&partial, &target)?;
        Ok(())
    }
}

fn unpack_tar(reader: &mut impl Read, into: &Path) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    // Last of all, as they are for what lies below, wherever they stand.
    let mut whiteouts = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(std::io::Error::other(format!("the path {} leads out of the layer", path.display())));
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(hidden) = name.strip_prefix(".wh.") {
            whiteouts.push((path.parent().unwrap_or(Path::new("")).to_path_buf(), hidden.to_string()));
            continue;
        }
        // Refuses to write through a link that leads out.
        if !entry.unpack_in(into)? {
            return Err(std::io::Error::other(format!("the path {} leads out of the layer", path.display())));
        }
    }
    whiteouts.iter().try_for_each(|(parent, hidden)| whiteout(into, parent, hidden))
}

/// Marks something of a lower layer as removed, in overlayfs' way (a 0:0 device, or an opaque folder).
fn whiteout(into: &Path, parent: &Path, hidden: &str) -> std::io::Result<()> {
    const OPAQUE: &str = "trusted.overlay.opaque";
    let folder = crate::rootfs::make_inside(into, parent, true)?;
    if hidden == ".wh..opq" {
        return xattr::set(&folder, OPAQUE, b"y");
    }
    if !matches!(Path::new(hidden).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
        return Err(std::io::Error::other(format!(".wh.{hidden} in {} hides nothing", parent.display())));
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
mod tests {
    use super::*;
    use crate::image::Registries;

    fn tar_of(paths: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for path in paths {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_entry_type(tar::EntryType::Regular);
            // Written by hand, as the builder refuses what a hostile archive holds.
            let name = header.as_gnu_mut().unwrap();
            name.name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"x"[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn digest(bytes: &[u8]) -> String {
        format!("sha256:{}", hex(&Sha256::digest(bytes)))
    }

    #[test]
    fn layers_are_unpacked_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path(), Registries::default()).unwrap();
        let good = tar_of(&["a", "b/.wh.gone"]);
        let id = digest(&good);
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &good).unwrap();
            encoder.finish().unwrap()
        };
        store.unpack(&id, std::io::Cursor::new(gzip)).unwrap();
        assert!(store.layer_path(&id).join("a").exists());
        use std::os::unix::fs::FileTypeExt as _;
        assert!(store.layer_path(&id).join("b/gone").metadata().unwrap().file_type().is_char_device());

        // What a layer hides and brings itself is there, whichever comes first.
        let both = tar_of(&["c", ".wh.c", ".wh.d", "d", "e/f", ".wh.e", ".wh.g", "g/h"]);
        let id = digest(&both);
        store.unpack(&id, std::io::Cursor::new(both)).unwrap();
        let layer = store.layer_path(&id);
        assert!(["c", "d", "e/f", "g/h"].iter().all(|path| layer.join(path).is_file()));
        let opaque = |path: &str| xattr::get(layer.join(path), "trusted.overlay.opaque").unwrap();
        assert!(opaque("e").is_some() && opaque("g").is_some());

        let wrong = format!("sha256:{}", "0".repeat(64));
        assert!(store.unpack(&wrong, std::io::Cursor::new(good)).is_err());
        assert!(!store.layer_path(&wrong).exists());

        for paths in [&["../escaped"][..], &["b/.wh..."], &[".wh."], &["b/.wh.."], &["b/c", "b/../../escaped"]] {
            let hostile = tar_of(paths);
            let id = digest(&hostile);
            assert!(store.unpack(&id, std::io::Cursor::new(hostile)).is_err(), "{paths:?}");
            assert!(!dir.path().join("escaped").exists() && !store.layer_path(&id).exists(), "{paths:?}");
        }
    }
}
