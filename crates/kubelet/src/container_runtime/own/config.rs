//! From a container's spec to what our own runtime needs, and its start.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SecurityContext};
use runtime::process::Process;
use runtime::protocol::Start;
use runtime::rootfs;
use runtime::selinux::Labels;
use runtime::spec::ContainerConfig;

use super::{Shim, cdi};
use crate::config::Config;
use crate::container_runtime::launch::{
    Launch, StartError, config_error, devices, expanded, mounts, seccomp_path, selinux_options, sysctls,
};
use crate::machine::Memory;
use crate::spec::names::cgroup;
use crate::spec::resources::{limits, oom_score};
use crate::state::WaitingReason;

/// User and groups that a container runs as.
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// The most that is read of an image's `/etc/passwd` or `/etc/group`, in bytes.
const MAX_PASSWD_BYTES: u64 = 4 << 20;

fn accounts(rootfs: &Path, file: &str) -> String {
    let text = runtime::inside::read(rootfs, Path::new(file), MAX_PASSWD_BYTES).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// A line of `/etc/passwd` or `/etc/group` by name or number: its fields.
fn account(rootfs: &Path, file: &str, wanted: &str) -> Option<Vec<String>> {
    let text = accounts(rootfs, file);
    let fields = |line: &str| line.split(':').map(String::from).collect::<Vec<_>>();
    text.lines().map(fields).find(|f| f.first().is_some_and(|n| n == wanted) || f.get(2).is_some_and(|n| n == wanted))
}

fn identity(
    rootfs: &Path,
    image_user: &str,
    pod: &PodSecurityContext,
    own: &SecurityContext,
) -> Result<Identity, StartError> {
    let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let number = |file: &str, name: &str| -> Result<(u32, Option<u32>), StartError> {
        let entry = account(rootfs, file, name);
        let third = entry.as_ref().and_then(|f| f.get(2)).and_then(|n| n.parse().ok());
        let fourth = entry.as_ref().and_then(|f| f.get(3)).and_then(|n| n.parse().ok());
        match name.parse().ok().or(third) {
            Some(id) => Ok((id, fourth)),
            None => Err(StartError {
                reason: WaitingReason::CreateContainerError,
                message: format!("unable to find user {name}: no matching entries in passwd file"),
            }),
        }
    };
    let asked_user = own.run_as_user.or(pod.run_as_user).map(|u| u.to_string());
    let user = asked_user.as_deref().unwrap_or(if user.is_empty() { "0" } else { user });
    let (uid, primary) = number("/etc/passwd", user)?;
    let gid = match own.run_as_group.or(pod.run_as_group) {
        Some(gid) => gid as u32,
        None if !group.is_empty() && asked_user.is_none() => number("/etc/group", group)?.0,
        None => primary.unwrap_or(0),
    };
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) && uid == 0 {
        return Err(config_error("container has runAsNonRoot and image will run as root"));
    }
    let mut groups: Vec<u32> = pod.supplemental_groups.iter().flatten().map(|g| *g as u32).collect();
    if pod.supplemental_groups_policy.as_deref() != Some("Strict") {
        groups.extend(memberships(rootfs, uid));
    }
    groups.extend(pod.fs_group.map(|g| g as u32));
    Ok(Identity { uid, gid, groups })
}

/// As upstream's runtimes (runc's `prepareEnv`): a process without `HOME`, or with an empty one, gets that of its user: of the line in the image's passwd,
/// and without one the root of all folders.
fn settle_home(variables: &mut BTreeMap<String, String>, of_user: impl FnOnce() -> String) {
    if variables.get("HOME").is_none_or(String::is_empty) {
        variables.insert("HOME".into(), of_user());
    }
}

/// The home folder of a user by an image's own file.
fn home(rootfs: &Path, uid: u32) -> String {
    let number = uid.to_string();
    let text = accounts(rootfs, "/etc/passwd");
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2) == Some(&number.as_str()));
    let home = line.and_then(|fields| fields.get(5).map(|home| home.trim().to_string()));
    home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into())
}

