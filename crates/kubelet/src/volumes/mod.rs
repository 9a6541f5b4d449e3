//! Volumes: what a pod's `volumes` are on this node.

pub mod csi;
pub mod local_path;
mod nfs;
pub mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use apimachinery::clock;
use informer::Claim;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, ImageVolumeSource, KeyToPath, PersistentVolume, PersistentVolumeClaim, Pod,
    ServiceAccount, Volume,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use nix::mount::{MsFlags, mount};
use runtime::inside::Rights;
use runtime::rootfs;

use crate::Agent;
use crate::container_runtime::launch;
use crate::environment;
use crate::machine::allocatable;
use crate::node::status::NodeFacts;
use crate::pod::sandbox::Places;

/// A file of a volume that the agent writes: its content and mode.
type Files = BTreeMap<String, (Vec<u8>, i32)>;

/// When a volume is given to the pod's `fsGroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsGroup {
    Never,
    /// What containers write themselves is theirs after the start, and may be very much.
    Once,
    /// Whenever the agent has written it anew: to be read, as nobody else writes to it.
    Always,
}

/// A volume that is ready for containers: a folder, a file or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    pub path: PathBuf,
    pub fs_group: FsGroup,
}

/// The file, in the folder of a volume from an image, that names the image.
const IMAGE: &str = "image";

/// The image that a volume of a pod shows, by its id, once it was made.
pub fn image_of(folder: &Path) -> Option<String> {
    bounded::text(folder.join(IMAGE), bounded::OWN).ok()
}

