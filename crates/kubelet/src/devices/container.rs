//! What a container is given so that it can use its devices.

use std::collections::BTreeMap;

use ::plugins::deviceplugin::{ContainerAllocateResponse, DeviceSpec, Mount};

/// The answers of all plugins that gave a container devices, as one. Of two that say the same the first is taken, as upstream does it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerDevices {
    /// Environment variables, which the container's own go before.
    pub env: BTreeMap<String, String>,
    /// Mounts of the machine's files.
    pub mounts: Vec<Mount>,
    /// Devices of the machine.
    pub devices: Vec<DeviceSpec>,
    /// For the container's runtime.
    pub annotations: BTreeMap<String, String>,
    /// Names of CDI devices ([`::plugins::cdi`]).
    pub cdi: Vec<String>,
}

impl ContainerDevices {
    pub(super) fn of(responses: impl Iterator<Item = ContainerAllocateResponse>) -> Self {
        let mut all = ContainerDevices::default();
        for response in responses {
            for (name, value) in response.envs {
                all.env.entry(name).or_insert(value);
            }
            for (name, value) in response.annotations {
                all.annotations.entry(name).or_insert(value);
            }
            for mount in response.mounts {
                if !all.mounts.iter().any(|m| m.container_path == mount.container_path) {
                    all.mounts.push(mount);
                }
            }
            for device in response.devices {
                if !all.devices.iter().any(|d| d.container_path == device.container_path) {
                    all.devices.push(device);
                }
            }
            for device in response.cdi_devices {
                if !all.cdi.contains(&device.name) {
                    all.cdi.push(device.name);
                }
            }
        }
        all
    }

    /// Adds CDI devices, each once.
    pub fn add_cdi(&mut self, names: Vec<String>) {
        for name in names {
            if !self.cdi.contains(&name) {
                self.cdi.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ::plugins::deviceplugin::CdiDevice;

    use super::*;

    #[test]
    fn of_two_answers_the_first_goes_before() {
        let response = |value: &str, path: &str| ContainerAllocateResponse {
            envs: [("A".to_string(), value.to_string()), (value.to_string(), String::new())].into(),
            mounts: vec![Mount { container_path: "/m".into(), host_path: path.into(), read_only: true }],
            devices: vec![DeviceSpec {
                container_path: "/dev/x".into(),
                host_path: path.into(),
                permissions: "r".into(),
            }],
            annotations: [("note".to_string(), value.to_string())].into(),
            cdi_devices: vec![CdiDevice { name: "acme.com/gpu=a".into() }, CdiDevice { name: path.into() }],
        };
        let all = ContainerDevices::of([response("1", "/one"), response("2", "/two")].into_iter());
        assert_eq!(all.env, [("1", ""), ("2", ""), ("A", "1")].map(|(k, v)| (k.to_string(), v.to_string())).into());
        assert_eq!((all.mounts.len(), all.mounts[0].host_path.as_str()), (1, "/one"));
        assert_eq!((all.devices.len(), all.devices[0].host_path.as_str()), (1, "/one"));
        assert_eq!(all.annotations["note"], "1");
        assert_eq!(all.cdi, ["acme.com/gpu=a", "/one", "/two"]);
    }
}
