//! This program as a CNI plugin: a container runtime (containerd, CRI-O) calls it to connect its pods to our network. The plugin sends the
//! request to the agent, at the socket that its configuration names.
//!
//! Source: the CNI specification 1.0.0, section 2 (execution).

use std::io::{self, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The name by which the program runs as the plugin.
pub const PLUGIN_NAME: &str = "timonel-cni";
/// Some runtimes require the plugin `loopback` beside any other. Where it isn't installed, this program takes its place; the agent has set `lo`
/// up already.
pub const LOOPBACK_PLUGIN_NAME: &str = "loopback";
/// The name of its network.
pub const NETWORK_NAME: &str = "timonel";
/// The configuration file for the runtime.
pub const CONFLIST_FILE: &str = "10-timonel.conflist";
/// Limit of a message between runtime, plugin and agent.
pub const MAX_MESSAGE_BYTES: u64 = 1 << 20;
const SUPPORTED_VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];
/// Timeout of the agent.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);
/// The error code "try again later".
const TRY_AGAIN_LATER: u32 = 11;

/// The plugin's request to the agent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PluginRequest {
    /// `ADD` or `DEL`.
    pub command: String,
    /// The pod's uid.
    pub uid: String,
    /// The runtime's id of the sandbox (`CNI_CONTAINERID`).
    pub sandbox: String,
    /// The file of its network namespace (`CNI_NETNS`).
    pub namespace: PathBuf,
}

/// The agent's response.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PluginResponse {
    #[serde(default)]
    /// The pod's addresses, for ADD.
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    /// Why the request failed, if it did.
    pub error: Option<String>,
}

/// The text of [`CONFLIST_FILE`].
pub fn conflist(socket: &Path) -> String {
    let plugin = json!({"type": PLUGIN_NAME, "socket": socket});
    json!({"cniVersion": "1.0.0", "name": NETWORK_NAME, "plugins": [plugin]}).to_string()
}

/// The result of a successful ADD.
fn result(version: &str, request: &PluginRequest, interface: &str, addresses: &[IpAddr]) -> Value {
    let whole = |ip: &IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
    let ips: Vec<Value> = addresses
        .iter()
        .map(|ip| {
            let mut one = json!({"address": whole(ip), "interface": 0});
            if version != "1.0.0" {
                one["version"] = if ip.is_ipv4() { "4" } else { "6" }.into();
            }
            one
        })
        .collect();
    json!({"cniVersion": version, "interfaces": [{"name": interface, "sandbox": request.namespace}], "ips": ips, "dns": {}})
}

fn error_result(version: &str, code: u32, message: &str) -> Value {
    json!({"cniVersion": version, "code": code, "msg": message})
}

/// One value of `CNI_ARGS`.
fn cni_arg(all: &str, key: &str) -> String {
    let mut pairs = all.split(';').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value.into()).unwrap_or_default()
}

fn call_agent(socket: &Path, request: &PluginRequest) -> io::Result<PluginResponse> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DAEMON_TIMEOUT))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let line = bounded::line(&mut BufReader::new(stream), MAX_MESSAGE_BYTES)?.unwrap_or_default();
    Ok(serde_json::from_str(&line)?)
}

/// The result of [`LOOPBACK_PLUGIN_NAME`].
fn loopback(command: &str, variable: impl Fn(&str) -> String, input: &str) -> Result<Value, Value> {
    let configuration: Value = serde_json::from_str(input).unwrap_or_default();
    let version = configuration["cniVersion"].as_str().unwrap_or("1.0.0");
    match command {
        "VERSION" => Ok(supported()),
        "ADD" => {
            let interface = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": variable("CNI_NETNS")});
            let mut address = json!({"address": "127.0.0.1/8", "interface": 0});
            if version != "1.0.0" {
                address["version"] = "4".into();
            }
            Ok(json!({"cniVersion": version, "interfaces": [interface], "ips": [address], "dns": {}}))
        }
        _ => Ok(Value::Null),
    }
}

fn supported() -> Value {
    json!({"cniVersion": "1.0.0", "supportedVersions": SUPPORTED_VERSIONS})
}