impl Agent {
    /// Makes all volumes of a pod, and returns where each is. Done again (not `first`), it renews those whose content may
    /// change.
    ///
    /// # Errors
    /// With what is missing, in the words of a `FailedMount` event.
    pub async fn prepare_volumes(
        &self,
        pod: &Pod,
        places: &Places,
        ips: &[IpAddr],
        first: bool,
    ) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut paths = BTreeMap::new();
        let wanted_group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.fs_group);
        let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        let only_if_needed =
            context.and_then(|c| c.fs_group_change_policy.as_deref()).is_some_and(|policy| policy == "OnRootMismatch");
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        for volume in volumes {
            let Ready { path, fs_group } = match self.volume(pod, volume, places, ips, first).await {
                Ok(ready) => ready,
                Err(error) => self
                    .as_before(volume, places)
                    .ok_or_else(|| format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name))?,
            };
            let due = fs_group == FsGroup::Always || (first && fs_group == FsGroup::Once);
            if let Some(group) = wanted_group.filter(|_| due) {
                let path = path.clone();
                let rights = if fs_group == FsGroup::Always { Rights::Read } else { Rights::ReadWrite };
                let _ = tokio::task::spawn_blocking(move || {
                    if !(only_if_needed && belongs_to(&path, group))
                        && let Err(error) = runtime::inside::give_to_group(&path, group as u32, rights)
                    {
                        tracing::warn!(path = %path.display(), %error, "failed to apply fsGroup to a volume");
                    }
                })
                .await;
            }
            paths.insert(volume.name.clone(), path);
        }
        Ok(paths)
    }

    /// What an earlier agent wrote of a volume, as long as the API doesn't answer this one.
    fn as_before(&self, volume: &Volume, places: &Places) -> Option<Ready> {
        let path = places.run.join("volumes").join(&volume.name);
        let has_files = path.join("..data").exists();
        let is_cut_off = !self.heard.load(std::sync::atomic::Ordering::Relaxed);
        (is_cut_off && has_files).then_some(Ready { path, fs_group: FsGroup::Always })
    }

    async fn volume(
        &self,
        pod: &Pod,
        volume: &Volume,
        places: &Places,
        ips: &[IpAddr],
        first: bool,
    ) -> Result<Ready, String> {
        // What the API can give again, secrets above all, stays in memory.
        let place = if volume.empty_dir.is_some() { &places.data } else { &places.run };
        let folder = place.join("volumes").join(&volume.name);
        let namespace = pod.namespace().unwrap_or_default();
        let text = |e: io::Error| e.to_string();
        if let Some(source) = &volume.host_path {
            let path = host_path(&source.path, source.type_.as_deref().unwrap_or(""))?;
            return Ok(Ready { path, fs_group: FsGroup::Never });
        }
        if let Some(source) = csi::Source::inline(pod, volume) {
            return self.publish(pod, places, &volume.name, &source, first).await;
        }
        if let Some(source) = &volume.nfs {
            return nfs::publish(source, &[], false, folder).await;
        }
        if let Some(wanted) = claim_of(pod, volume) {
            return self.claim(pod, volume, &wanted, places, first).await;
        }
        if let Some(source) = &volume.empty_dir {
            make_open(&folder).map_err(text)?;
            if source.medium.as_deref() == Some("Memory") && !rootfs::is_mounted(&folder) {
                let (_, ours) = allocatable::amounts(&self.config, &NodeFacts::gather(&self.config.data_dir));
                let ours = apimachinery::Quantity::from_json(&ours["memory"]).unwrap_or_default();
                let asked = source.size_limit.as_ref().and_then(|q| q.0.parse().ok());
                let size = memory_size(ours, launch::pod_limits(pod).memory_bytes, asked);
                let options = format!("mode=1777,size={size}");
                mount(
                    Some("tmpfs"),
                    &folder,
                    Some("tmpfs"),
                    MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                    Some(options.as_str()),
                )
                .map_err(|e| e.to_string())?;
            }
            let medium = source.medium.as_deref().unwrap_or("");
            if medium.starts_with("HugePages") && !rootfs::is_mounted(&folder) {
                let options = format!("mode=1777,pagesize={}", page_size(pod, medium)?);
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                mount(Some("hugetlbfs"), &folder, Some("hugetlbfs"), flags, Some(options.as_str()))
                    .map_err(|e| format!("no huge pages can be mounted: {e}"))?;
            }
            return Ok(Ready { path: folder, fs_group: FsGroup::Once });
        }
        std::fs::create_dir_all(&folder).map_err(text)?;
        if let Some(source) = &volume.image {
            let path = self.image_volume(pod, volume, source, folder).await?;
            return Ok(Ready { path, fs_group: FsGroup::Never });
        }
        let mut files = Files::new();
        if let Some(source) = &volume.config_map {
            let optional = source.optional.unwrap_or(false);
            let data = self.config_map(&namespace, &source.name, optional).await?;
            pick(&data, source.items.as_deref(), source.default_mode.unwrap_or(0o644), optional, &mut files)?;
        } else if let Some(source) = &volume.secret {
            let optional = source.optional.unwrap_or(false);
            let data = self.secret(&namespace, source.secret_name.as_deref().unwrap_or(""), optional).await?;
            pick(&data, source.items.as_deref(), source.default_mode.unwrap_or(0o644), optional, &mut files)?;
        } else if let Some(source) = &volume.downward_api {
            self.downward(pod, source.items.as_deref(), source.default_mode.unwrap_or(0o644), ips, &mut files)?;
        } else if let Some(source) = &volume.projected {
            let mode = source.default_mode.unwrap_or(0o644);
            for part in source.sources.as_deref().unwrap_or_default() {
                if let Some(p) = &part.config_map {
                    let optional = p.optional.unwrap_or(false);
                    let data = self.config_map(&namespace, &p.name, optional).await?;
                    pick(&data, p.items.as_deref(), mode, optional, &mut files)?;
                }
                if let Some(p) = &part.secret {
                    let optional = p.optional.unwrap_or(false);
                    let data = self.secret(&namespace, &p.name, optional).await?;
                    pick(&data, p.items.as_deref(), mode, optional, &mut files)?;
                }
                if let Some(p) = &part.downward_api {
                    self.downward(pod, p.items.as_deref(), mode, ips, &mut files)?;
                }
                if let Some(p) = &part.service_account_token {
                    let token =
                        self.token(pod, p.audience.as_deref(), p.expiration_seconds, &folder.join(&p.path)).await?;
                    files.insert(p.path.clone(), (token, mode));
                }
            }
        } else {
            return Err("its type isn't served by this version of timonel".into());
        }
        write_atomically(&folder, &files).map_err(text)?;
        Ok(Ready { path: folder, fs_group: FsGroup::Always })
    }

    /// The content of an image (KEP-4639). What containers might write to it is thrown away, as their mounts are read-only.
    async fn image_volume(
        &self,
        pod: &Pod,
        volume: &Volume,
        source: &ImageVolumeSource,
        folder: PathBuf,
    ) -> Result<PathBuf, String> {
        let root = folder.join("root");
        if rootfs::is_mounted(&root) {
            return Ok(root);
        }
        let asked = Container {
            name: volume.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        let image =
            self.image(pod, &asked).await.map_err(|missing| format!("{}: {}", missing.reason, missing.message))?;
        let layers = self.images.layers(&image).ok_or("the container runtime doesn't show the layers of images")?;
        // For whoever removes images that nobody uses: the name may stand for another one by then.
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        bounded::durable::replace(&folder.join(IMAGE), image.id.as_bytes()).map_err(|e| e.to_string())?;
        rootfs::mount_overlay(&layers, &folder.join("unused"), &root, None, None).map_err(|e| e.to_string())?;
        Ok(root)
    }

    fn downward(
        &self,
        pod: &Pod,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: i32,
        ips: &[IpAddr],
        files: &mut Files,
    ) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let value = if let Some(reference) = &item.field_ref {
                environment::field(pod, &reference.field_path, self, ips)?
            } else if let Some(reference) = &item.resource_field_ref {
                let wanted = reference.container_name.as_deref().unwrap_or("");
                let mut containers = pod.spec.iter().flat_map(launch::started);
                let container =
                    containers.find(|c| c.name == wanted).ok_or_else(|| format!("there is no container {wanted:?}"))?;
                let divisor = reference.divisor.as_ref().map_or("0", |d| d.0.as_str());
                environment::resource(container, &reference.resource, divisor, &self.config.data_dir)?
            } else {
                continue;
            };
            files.insert(item.path.clone(), (value.into_bytes(), item.mode.unwrap_or(mode)));
        }
        Ok(())
    }

    /// A token for the pod; the present one while it is fresh.
    async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: Option<i64>,
        present: &Path,
    ) -> Result<Vec<u8>, String> {
        let seconds = seconds.unwrap_or(3600);
        // Renewed when a fifth of its life is left, as upstream does.
        let age = std::fs::metadata(present).and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok());
        if let (Some(age), Ok(token)) = (age, bounded::bytes(present, bounded::OWN))
            && age < clock::seconds(seconds).mul_f64(0.8)
        {
            return Ok(token);
        }
        Ok(self.request_token(pod, audience, Some(seconds)).await?.token.unwrap_or_default().into_bytes())
    }

    /// A new token of the pod's account, good for this pod alone.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn request_token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: Option<i64>,
    ) -> Result<TokenRequestStatus, String> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let account =
            pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                attestations: None,
                audiences: audience.map(|a| vec![a.into()]),
                expiration_seconds: seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.name_any()),
                    uid: pod.uid(),
                }),
            }),
            ..Default::default()
        };
        let answer =
            api.create_token_request(&account, &PostParams::default(), &request).await.map_err(|e| e.to_string())?;
        Ok(answer.status.unwrap_or_default())
    }

    /// A bound claim's volume.
    async fn claim(
        &self,
        pod: &Pod,
        volume: &Volume,
        wanted: &Claim<'_>,
        places: &Places,
        first: bool,
    ) -> Result<Ready, String> {
        let namespace = pod.namespace().unwrap_or_default();
        let name = &wanted.name;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let claim = claims.get(name).await.map_err(|e| e.to_string())?;
        if !wanted.belongs(pod.metadata.uid.as_deref(), claim.owner_references()) {
            return Err(format!("PVC \"{namespace}/{name}\" was not created for the pod"));
        }
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let bound_to = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|_| bound);
        let bound_to = bound_to.ok_or_else(|| format!("persistentvolumeclaim {name:?} is not bound"))?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = volumes.get(&bound_to).await.map_err(|e| e.to_string())?;
        let read_only = volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
        if let Some(source) = csi::Source::of(&found, read_only) {
            let ready = self.publish(pod, places, &volume.name, &source, first).await?;
            self.expand(pod, &claim, &found, &source).await?;
            return Ok(ready);
        }
        let spec = found.spec.clone().unwrap_or_default();
        if let Some(local) = spec.local {
            let path = PathBuf::from(local.path);
            if path.starts_with(self.config.storage_dir()) {
                self.fill(&found).await?;
                let is_new = !path.exists();
                std::fs::create_dir_all(&path).map_err(|e| e.to_string())?;
                self.bound_volume(&claim, &found, &path, is_new).await?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(|e| e.to_string())?;
            }
            let fs_group = if path.is_dir() { FsGroup::Once } else { FsGroup::Never };
            let missing = || format!("path {} does not exist", path.display());
            return path.exists().then(|| Ready { path: path.clone(), fs_group }).ok_or_else(missing);
        }
        if let Some(source) = &spec.nfs {
            let target = places.run.join("volumes").join(&volume.name);
            return nfs::publish(source, &spec.mount_options.unwrap_or_default(), read_only, target).await;
        }
        if let Some(source) = spec.host_path {
            let path = host_path(&source.path, source.type_.as_deref().unwrap_or("DirectoryOrCreate"))?;
            // The machine's own files stay whose they are, as with the volume of the same name.
            return Ok(Ready { path, fs_group: FsGroup::Never });
        }
        Err("its volume's type isn't served by this version of timonel".into())
    }
}