/// The groups that an image's own files put a user in.
fn memberships(rootfs: &Path, uid: u32) -> Vec<u32> {
    let Some(name) = account(rootfs, "/etc/passwd", &uid.to_string()).and_then(|f| f.into_iter().next()) else {
        return Vec::new();
    };
    let text = accounts(rootfs, "/etc/group");
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = fields.get(3)?.split(',').any(|member| member.trim() == name);
        fields.get(2)?.parse().ok().filter(|_| is_member)
    };
    text.lines().filter_map(group).collect()
}

/// The seccomp profile of a container: whether it is the default one, and the text of its own. `by_default` is what containers have that
/// ask for none (upstream's `--seccomp-default`).
fn confined(
    folder: &Path,
    by_default: bool,
    pod: &PodSecurityContext,
    own: &SecurityContext,
) -> Result<(bool, Option<String>), StartError> {
    let Some(profile) = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()) else {
        return Ok((by_default, None));
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok((true, None)),
        "Localhost" => {
            let path = seccomp_path(folder, profile);
            let failed = |why: String| StartError {
                reason: WaitingReason::CreateContainerError,
                message: format!("cannot load seccomp profile {:?}: {why}", path.display().to_string()),
            };
            let text = bounded::text(&path, bounded::MAX_OWN_FILE_BYTES).map_err(|e| failed(e.to_string()))?;
            runtime::seccomp_profile(&text).map_err(failed)?;
            Ok((false, Some(text)))
        }
        _ => Ok((false, None)),
    }
}

/// The AppArmor profile of a container, loaded. A container that names none gets the runtime's where AppArmor is enabled, as upstream's runtimes have
/// it; one whose profile can't be loaded isn't started.
async fn app_armor(pod: &PodSecurityContext, own: &SecurityContext) -> Result<Option<String>, StartError> {
    let profile = own.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref());
    let of_machine = match profile {
        Some(profile) if profile.type_ == "Unconfined" => return Ok(None),
        Some(profile) => profile.localhost_profile.clone().filter(|_| profile.type_ == "Localhost"),
        None if own.privileged == Some(true) || !runtime::app_armor::is_enabled() => return Ok(None),
        None => None,
    };
    let loading = tokio::task::spawn_blocking(move || match of_machine {
        Some(name) => runtime::app_armor::check(&name).map(|()| name),
        None => runtime::app_armor::load_default().map(|()| runtime::app_armor::DEFAULT.to_string()),
    });
    match loading.await.map_err(io::Error::other).and_then(|loaded| loaded) {
        Ok(name) => Ok(Some(name)),
        Err(error) if profile.is_none() => {
            tracing::debug!(%error, "the container runs without an AppArmor profile");
            Ok(None)
        }
        Err(error) => Err(config_error(format!("cannot load AppArmor profile: {error}"))),
    }
}

/// The SELinux labels of a container that asks for some, where the kernel has it; else they are ignored, as upstream does it.
fn labels(pod: &PodSecurityContext, own: &SecurityContext) -> Result<Option<Labels>, StartError> {
    let Some(options) = selinux_options(pod, own).filter(|_| runtime::selinux::is_enabled()) else { return Ok(None) };
    let labels = runtime::selinux::labels(&options);
    labels.map(Some).map_err(|error| config_error(format!("cannot use seLinuxOptions: {error}")))
}

