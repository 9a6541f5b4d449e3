//! The configuration file, whose keys are flags.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;

/// The default of `--config`.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/timonel/config.yaml";

/// The arguments of the process, with those of the configuration file before the flags, so that flags win.
pub fn arguments() -> Vec<OsString> {
    let given: Vec<OsString> = std::env::args_os().collect();
    if given.get(1).is_none_or(|role| role != "server") {
        return given;
    }
    let named = config_flag(&given);
    let path = named.clone().unwrap_or_else(|| DEFAULT_CONFIG_FILE.into());
    let settings = match bounded::text(&path, bounded::MAX_OWN_FILE_BYTES) {
        Ok(text) => from_file(&text).map_err(|e| format!("is malformed: {e}")),
        // The default file is optional.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return given,
        Err(error) => Err(format!("(--config) can't be read: {error}")),
    };
    match settings {
        Ok(settings) => given.iter().take(2).cloned().chain(settings).chain(given.iter().skip(2).cloned()).collect(),
        Err(error) => {
            eprintln!("error: {} {error}", path.display());
            std::process::exit(2);
        }
    }
}

/// The value of `--config`, before there are parsed arguments.
fn config_flag(given: &[OsString]) -> Option<PathBuf> {
    given.iter().enumerate().find_map(|(i, word)| {
        if word == "--config" {
            return given.get(i + 1).map(PathBuf::from);
        }
        word.to_str()?.strip_prefix("--config=").map(PathBuf::from)
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Setting {
    // serde tries the variants in order.
    Many(Vec<String>),
    One(serde_json::Value),
}

/// The file's entries as flags: `key: value` becomes `--key=value`.
fn from_file(text: &str) -> anyhow::Result<Vec<OsString>> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let settings: std::collections::BTreeMap<String, Setting> = apimachinery::yaml::from_str(text)?;
    let mut arguments = Vec::new();
    for (key, setting) in settings {
        match setting {
            Setting::Many(values) => arguments.extend(values.into_iter().map(|v| format!("--{key}={v}").into())),
            Setting::One(serde_json::Value::Bool(true)) => arguments.push(format!("--{key}").into()),
            Setting::One(serde_json::Value::Bool(false)) => {}
            Setting::One(serde_json::Value::String(s)) => arguments.push(format!("--{key}={s}").into()),
            Setting::One(serde_json::Value::Number(n)) => arguments.push(format!("--{key}={n}").into()),
            Setting::One(_) => anyhow::bail!("{key} must be a text, a number, true, false or a list of texts"),
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_flag_is_found_in_both_forms() {
        let find = |line: &str| config_flag(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(find("timonel server --config a.yaml"), Some("a.yaml".into()));
        assert_eq!(find("timonel server --config=b.yaml"), Some("b.yaml".into()));
        assert_eq!(find("timonel server"), None);
    }

    #[test]
    fn file_settings_become_flags() {
        let got = from_file("https-listen-port: 7000\ndisable: [dns, ingress]\ndisable-agent: true\n").unwrap();
        assert_eq!(got, ["--disable=dns", "--disable=ingress", "--disable-agent", "--https-listen-port=7000"]);
        assert!(from_file("a: {b: c}").is_err());
    }
}
