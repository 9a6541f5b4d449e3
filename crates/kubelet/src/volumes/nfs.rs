//! Folders of NFS servers, mounted by the machine's own `mount`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::NFSVolumeSource;
use runtime::rootfs;
use tokio::process::Command;

use super::{FsGroup, Ready, VolumeError};

/// A server that is silent for longer than this is tried again later.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(120);
/// What is kept of what `mount` says, which names what the server said, in bytes.
const MAX_OUTPUT_BYTES: u64 = 16 << 10;

/// Mounts a server's folder at `target`, unless it is mounted there already.
///
/// # Errors
/// With what `mount` says, and what the machine lacks.
pub async fn publish(
    source: &NFSVolumeSource,
    options: &[String],
    read_only: bool,
    target: PathBuf,
) -> Result<Ready, VolumeError> {
    // Owners of files are the server's matter.
    let ready = Ready { path: target.clone(), fs_group: FsGroup::Never };
    if rootfs::is_mounted(&target) {
        return Ok(ready);
    }
    std::fs::create_dir_all(&target)?;
    let arguments = arguments(source, options, read_only, &target);
    let mut command = Command::new("mount");
    let ended =
        tokio::time::timeout(MOUNT_TIMEOUT, bounded::output(command.args(&arguments), b"", MAX_OUTPUT_BYTES)).await;
    let line = format!("mount {}", arguments.join(" "));
    let output = ended
        .map_err(|_| {
            VolumeError::Refused(format!(
                "{line}: no answer from {:?} within {} s",
                source.server,
                MOUNT_TIMEOUT.as_secs()
            ))
        })?
        .map_err(|e| VolumeError::Refused(format!("{line}: {e}")))?;
    if output.status.success() {
        return Ok(ready);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    // Without its helper `mount` speaks of options and of several programs.
    let helper = ["/sbin/mount.nfs", "/usr/sbin/mount.nfs"].iter().any(|path| Path::new(path).exists());
    let remedy = if helper { "" } else { " (this machine has no mount.nfs: install nfs-common or nfs-utils)" };
    Err(VolumeError::Refused(format!("{line}: {said}{remedy}")))
}

fn arguments(source: &NFSVolumeSource, options: &[String], read_only: bool, target: &Path) -> Vec<String> {
    let read_only = read_only || source.read_only == Some(true);
    let options: Vec<String> = read_only.then(|| "ro".to_string()).into_iter().chain(options.iter().cloned()).collect();
    // An address of IPv6 would end at its first colon.
    let server = match source.server.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => source.server.clone(),
    };
    let mut arguments = vec!["-t".to_string(), "nfs".into()];
    if !options.is_empty() {
        arguments.extend(["-o".into(), options.join(",")]);
    }
    // What a pod says isn't to be taken for an option.
    arguments.extend(["--".into(), format!("{server}:{}", source.path), target.display().to_string()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_is_told_what_the_volume_says() {
        let line = |server: &str, own: Option<bool>, options: &[&str], read_only: bool| {
            let source = NFSVolumeSource { server: server.into(), path: "/export".into(), read_only: own };
            let options: Vec<String> = options.iter().map(|o| (*o).to_string()).collect();
            arguments(&source, &options, read_only, Path::new("/t")).join(" ")
        };
        assert_eq!(line("a.b", None, &[], false), "-t nfs -- a.b:/export /t");
        assert_eq!(
            line("a", Some(true), &["nfsvers=4.1", "hard"], false),
            "-t nfs -o ro,nfsvers=4.1,hard -- a:/export /t"
        );
        assert_eq!(line("fd00::1", Some(false), &[], true), "-t nfs -o ro -- [fd00::1]:/export /t");
        assert_eq!(line("-o suid", None, &[], false), "-t nfs -- -o suid:/export /t");
    }
}
