//! CNI (Container Network Interface): runs the plugins of a configuration folder, as libcni does.
//!
//! Source: the CNI specification 1.0.0, sections 1 (configuration), 2 (execution) and 5 (results).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::process::Command;

/// `CNI_IFNAME`: the name of the interface inside of pods.
const INTERFACE_NAME: &str = "eth0";
/// Timeout of a plugin.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(120);
/// Versions of results whose format [`addresses`] knows.
const SUPPORTED_VERSIONS: [&str; 7] = ["0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", ""];

/// Why a pod can't be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("cni plugin not initialized: {folder} has no network configuration (*.conflist, *.conf, *.json)")]
    /// There is no configuration.
    None {
        /// The folder of configurations.
        folder: String,
    },
    #[error("{path}: {why}")]
    /// A configuration is malformed.
    NetworkConfigList {
        /// The malformed file.
        path: String,
        /// What is malformed.
        why: String,
    },
    #[error("plugin {plugin:?} isn't in {folders}")]
    /// A plugin isn't installed.
    NoPlugin {
        /// The plugin's type.
        plugin: String,
        /// The folders that were searched.
        folders: String,
    },
    #[error("plugin {plugin:?} can't be run")]
    /// A plugin can't be started.
    Run {
        /// The plugin's type.
        plugin: String,
        /// The error of the system.
        source: std::io::Error,
    },
    #[error("plugin {plugin:?} failed: {message}")]
    /// A plugin failed.
    Failed {
        /// The plugin's type.
        plugin: String,
        /// The message of its error result.
        message: String,
    },
}

/// The pod's identity for `CNI_ARGS`, and its bandwidth for the capability `bandwidth`.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
    /// Ingress and egress limits in bits per second, of the annotations `kubernetes.io/*-bandwidth`.
    pub bandwidth: (Option<u64>, Option<u64>),
}

/// An attachment of a pod to a network: the configuration of its ADD, so that its DEL uses the same one even if the folder has changed
/// (libcni's cached info).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The configuration of the ADD.
    pub configuration: NetworkConfigList,
    /// The result of the last plugin.
    pub result: Value,
}

/// A network configuration list (`*.conflist`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfigList {
    #[serde(default, deserialize_with = "or_empty")]
    /// `cniVersion`.
    pub cni_version: String,
    /// Name of the network.
    pub name: String,
    /// Configurations of the plugins, in order.
    pub plugins: Vec<Map<String, Value>>,
}

/// The folders of configurations and plugins.
#[derive(Debug, Clone)]
pub struct Cni {
    configurations: PathBuf,
    /// `CNI_PATH`: folders of plugins, in order of preference.
    plugins: Vec<PathBuf>,
}

/// A text that may be null.
fn or_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl NetworkConfigList {
    fn open(path: &Path) -> Result<Self, String> {
        let bytes = bounded::bytes(path, bounded::MAX_OWN_FILE_BYTES).map_err(|e| e.to_string())?;
        Self::read(&bytes, path.extension().is_some_and(|e| e == "conflist"))
    }

    /// Reads a list, or a single plugin's configuration as a list of one.
    ///
    /// # Errors
    /// Says what in it can't be understood.
    pub fn read(bytes: &[u8], is_list: bool) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("it is no JSON: {e}"))?;
        let value = match is_list {
            true => value,
            false => json!({"cniVersion": value["cniVersion"], "name": value["name"], "plugins": [value]}),
        };
        let read: NetworkConfigList = serde_json::from_value(value).map_err(|e| e.to_string())?;
        if read.plugins.is_empty() {
            return Err("plugins: it lists none".into());
        }
        if !SUPPORTED_VERSIONS.contains(&read.cni_version.as_str()) {
            return Err(format!("cniVersion: {:?} isn't known; 1.0.0 is", read.cni_version));
        }
        for plugin in &read.plugins {
            let name = plugin.get("type").and_then(Value::as_str).unwrap_or("");
            if name.is_empty() || name.contains('/') {
                return Err(format!("plugins: type must be the name of a program, not {name:?}"));
            }
        }
        Ok(read)
    }

    /// The configuration for one plugin of the list, on its standard input.
    fn input(&self, plugin: &Map<String, Value>, pod: &Pod, previous: &Value) -> Value {
        let mut input = plugin.clone();
        let capable = |what: &str| plugin.get("capabilities").is_some_and(|c| c[what] == true);
        input.remove("capabilities");
        input.insert("cniVersion".into(), self.cni_version.clone().into());
        input.insert("name".into(), self.name.clone().into());
        let (into, out) = pod.bandwidth;
        if capable("bandwidth") && (into.is_some() || out.is_some()) {
            let mut bounds = Map::new();
            for (way, rate) in [("ingress", into), ("egress", out)] {
                if let Some(rate) = rate {
                    bounds.insert(format!("{way}Rate"), rate.into());
                    // The burst that upstream's runtimes set.
                    bounds.insert(format!("{way}Burst"), i32::MAX.into());
                }
            }
            input.insert("runtimeConfig".into(), json!({"bandwidth": bounds}));
        }
        if !previous.is_null() {
            input.insert("prevResult".into(), previous.clone());
        }
        input.into()
    }
}

