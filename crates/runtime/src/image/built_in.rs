//! An image that is a part of this binary: one static program, and links to it by its other names. It is put into the store like any other, once; its
//! registry is nowhere, so it is never pulled, and as it came from none, image garbage collection leaves it.

use std::io::{self, Write};
use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::archive::Configuration;
use super::layers::hex;
use super::{Image, ImageError, ImageStore, Reference};

/// The registry of built-in images. It names no machine: `.local` is for names of the local link (RFC 6762), so no certificate is for it.
pub const BUILT_IN_REGISTRY: &str = "timonel.local";

/// Who its processes are: nobody of the machine, and not root.
const USER: u32 = 65532;

/// What a built-in image is made of.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// Its full name, in the [`BUILT_IN_REGISTRY`].
    pub name: &'static str,
    /// What its program is called in `/bin`.
    pub program: &'static str,
    /// The program: a static executable.
    pub bytes: &'static [u8],
    /// Further names of the program.
    pub links: &'static [&'static str],
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    // Always the same: the digest must be.
    header.set_mtime(0);
    header
}

impl BuiltIn {
    /// Writes its only layer.
    fn write_layer(&self, output: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(output);
        let passwd = format!("root:x:0:0::/:/bin/sh\nuser:x:{USER}:{USER}::/:/bin/sh\n");
        let group = format!("root:x:0:\nuser:x:{USER}:\n");
        for (path, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
            tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), path, io::empty())?;
        }
        for (path, text) in [("etc/passwd", &passwd), ("etc/group", &group)] {
            tar.append_data(&mut header(tar::EntryType::Regular, 0o644, text.len()), path, text.as_bytes())?;
        }
        let path = format!("bin/{}", self.program);
        tar.append_data(&mut header(tar::EntryType::Regular, 0o755, self.bytes.len()), path, self.bytes)?;
        for link in self.links {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, format!("bin/{link}"), self.program)?;
        }
        tar.finish()
    }

    /// The layer's digest. Nothing of the layer is kept in memory for it.
    fn diff_id(&self) -> io::Result<String> {
        let mut digest = Sha256::new();
        self.write_layer(&mut digest)?;
        Ok(format!("sha256:{}", hex(&digest.finalize())))
    }

    /// The image's configuration (image-spec, config.md).
    fn configuration(&self, diff_id: &str) -> Vec<u8> {
        let config = json!({
            "architecture": super::registry::architecture(),
            "os": "linux",
            "config": {"Entrypoint": [format!("/bin/{}", self.program)], "Env": ["PATH=/bin"], "User": format!("{USER}:{USER}"), "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        config.to_string().into_bytes()
    }

    /// Writes it as an archive, in the form of `docker save`, for other container runtimes.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn write_archive(&self, output: impl Write) -> io::Result<()> {
        let mut layer = Vec::new();
        self.write_layer(&mut layer)?;
        let config = self.configuration(&format!("sha256:{}", hex(&Sha256::digest(&layer))));
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]).to_string();
        let mut tar = tar::Builder::new(output);
        for (path, bytes) in
            [("config.json", &config[..]), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())]
        {
            tar.append_data(&mut header(tar::EntryType::Regular, 0o644, bytes.len()), path, bytes)?;
        }
        tar.finish()
    }
}

/// What is said of an image in the built-in registry that isn't here.
pub(super) fn refuse(reference: &Reference) -> ImageError {
    let reason = format!(
        "images of {BUILT_IN_REGISTRY} are a part of timonel and are never pulled; this version has no such image"
    );
    ImageError::Pull { image: reference.whole(), reason }
}

impl ImageStore {
    /// Sees to it that a built-in image is here, as this binary has it. Blocks.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add_built_in(self: &Arc<Self>, built_in: &BuiltIn) -> Result<Image, ImageError> {
        let diff_id = built_in.diff_id()?;
        let config = Configuration::read(&built_in.configuration(&diff_id), 1)?;
        let image = config.image(vec![built_in.name.into()], Vec::new(), built_in.bytes.len() as u64);
        if let Some(present) = self.find(&image.id).filter(|present| present.names.contains(&image.names[0])) {
            return Ok(present);
        }
        let mut layer = Vec::new();
        built_in.write_layer(&mut layer)?;
        self.unpack(&diff_id, io::Cursor::new(layer))?;
        self.add(image)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Progress, Registries};
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const HELLO: BuiltIn =
        BuiltIn { name: "timonel.local/hello:1", program: "hello", bytes: b"a program", links: &["sh", "ls"] };

    fn open(folder: &std::path::Path) -> Arc<ImageStore> {
        ImageStore::open(folder, Registries::default()).unwrap()
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn built_in_image_is_here_without_a_registry() {
        let folder = tempfile::tempdir().unwrap();
        let images = open(folder.path());
        let image = images.add_built_in(&HELLO).unwrap();
        assert!(image.digests.is_empty(), "image garbage collection leaves what came from no registry");
        let root = images.layer_path(&image.layers[0]);
        assert_eq!(bounded::text(root.join("bin/hello"), 99).unwrap(), "a program");
        assert_eq!(root.join("bin/hello").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(root.join("bin/sh").read_link().unwrap().to_str(), Some("hello"));
        // With the policy Always it is asked for again: no network is needed for the answer.
        let progress = Arc::<Progress>::default();
        assert_eq!(wait(images.pull("timonel.local/hello:1", None, &progress)).unwrap().id, image.id);
        let missing = wait(images.pull("timonel.local/hello:2", None, &progress)).unwrap_err();
        assert!(missing.to_string().contains("never pulled"), "{missing}");
        // It is unpacked once: at the next start, too, what is here stays.
        std::fs::remove_file(root.join("bin/sh")).unwrap();
        // A folder has one store at a time: the thread that syncs the image still has this one.
        while Arc::strong_count(&images) > 1 {
            std::thread::yield_now();
        }
        drop(images);
        let images = open(folder.path());
        assert_eq!(images.add_built_in(&HELLO).unwrap().id, image.id);
        assert!(!root.join("bin/sh").is_symlink());
        // Another version takes the name over.
        let newer = images.add_built_in(&BuiltIn { bytes: b"a better program", ..HELLO }).unwrap();
        assert_eq!(images.find("timonel.local/hello:1").unwrap().id, newer.id);
    }

    #[test]
    fn archive_of_it_is_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let images = open(folder.path());
        let archive = folder.path().join("hello.tar");
        HELLO.write_archive(std::fs::File::create(&archive).unwrap()).unwrap();
        let loaded = wait(images.load(&archive)).unwrap();
        assert_eq!(loaded[0].names, ["timonel.local/hello:1"]);
        assert_eq!(images.add_built_in(&HELLO).unwrap().id, loaded[0].id);
    }
}