/// The size of a volume in memory, in bytes (KEP-1967): no more than the pod may use, or all pods of the node together, and no more than
/// is asked for, if anything is.
fn memory_size(of_node: apimachinery::Quantity, of_pod: i64, asked: Option<apimachinery::Quantity>) -> i64 {
    let node = of_node.value().max(1);
    let most = Some(of_pod).filter(|pod| (1..=node).contains(pod)).unwrap_or(node);
    asked.map(apimachinery::Quantity::value).filter(|asked| (1..most).contains(asked)).unwrap_or(most)
}

/// What a volume says of claims.
pub fn claim_of<'a>(pod: &Pod, volume: &'a Volume) -> Option<Claim<'a>> {
    let (claim, ephemeral) = (volume.persistent_volume_claim.as_ref(), volume.ephemeral.as_ref());
    informer::claim_of(&pod.name_any(), &volume.name, claim, ephemeral)
}

fn host_path(path: &str, kind: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let meta = std::fs::metadata(&path);
    let refuse = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    use std::os::unix::fs::FileTypeExt as _;
    match kind {
        "DirectoryOrCreate" if meta.is_err() => std::fs::create_dir_all(&path).map_err(|e| e.to_string())?,
        "FileOrCreate" if meta.is_err() => std::fs::File::create(&path).map(|_| ()).map_err(|e| e.to_string())?,
        "" if meta.is_err() => std::fs::create_dir_all(&path).map_err(|e| e.to_string())?,
        "Directory" if !meta.as_ref().is_ok_and(std::fs::Metadata::is_dir) => return refuse("a directory"),
        "File" if !meta.as_ref().is_ok_and(std::fs::Metadata::is_file) => return refuse("a file"),
        "Socket" if !meta.as_ref().is_ok_and(|m| m.file_type().is_socket()) => return refuse("a socket file"),
        "CharDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_char_device()) => {
            return refuse("a character device");
        }
        "BlockDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_block_device()) => {
            return refuse("a block device");
        }
        _ => {}
    }
    Ok(path)
}