fn execute(command: &str, variable: impl Fn(&str) -> String, input: &str) -> Result<Value, Value> {
    let configuration: Value = serde_json::from_str(input).unwrap_or_default();
    let version = configuration["cniVersion"].as_str().unwrap_or("1.0.0").to_string();
    if command == "VERSION" {
        return Ok(supported());
    }
    if !SUPPORTED_VERSIONS.contains(&version.as_str()) {
        return Err(error_result("1.0.0", 1, &format!("cniVersion {version:?} isn't one of {SUPPORTED_VERSIONS:?}")));
    }
    let Some(socket) = configuration["socket"].as_str() else {
        return Err(error_result(&version, 7, "the configuration names no socket"));
    };
    let request = PluginRequest {
        command: command.into(),
        uid: cni_arg(&variable("CNI_ARGS"), "K8S_POD_UID"),
        sandbox: variable("CNI_CONTAINERID"),
        namespace: variable("CNI_NETNS").into(),
    };
    match command {
        // Without the socket's folder the agent is uninstalled, or the machine has rebooted: there is nothing to delete.
        "DEL" if !Path::new(socket).exists() => Ok(Value::Null),
        "ADD" | "DEL" => {
            let later = |error: io::Error| {
                error_result(&version, TRY_AGAIN_LATER, &format!("timonel's agent can't be asked at {socket}: {error}"))
            };
            let answer = call_agent(Path::new(socket), &request).map_err(later)?;
            match answer.error {
                Some(error) => Err(error_result(&version, TRY_AGAIN_LATER, &error)),
                None if command == "ADD" => Ok(result(&version, &request, &variable("CNI_IFNAME"), &answer.addresses)),
                None => Ok(Value::Null),
            }
        }
        "CHECK" => Ok(Value::Null),
        other => Err(error_result(&version, 4, &format!("CNI_COMMAND {other:?} isn't known"))),
    }
}

/// Runs the plugin, if this process was started under the name of one; returns its exit code.
pub fn main() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let command = std::env::var("CNI_COMMAND").ok()?;
    let plugin = [PLUGIN_NAME, LOOPBACK_PLUGIN_NAME].into_iter().find(|plugin| Path::new(&name).ends_with(plugin))?;
    let input = bounded::text_of(io::stdin(), MAX_MESSAGE_BYTES).unwrap_or_default();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let answer =
        if plugin == PLUGIN_NAME { execute(&command, variable, &input) } else { loopback(&command, variable, &input) };
    let (said, code) = match answer {
        Ok(said) => (said, ExitCode::SUCCESS),
        Err(said) => (said, ExitCode::FAILURE),
    };
    if !said.is_null() {
        println!("{said}");
    }
    Some(code)
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;
    use std::os::unix::net::UnixListener;

    fn variables(name: &str) -> String {
        match name {
            "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_NAME=p;K8S_POD_UID=u-1",
            "CNI_CONTAINERID" => "s1",
            "CNI_NETNS" => "/ns",
            "CNI_IFNAME" => "eth0",
            _ => "",
        }
        .into()
    }

    #[test]
    fn the_agent_is_asked_and_its_answer_told() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = std::thread::spawn(move || {
            let answers = [r#"{"addresses": ["10.42.0.2", "fd42::2"]}"#, r#"{"error": "no address is free"}"#];
            answers.map(|answer| {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                writeln!(&stream, "{answer}").unwrap();
                serde_json::from_str::<PluginRequest>(&line).unwrap()
            })
        });
        let list: Value = serde_json::from_str(&conflist(&socket)).unwrap();
        // As runtimes tell a plugin of a list.
        let mut input = list["plugins"][0].clone();
        input["cniVersion"] = "0.4.0".into();
        let said = execute("ADD", variables, &input.to_string()).unwrap();
        assert_eq!(crate::cni::addresses(&said).len(), 2);
        assert_eq!(said["ips"][1], json!({"address": "fd42::2/128", "interface": 0, "version": "6"}));
        assert_eq!(said["interfaces"], json!([{"name": "eth0", "sandbox": "/ns"}]));
        let refused = execute("ADD", variables, &input.to_string()).unwrap_err();
        assert_eq!(refused, json!({"cniVersion": "0.4.0", "code": 11, "msg": "no address is free"}));
        let request = agent.join().unwrap();
        assert_eq!(
            (request[0].command.as_str(), request[0].uid.as_str(), request[0].sandbox.as_str()),
            ("ADD", "u-1", "s1")
        );
        // Nobody is there for now, and then for ever.
        let away = execute("DEL", variables, &input.to_string()).unwrap_err();
        assert_eq!(away["code"], 11);
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(execute("DEL", variables, &input.to_string()), Ok(Value::Null));
        assert_eq!(execute("ADD", variables, &input.to_string()).unwrap_err()["code"], 11);
    }

    #[test]
    fn versions_are_told_and_others_refused() {
        for plugin in [execute("VERSION", variables, "{}"), loopback("VERSION", variables, "{}")] {
            assert_eq!(plugin.unwrap()["supportedVersions"][3], "1.0.0");
        }
        let lo = loopback("ADD", variables, r#"{"cniVersion": "0.3.1"}"#).unwrap();
        assert_eq!((&lo["interfaces"][0]["name"], &lo["ips"][0]["version"]), (&json!("lo"), &json!("4")));
        assert_eq!(execute("ADD", variables, r#"{"cniVersion": "9"}"#).unwrap_err()["code"], 1);
        assert_eq!(execute("ADD", variables, r#"{"cniVersion": "1.0.0"}"#).unwrap_err()["code"], 7);
        assert_eq!(execute("GC", variables, r#"{"cniVersion": "1.0.0", "socket": "/s"}"#).unwrap_err()["code"], 4);
    }
}