impl Shim {
    /// Prepares a container's file system and starts it.
    ///
    /// # Errors
    /// With what its waiting state should say.
    pub(super) async fn launch(&self, launch: &Launch<'_>) -> Result<(), StartError> {
        let create_error =
            |e: std::io::Error| StartError { reason: WaitingReason::CreateContainerError, message: e.to_string() };
        let Launch { pod, container, image, dirs, id, .. } = launch;
        let processes = self.process_namespace(launch).await.map_err(create_error)?;
        let bundle = dirs.container(id);
        let layers = self.images.layer_paths(image);
        let root = bundle.join("rootfs");
        let spec = pod.spec.as_ref();
        let (of_pod, of_container) =
            (spec.and_then(|s| s.security_context.clone()), container.security_context.clone());
        let labels = labels(&of_pod.unwrap_or_default(), &of_container.unwrap_or_default())?;
        let (users, label) = (launch.sandbox.users(dirs), labels.as_ref().map(|labels| labels.file.as_str()));
        rootfs::mount_overlay(&layers, &dirs.writable(id), &root, users.as_ref(), label).map_err(create_error)?;
        let config = container_config(&self.node.config, launch, &root, processes, labels).await?;
        runtime::spec::write_bundle(&bundle, &config, &dirs.namespaces(), &dirs.shm()).map_err(create_error)?;
        // For exec, which uses the same user, groups, capabilities and variables.
        let process = runtime::spec::process(&config, &[], false);
        std::fs::write(bundle.join("process.json"), process.to_string()).map_err(create_error)?;
        runtime::cgroup::create(&cgroup(&self.node.config, pod)).map_err(create_error)?;
        let profile = bundle.join("seccomp.json");
        if let Some(text) = &config.profile {
            std::fs::write(&profile, text).map_err(create_error)?;
        }
        let start = Start {
            id: (*id).into(),
            bundle: bundle.display().to_string(),
            root: dirs.run.join("oci").display().to_string(),
            log: dirs.log(&container.name, launch.attempt).display().to_string(),
            tty: config.tty,
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            cgroup: config.cgroup.clone(),
            confined: runtime::spec::confinement(&config),
            profile: config.profile.is_some().then(|| profile.display().to_string()),
            owner: config.users.as_ref().map_or(0, |users| users.first) + config.uid,
            users: config.users.clone(),
        };
        std::fs::create_dir_all(&start.root).map_err(create_error)?;
        match self.shim.start_container(start).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if let Err(error) = rootfs::unmount_below(&[&bundle]) {
                    tracing::warn!(%error, "failed to unmount the file systems of a container that failed to start");
                }
                Err(StartError { reason: WaitingReason::RunContainerError, message: error.to_string() })
            }
        }
    }

    /// The process namespace that a container joins, if it gets none of its own: the pod's, if its containers share one,
    /// or that of the container that it is to look at.
    async fn process_namespace(&self, launch: &Launch<'_>) -> io::Result<Option<PathBuf>> {
        if launch.pod.spec.as_ref().and_then(|s| s.share_process_namespace) == Some(true) {
            return self.shared_processes(launch).await.map(Some);
        }
        let Some(target) = launch.target else { return Ok(None) };
        let (states, _) = self.shim.watch().await.map_err(io::Error::other)?;
        let state = states.into_iter().find(|s| s.id == target && s.exit.is_none());
        let state = state.ok_or_else(|| io::Error::other("the container which it is to look at isn't running"))?;
        Ok(Some(format!("/proc/{}/ns/pid", state.pid).into()))
    }

    /// The namespace that the pod's containers share. Its first process is found again by its cgroup.
    async fn shared_processes(&self, launch: &Launch<'_>) -> io::Result<PathBuf> {
        let group = format!("{}/pause", cgroup(&self.node.config, launch.pod));
        let present = runtime::cgroup::members(&group).into_iter().next();
        let pid = match present {
            Some(pid) => pid,
            None => {
                runtime::cgroup::create_leaf(&group)?;
                let users = launch.sandbox.users(launch.dirs);
                let namespace = users.as_ref().map(|users| users.namespace.as_path());
                let pid = self.shim.share_processes(namespace).await.map_err(io::Error::other)?;
                if let Err(error) = runtime::cgroup::enter(&group, pid) {
                    // It wouldn't be found again.
                    let _ = Process::find(pid).and_then(|process| process.signal(libc::SIGKILL));
                    return Err(error);
                }
                pid
            }
        };
        Ok(format!("/proc/{pid}/ns/pid").into())
    }
}