/// Takes all keys, or those that `items` name to the paths that they name.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    files: &mut Files,
) -> Result<(), String> {
    match items.filter(|i| !i.is_empty()) {
        None => files.extend(data.iter().map(|(k, v)| (k.clone(), (v.clone(), mode)))),
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(value) => {
                        files.insert(item.path.clone(), (value.clone(), item.mode.unwrap_or(mode)));
                    }
                    None if optional => {}
                    None => return Err(format!("references non-existent config key: {}", item.key)),
                }
            }
        }
    }
    Ok(())
}

/// Writes a volume's files so that a reader sees all of the old or all of the new: they lie in a folder of their own,
/// `..data` points to it, and is swapped by one rename.
fn write_atomically(folder: &Path, files: &Files) -> io::Result<()> {
    let link = folder.join("..data");
    let present = std::fs::read_link(&link).ok().map(|target| folder.join(target));
    if let Some(present) = &present
        && files
            .iter()
            .all(|(path, (content, _))| bounded::bytes(present.join(path), bounded::OWN).ok().as_ref() == Some(content))
        && count_files(present) == files.len()
    {
        return Ok(());
    }
    let stamp = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    let fresh = folder.join(format!("..{stamp}"));
    std::fs::create_dir(&fresh)?;
    for (path, (content, mode)) in files {
        let relative = Path::new(path);
        if relative.is_absolute() || relative.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
            return Err(io::Error::other(format!("the path {path:?} leads out of the volume")));
        }
        let target = fresh.join(relative);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, content)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(*mode as u32))?;
    }
    let swap = folder.join("..data_tmp");
    let _ = std::fs::remove_file(&swap);
    std::os::unix::fs::symlink(fresh.file_name().unwrap_or_default(), &swap)?;
    #[expect(clippy::disallowed_methods, reason = "a link to what is in memory, or made again at the next start")]
    std::fs::rename(&swap, &link)?;
    let tops: std::collections::BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !tops.contains(name.as_str()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for top in tops {
        let visible = folder.join(top);
        if std::fs::symlink_metadata(&visible).is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(top), &visible)?;
        }
    }
    if let Some(old) = present {
        let _ = runtime::remove_tree(&old);
    }
    Ok(())
}

