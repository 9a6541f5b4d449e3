//! Files that hold secrets.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Identity;

/// Writes `content` to `path` with mode 0600, whole or not at all, and makes the folders on the way.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// A kubeconfig for `identity` that stands alone: all certificates are inside.
pub fn kubeconfig(server: &str, ca_pem: &str, identity: &Identity) -> String {
    let b64 = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: default\nclusters:\n- name: default\n  cluster:\n    \
         server: {server}\n    certificate-authority-data: {}\nusers:\n- name: default\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: default\n  context:\n    \
         cluster: default\n    user: default\n",
        b64(ca_pem),
        b64(&identity.certificate_pem),
        b64(&identity.key_pem),
    )
}
