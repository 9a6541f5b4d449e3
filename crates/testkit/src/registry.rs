//! A registry on a test machine's loopback: Debian's `docker-registry` over a folder that images are put into.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::Node;

/// User and password that a [`Registry`] with a lock asks for.
pub const LOGIN: (&str, &str) = ("user", "secret");
/// The password's bcrypt hash, which is all that docker-registry reads.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// A running registry; dropping it ends it.
pub struct Registry {
    process: Child,
    storage: PathBuf,
}

impl Registry {
    /// Starts one in the network of `node`, on `127.0.0.1:port`, that asks for [`LOGIN`].
    ///
    /// # Errors
    /// When docker-registry isn't installed.
    pub fn start(node: &Node, port: u16) -> anyhow::Result<Self> {
        let folder = node.folder().join(format!("registry-{port}"));
        let storage = folder.join("storage");
        std::fs::create_dir_all(&storage)?;
        let passwords = folder.join("htpasswd");
        std::fs::write(&passwords, format!("{}:{HASH}\n", LOGIN.0))?;
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n\
             auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n",
            storage.display(),
            passwords.display()
        );
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let process = Command::new("nsenter")
            .arg(format!("--net={}", node.network().display()))
            .args(["docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry can't be started")?;
        Ok(Registry { process, storage })
    }

    /// The lines of what was asked of it.
    pub fn log(&self) -> Vec<String> {
        let log = self.storage.parent().map(|folder| folder.join("log"));
        let text = log.and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default();
        text.lines().map(String::from).collect()
    }

    /// Puts an image there that is busybox and `layers` more, each with a file of `bytes` that no packing makes smaller.
    ///
    /// # Errors
    /// Those of [`put_busybox`](Self::put_busybox).
    pub fn put_large(&self, repository: &str, tag: &str, layers: usize, bytes: usize) -> anyhow::Result<()> {
        crate::images::large_in_registry(&self.storage, repository, tag, layers, bytes)
    }

    /// Puts a busybox image there.
    ///
    /// # Errors
    /// Those of the file system, and busybox missing.
    pub fn put_busybox(&self, repository: &str, tag: &str) -> anyhow::Result<()> {
        crate::images::busybox_in_registry(&self.storage, repository, tag)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