/// The size of the huge pages of an `emptyDir`: that which its medium names, or the only one that the pod asks for.
fn page_size(pod: &Pod, medium: &str) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let of_containers = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref());
    let of_pod = spec.and_then(|s| s.resources.as_ref()?.requests.as_ref());
    let asked: std::collections::BTreeSet<&str> = of_containers
        .chain(of_pod)
        .flat_map(BTreeMap::keys)
        .filter_map(|name| name.strip_prefix("hugepages-"))
        .collect();
    let wanted = medium.strip_prefix("HugePages").unwrap_or("").trim_start_matches('-');
    let size = match (wanted, asked.len()) {
        ("", 1) => asked.first().copied().unwrap_or(""),
        ("", 0) => return Err("the pod asks for no huge pages (resources hugepages-2Mi and the like)".into()),
        ("", _) => {
            return Err(
                "the pod asks for huge pages of several sizes: the medium must be HugePages-2Mi or the like".into()
            );
        }
        (size, _) if asked.contains(size) => size,
        (size, _) => return Err(format!("the pod asks for no hugepages-{size}, which the medium {medium} is made of")),
    };
    Ok(size.trim_end_matches('i').into())
}

/// Whether a pod has volumes that tell of itself (`downwardAPI`).
pub fn tell_of_pod(pod: &Pod) -> bool {
    let sources =
        |v: &Volume| v.projected.iter().flat_map(|p| p.sources.iter().flatten()).any(|p| p.downward_api.is_some());
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.any(|v| v.downward_api.is_some() || sources(v))
}

/// Makes a folder in which everybody may write, unless it is there: from then on its rights are its users' to change.
fn make_open(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    // It has its name only once it has its rights, which making alone doesn't give under a mask.
    let new = folder.with_extension("new~");
    std::fs::create_dir_all(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o777))?;
    #[expect(clippy::disallowed_methods, reason = "an empty folder")]
    std::fs::rename(new, folder)?;
    Ok(())
}

/// Those in and below a folder; links are none of the folders.
fn count_files(folder: &Path) -> usize {
    let (mut count, mut open) = (0, vec![folder.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    count
}

/// Whether the top of a volume is the group's already, with the rights that a pod of the group needs.
fn belongs_to(path: &Path, group: i64) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).is_ok_and(|meta| i64::from(meta.gid()) == group && meta.mode() & 0o2070 == 0o2070)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_in_memory_is_bounded_whatever_is_asked_for() {
        let size = |asked: Option<&str>, of_pod: i64| {
            memory_size("1Gi".parse().unwrap(), of_pod, asked.map(|text| text.parse().unwrap()))
        };
        for (asked, of_pod, want) in [
            (None, 0, 1 << 30),
            (Some("0"), 0, 1 << 30),
            (Some("-1"), 0, 1 << 30),
            (Some("9E"), 0, 1 << 30),
            (Some("1Mi"), 0, 1 << 20),
            (None, 64 << 20, 64 << 20),
            (Some("128Mi"), 64 << 20, 64 << 20),
            (Some("1Mi"), 64 << 20, 1 << 20),
            (None, i64::MAX, 1 << 30),
        ] {
            assert_eq!(size(asked, of_pod), want, "{asked:?} {of_pod}");
        }
    }
}
