//! CDI devices ([`plugins::cdi`]) of containers that our own runtime runs; other runtimes resolve the names themselves.

use std::path::PathBuf;

use ::plugins::cdi::{self, DeviceNode, Edits};
use runtime::devices::{Type, access};
use runtime::spec::{ContainerConfig, Device, Hook, Mount};

use crate::container_runtime::launch::{StartError, plugin_mount};
use crate::devices::ContainerDevices;
use crate::state::WaitingReason;

/// Annotations of device plugins that name CDI devices, as runtimes took them before the device plugin API had a field for it.
const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";
/// The points of the runtime specification at which hooks run.
const HOOK_POINTS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn failed(message: String) -> StartError {
    let message = format!("CDI device injection failed: {message}");
    StartError { reason: WaitingReason::CreateContainerError, message }
}

/// Gives a container what the files in `folders` say of its CDI devices.
///
/// # Errors
/// When a device is in no file, or what a file says can't be done.
pub fn inject(config: &mut ContainerConfig, devices: &ContainerDevices, folders: &[PathBuf]) -> Result<(), StartError> {
    let annotations = devices.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
    let of_annotations = annotations.flat_map(|(_, names)| names.split(',')).map(|name| name.trim().to_string());
    let names: Vec<String> = devices.cdi.iter().cloned().chain(of_annotations).collect();
    let edits = cdi::resolve(folders, &names).map_err(|(error, unread)| {
        let hint = if unread.is_empty() { String::new() } else { format!(" (not read: {})", unread.join("; ")) };
        failed(format!("{error}{hint}"))
    })?;
    apply(config, edits)
}

fn apply(config: &mut ContainerConfig, edits: Edits) -> Result<(), StartError> {
    for variable in edits.env {
        let (name, value) = variable.split_once('=').ok_or_else(|| failed(format!("{variable:?} is no variable")))?;
        config.env.retain(|(present, _)| present != name);
        config.env.push((name.into(), value.into()));
    }
    for node in edits.device_nodes {
        config.devices.retain(|device| device.target != node.path);
        config.devices.push(device(node)?);
    }
    for mount in edits.mounts {
        let target = mount.container_path.clone();
        config.mounts.retain(|present| present.target != target);
        config.mounts.push(with_options(plugin_mount(mount.host_path, target), &mount.options));
    }
    for hook in edits.hooks {
        let point = HOOK_POINTS.into_iter().find(|point| *point == hook.hook_name);
        let point = point.ok_or_else(|| failed(format!("{:?} is no point at which hooks run", hook.hook_name)))?;
        let cdi::Hook { path, args, env, timeout, .. } = hook;
        config.hooks.push(Hook { point, path, args, env, timeout });
    }
    config.extra_gids.extend(edits.additional_gids.into_iter().filter(|gid| *gid != 0));
    Ok(())
}

fn device(node: DeviceNode) -> Result<Device, StartError> {
    let number = match (node.kind.as_str(), node.major, node.minor) {
        ("", ..) | (_, None, _) | (_, _, None) => None,
        ("b", Some(major), Some(minor)) => Some((Type::Block, major, minor)),
        ("c" | "u", Some(major), Some(minor)) => Some((Type::Char, major, minor)),
        (kind, ..) => return Err(failed(format!("{kind:?} is no type of a device"))),
    };
    let source: PathBuf = if node.host_path.as_os_str().is_empty() { node.path.clone() } else { node.host_path };
    Ok(Device {
        source,
        target: node.path,
        access: access(&node.permissions),
        number,
        mode: node.file_mode.map(|mode| mode & 0o777),
        owner: (node.uid, node.gid),
    })
}

/// A mount with options as mount(8) has them.
fn with_options(mut mount: Mount, options: &[String]) -> Mount {
    for option in options {
        match option.as_str() {
            "ro" => mount.read_only = true,
            "rro" => (mount.read_only, mount.recursive) = (true, true),
            "rw" | "bind" | "rbind" | "private" | "rprivate" => {}
            "slave" | "rslave" => mount.propagation = "rslave",
            "shared" | "rshared" => mount.propagation = "rshared",
            _ => mount.options.push(option.clone()),
        }
    }
    mount
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn all_edits_reach_the_container() {
        let mut config =
            ContainerConfig { env: vec![("A".into(), "of the spec".into())], ..ContainerConfig::default() };
        let node = DeviceNode {
            path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: "rw".into(),
            file_mode: Some(0o10666),
            ..DeviceNode::default()
        };
        let numbered = DeviceNode {
            kind: "b".into(),
            major: Some(7),
            minor: Some(1),
            path: "/dev/y".into(),
            ..DeviceNode::default()
        };
        let options = ["ro", "nosuid", "rbind", "rslave"].map(String::from).into();
        let hook = cdi::Hook { hook_name: "createContainer".into(), path: "/bin/true".into(), ..cdi::Hook::default() };
        let edits = Edits {
            env: vec!["A=1".into(), "B=".into()],
            device_nodes: vec![node.clone(), numbered],
            mounts: vec![cdi::Mount { host_path: "/lib".into(), container_path: "/acme".into(), options }],
            hooks: vec![hook.clone()],
            additional_gids: vec![0, 44],
        };
        apply(&mut config, edits).unwrap();
        assert_eq!(config.env, [("A", "1"), ("B", "")].map(|(k, v)| (k.to_string(), v.to_string())));
        assert_eq!((config.devices[0].source.as_path(), config.devices[0].mode), (Path::new("/dev/null"), Some(0o666)));
        assert_eq!(runtime::devices::letters(config.devices[0].access), "rw");
        assert_eq!(
            (config.devices[1].source.as_path(), config.devices[1].number),
            (Path::new("/dev/y"), Some((Type::Block, 7, 1)))
        );
        let [mount] = config.mounts.as_slice() else { panic!("{config:?}") };
        assert_eq!(
            (mount.read_only, mount.propagation, mount.options.as_slice()),
            (true, "rslave", ["nosuid".to_string()].as_slice())
        );
        assert_eq!((config.hooks[0].point, config.extra_gids.as_slice()), ("createContainer", [44].as_slice()));
        let bad = [
            Edits { env: vec!["A".into()], ..Edits::default() },
            Edits { hooks: vec![cdi::Hook { hook_name: "later".into(), ..hook }], ..Edits::default() },
            Edits {
                device_nodes: vec![DeviceNode { kind: "x".into(), major: Some(1), minor: Some(1), ..node }],
                ..Edits::default()
            },
        ];
        for edits in bad {
            apply(&mut config, edits).unwrap_err();
        }
    }
}