/// The pod's addresses in a result, in its order.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result["ips"].as_array().into_iter().flatten().map(|ip| &ip["address"]);
    // Results of version 0.2.0 have one for each family.
    let old = [&result["ip4"]["ip"], &result["ip6"]["ip"]];
    let text = |value: &Value| value.as_str()?.split('/').next()?.parse().ok();
    listed.chain(old).filter_map(text).collect()
}

impl Cni {
    /// With a folder of configurations and folders of plugins.
    pub fn new(configurations: PathBuf, plugins: Vec<PathBuf>) -> Self {
        Cni { configurations, plugins }
    }

    /// The configuration in use: the first by file name.
    ///
    /// # Errors
    /// When there is none, or it can't be read.
    pub fn configuration(&self) -> Result<NetworkConfigList, CniError> {
        let is_one = |path: &PathBuf| path.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json");
        let entries = std::fs::read_dir(&self.configurations).into_iter().flatten().flatten();
        let Some(path) = entries.map(|e| e.path()).filter(is_one).min() else {
            return Err(CniError::None { folder: self.configurations.display().to_string() });
        };
        NetworkConfigList::open(&path)
            .map_err(|why| CniError::NetworkConfigList { path: path.display().to_string(), why })
    }

    /// The folder of configurations (`/etc/cni/net.d`).
    pub fn folder(&self) -> &Path {
        &self.configurations
    }

    /// Runs ADD for a pod's network namespace.
    ///
    /// # Errors
    /// When there is no usable configuration, or a plugin fails; a DEL undoes what the others did then.
    pub async fn add(&self, pod: &Pod, namespace: &Path) -> Result<Attachment, CniError> {
        let mut attachment = Attachment { configuration: self.configuration()?, result: Value::Null };
        for plugin in attachment.configuration.plugins.clone() {
            let input = attachment.configuration.input(&plugin, pod, &attachment.result);
            match self.call("ADD", &plugin, pod, namespace, &input).await {
                Ok(result) => attachment.result = result,
                Err(error) => {
                    let _ = self.delete(pod, namespace, &attachment).await;
                    return Err(error);
                }
            }
        }
        Ok(attachment)
    }