/// The command line of a container. A command in the spec also puts the image's arguments aside.
fn arguments(launch: &Launch<'_>) -> Result<Vec<String>, StartError> {
    let (container, defaults, variables) = (launch.container, &launch.image.defaults, launch.variables);
    Ok(match (expanded(&container.command, variables)?, expanded(&container.args, variables)?) {
        (command, args) if !command.is_empty() => [command, args].concat(),
        (_, args) if !args.is_empty() => [defaults.entrypoint.clone(), args].concat(),
        _ => [defaults.entrypoint.clone(), defaults.cmd.clone()].concat(),
    })
}

/// Refuses names of capabilities that aren't known: a container that drops one would keep what was meant.
fn check_capabilities(capabilities: &Capabilities) -> Result<(), StartError> {
    let mut named = capabilities.add.iter().chain(&capabilities.drop).flatten();
    match named.find(|name| !runtime::spec::is_capability(name)) {
        Some(unknown) => Err(config_error(format!("unknown capability {unknown:?}"))),
        None => Ok(()),
    }
}

async fn container_config(
    config: &Config,
    launch: &Launch<'_>,
    root: &Path,
    process_namespace: Option<PathBuf>,
    labels: Option<Labels>,
) -> Result<ContainerConfig, StartError> {
    let Launch { pod, container, image, sandbox, dirs, .. } = launch;
    let spec = pod.spec.clone().unwrap_or_default();
    let pod_context = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let mut variables = launch.variables.all.clone();
    let args = arguments(launch)?;
    let user = identity(root, &image.defaults.user, &pod_context, &own)?;
    settle_home(&mut variables, || home(root, user.uid));
    let capabilities = own.capabilities.clone().unwrap_or_default();
    check_capabilities(&capabilities)?;
    let cwd =
        container.working_dir.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| image.defaults.working_dir.clone());
    let privileged = own.privileged.unwrap_or(false);
    let folder = config.seccomp_dir();
    // Upstream's runtimes leave privileged containers alone, too.
    let (confined, profile) =
        if privileged { (false, None) } else { confined(&folder, config.seccomp_default, &pod_context, &own)? };
    let app_armor = app_armor(&pod_context, &own).await?;
    let mut made = ContainerConfig {
        args,
        cwd,
        uid: user.uid,
        gid: user.gid,
        extra_gids: user.groups,
        tty: container.tty.unwrap_or(false),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        privileged,
        unmasked: own.proc_mount.as_deref() == Some("Unmasked"),
        confined,
        profile,
        app_armor,
        labels,
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        mounts: mounts(launch)?,
        devices: devices(launch)?,
        sysctls: sysctls(&pod_context),
        limits: limits(container),
        oom_score_adj: oom_score(pod, container, Memory::read().total),
        host_pid: spec.host_pid.unwrap_or(false),
        process_namespace,
        users: sandbox.users(dirs),
        host_ipc: spec.host_ipc.unwrap_or(false),
        host_network: sandbox.host_network,
        cgroup: format!("{}/{}", cgroup(config, pod), launch.id),
        hooks: Vec::new(),
        env: variables.into_iter().collect(),
    };
    cdi::inject(&mut made, launch.devices, &config.cdi_spec_dirs)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_home_is_none() {
        for (said, home) in [(None, "/of/user"), (Some(""), "/of/user"), (Some("/x"), "/x")] {
            let mut variables: BTreeMap<String, String> = said.map(|s| ("HOME".into(), s.into())).into_iter().collect();
            settle_home(&mut variables, || "/of/user".into());
            assert_eq!(variables["HOME"], home, "{said:?}");
        }
    }

    #[test]
    fn home_is_that_of_the_users_line() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        assert_eq!(home(root.path(), 0), "/");
        let lines = "33:x:7:7::/named:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:\nbare:x:5:5\nnone:x:6:6::\n";
        std::fs::write(root.path().join("etc/passwd"), lines).unwrap();
        let homes = [0, 33, 5, 6, 7, 12345].map(|uid| home(root.path(), uid));
        assert_eq!(homes, ["/root", "/var/www", "/", "/", "/named", "/"]);
    }
}