    /// Runs DEL for a pod's network namespace. It is idempotent.
    ///
    /// # Errors
    /// The error of the first plugin that fails; the others are called nevertheless.
    pub async fn delete(&self, pod: &Pod, namespace: &Path, attachment: &Attachment) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in attachment.configuration.plugins.iter().rev() {
            let input = attachment.configuration.input(plugin, pod, &attachment.result);
            let called = self.call("DEL", plugin, pod, namespace, &input).await.map(|_| ());
            outcome = outcome.and(called);
        }
        outcome
    }

    async fn call(
        &self,
        command: &str,
        plugin: &Map<String, Value>,
        pod: &Pod,
        namespace: &Path,
        input: &Value,
    ) -> Result<Value, CniError> {
        let plugin = plugin.get("type").and_then(Value::as_str).unwrap_or("").to_string();
        let folders = || self.plugins.iter().map(|f| f.display().to_string()).collect::<Vec<_>>();
        let program = self.plugins.iter().map(|folder| folder.join(&plugin)).find(|path| path.is_file());
        let Some(program) = program else {
            return Err(CniError::NoPlugin { plugin, folders: folders().join(" or ") });
        };
        let arguments = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &pod.namespace),
            ("K8S_POD_NAME", &pod.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &pod.uid),
            ("K8S_POD_UID", &pod.uid),
        ];
        let arguments: Vec<String> = arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut running = Command::new(&program);
        running
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.uid)
            .env("CNI_NETNS", namespace)
            .env("CNI_IFNAME", INTERFACE_NAME)
            .env("CNI_ARGS", arguments.join(";"))
            .env("CNI_PATH", folders().join(":"));
        let input = input.to_string();
        let run = bounded::output(&mut running, input.as_bytes(), crate::plugin::MAX_MESSAGE_BYTES);
        let output = match tokio::time::timeout(PLUGIN_TIMEOUT, run).await {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => return Err(CniError::Run { plugin, source }),
            Err(_) => {
                return Err(CniError::Failed {
                    plugin,
                    message: format!("it took more than {}s", PLUGIN_TIMEOUT.as_secs()),
                });
            }
        };
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            return Ok(said);
        }
        let words = |key: &str| said[key].as_str().filter(|t| !t.is_empty()).map(String::from);
        let message = [words("msg"), words("details")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let other = String::from_utf8_lossy(&output.stderr).trim().to_string();
        Err(CniError::Failed { plugin, message: if message.is_empty() { other } else { message } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A folder with configurations and programs, and what these were told, line by line.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Place(tempfile::tempdir().unwrap())
        }

        fn cni(&self) -> Cni {
            Cni::new(self.0.path().join("conf"), vec![self.0.path().join("none"), self.0.path().join("bin")])
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        /// A plugin that tells what it is called for and then says `then`.
        fn plugin(&self, name: &str, then: &str) {
            let told = self.0.path().join("told");
            let told = told.display();
            self.write(
                &format!("bin/{name}"),
                &format!("#!/bin/sh\necho {name} $CNI_COMMAND $CNI_IFNAME $CNI_NETNS $(cat) >> {told}\n{then}\n"),
            );
        }

        fn told(&self) -> Vec<String> {
            let text = std::fs::read_to_string(self.0.path().join("told")).unwrap_or_default();
            text.lines().map(String::from).collect()
        }
    }

    fn pod() -> Pod {
        Pod { namespace: "n".into(), name: "p".into(), uid: "u".into(), bandwidth: (Some(1000), None) }
    }

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "first", "mtu": 1400}, {"type": "second", "capabilities": {"bandwidth": true}}]}"#;

    #[tokio::test]
    async fn plugins_are_called_in_turn_and_back() {
        let place = Place::new();
        place.write("conf/20-later.conf", r#"{"name": "other", "type": "other"}"#);
        place.write("conf/10-net.conflist", LIST);
        place.write("conf/00-notes.txt", "not this one");
        place.plugin("first", r#"echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}]}'"#);
        place.plugin("second", r#"echo '{"ips": [{"address": "10.1.2.3/24"}, {"address": "fd00::3/64"}]}'"#);
        let cni = place.cni();
        let made = cni.add(&pod(), Path::new("/ns")).await.unwrap();
        assert_eq!(addresses(&made.result), ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]);
        // What the folder says now doesn't matter for what was made before.
        place.write("conf/00-new.conf", "{}");
        let kept: Attachment = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();
        cni.delete(&pod(), Path::new("/ns"), &kept).await.unwrap();
        let told = place.told();
        let begins: Vec<&str> = told.iter().map(|line| line.split(" {").next().unwrap_or("")).collect();
        assert_eq!(begins, ["first ADD eth0 /ns", "second ADD eth0 /ns", "second DEL eth0 /ns", "first DEL eth0 /ns"]);
        assert!(told[0].contains("\"mtu\":1400") && !told[0].contains("prevResult"), "{}", told[0]);
        assert!(told[1].contains("prevResult") && told[1].contains("\"ingressRate\":1000"), "{}", told[1]);
        assert!(told[2].contains("fd00::3"), "{}", told[2]);
    }

    #[tokio::test]
    async fn what_fails_is_undone_and_said() {
        let place = Place::new();
        let cni = place.cni();
        let none = cni.add(&pod(), Path::new("/ns")).await.unwrap_err().to_string();
        assert!(none.starts_with("cni plugin not initialized"), "{none}");
        place.write("conf/net.conflist", LIST);
        let missing = cni.add(&pod(), Path::new("/ns")).await.unwrap_err().to_string();
        assert!(missing.starts_with("plugin \"first\" isn't in "), "{missing}");
        place.plugin("first", "echo '{}'");
        place.plugin("second", r#"echo '{"code": 11, "msg": "no addresses", "details": "try again"}'; exit 1"#);
        let failed = cni.add(&pod(), Path::new("/ns")).await.unwrap_err().to_string();
        assert_eq!(failed, "plugin \"second\" failed: no addresses: try again");
        let calls: Vec<String> = place.told().iter().map(|l| l.split(" eth0").next().unwrap_or("").into()).collect();
        assert_eq!(calls, ["first ADD", "second ADD", "second DEL", "first DEL"]);
    }

    #[test]
    fn bad_configurations_say_why() {
        let place = Place::new();
        for (text, why) in [
            ("{", "it is no JSON"),
            ("5", "invalid type"),
            ("[\"a\"]", "invalid length"),
            (r#"{"name": "n", "cniVersion": 1, "plugins": [{"type": "x"}]}"#, "invalid type"),
            (r#"{"name": "n", "plugins": []}"#, "it lists none"),
            (r#"{"name": "n", "cniVersion": "9", "plugins": [{"type": "x"}]}"#, "cniVersion"),
            (r#"{"name": "n", "plugins": [{"type": "../x"}]}"#, "must be the name of a program"),
            (r#"{"cniVersion": null, "plugins": [{"type": "x"}]}"#, "missing field `name`"),
        ] {
            place.write("conf/net.conflist", text);
            let error = place.cni().configuration().unwrap_err().to_string();
            assert!(error.contains("net.conflist: ") && error.contains(why), "{error}");
        }
    }
}
