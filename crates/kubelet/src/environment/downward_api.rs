//! The downward API: fields of a pod and resources of its containers, for variables and volumes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use kube::ResourceExt as _;

use crate::config::Config;
use crate::machine::{MachineInfo, allocatable};
use crate::spec::started;

/// Why the downward API has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// `fieldPath` names no field that it offers.
    #[error("unsupported fieldPath: {0}")]
    UnsupportedFieldPath(String),
    /// `resource` isn't of the form `limits.cpu`.
    #[error("unsupported container resource: {0}")]
    UnsupportedResource(String),
    /// `containerName` is none of the pod's containers.
    #[error("container {0} not found")]
    ContainerNotFound(String),
}

/// The value of a pod's field (`fieldRef.fieldPath`); `ips` are the pod's addresses.
///
/// # Errors
/// When the downward API doesn't offer the field.
pub fn field(config: &Config, pod: &Pod, path: &str, ips: &[IpAddr]) -> Result<String, FieldError> {
    let unsupported = || FieldError::UnsupportedFieldPath(path.into());
    let quoted = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect::<Vec<_>>().join("\n")
    };
    if let Some((base, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match base {
            "metadata.labels" => pod.labels(),
            "metadata.annotations" => pod.annotations(),
            _ => return Err(unsupported()),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    let list = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let account = || pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => quoted(pod.labels()),
        "metadata.annotations" => quoted(pod.annotations()),
        "spec.nodeName" => config.node_name.clone(),
        "spec.serviceAccountName" => account().unwrap_or_default(),
        "status.podIP" => ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => list(ips),
        "status.hostIP" => config.node_ip().to_string(),
        "status.hostIPs" => list(&config.node_ips),
        _ => return Err(unsupported()),
    })
}

/// A text as Go quotes it (`%q`): programs that read these files know that form.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0'..='\u{1f}' | '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(character))),
            '\'' => quoted.push(character),
            _ if character.escape_debug().len() == 1 => quoted.push(character),
            '\0'..='\u{ffff}' => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => quoted.push_str(&format!("\\U{:08x}", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}

/// The container of a pod, or its init container, of that name.
///
/// # Errors
/// When there is none.
pub fn container_named<'a>(pod: &'a Pod, name: &str) -> Result<&'a Container, FieldError> {
    let found = pod.spec.as_ref().and_then(|spec| started(spec).find(|container| container.name == name));
    found.ok_or_else(|| FieldError::ContainerNotFound(name.into()))
}

/// The container that a variable of `own` is about: `containerName`, or `own` itself.
///
/// # Errors
/// When there is none of that name.
pub fn container<'a>(pod: &'a Pod, own: &'a Container, named: Option<&str>) -> Result<&'a Container, FieldError> {
    named.filter(|name| !name.is_empty()).map_or(Ok(own), |name| container_named(pod, name))
}

/// A container's `limits.cpu` and the like, in units of `divisor`, rounded up. A missing limit is that of the pod as a whole, and without one what the
/// node has for pods; of huge pages no container has any without a request.
///
/// # Errors
/// When `name` is neither a limit nor a request of a resource that is offered.
pub fn resource(
    config: &Config,
    pod: &Pod,
    container: &Container,
    name: &str,
    divisor: &str,
) -> Result<String, FieldError> {
    let unsupported = || FieldError::UnsupportedResource(name.into());
    let (list, resource) = name.split_once('.').ok_or_else(unsupported)?;
    let has_default = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    if !has_default && !resource.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let of = |resources: Option<&ResourceRequirements>| -> Option<Quantity> {
        let resources = resources?;
        let map = if list == "limits" { &resources.limits } else { &resources.requests };
        map.as_ref()?.get(resource)?.0.parse().ok()
    };
    let of_pod = || of(pod.spec.as_ref()?.resources.as_ref());
    let of_node = || {
        let (_, allocatable) = allocatable::amounts(config, &MachineInfo::gather(&config.data_dir));
        Quantity::from_json(&allocatable[resource])
    };
    let value = match (of(container.resources.as_ref()), list) {
        (Some(own), _) => own,
        (None, "limits") if has_default => of_pod().or_else(of_node).unwrap_or(Quantity::ZERO),
        (None, "limits" | "requests") => Quantity::ZERO,
        _ => return Err(unsupported()),
    };
    let divisor: Quantity = divisor.parse().unwrap_or_default();
    let unit = if divisor.milli() == 0 { 1000 } else { divisor.milli() };
    // In 128 bits, as the amounts may be as large as they like.
    let (value, unit) = (i128::from(value.milli()), i128::from(unit));
    Ok((value + unit - 1).div_euclid(unit).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_pod_have_values_and_others_are_refused() {
        let config = Config { node_name: "n".into(), ..crate::config::tests::config() };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "s", "uid": "u",
            "labels": {"a": "1", "b": "2"}}, "spec": {"containers": [], "serviceAccountName": "x"}}))
        .unwrap();
        let ips = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let value = |path: &str| field(&config, &pod, path, &ips);
        for (path, want) in [
            ("metadata.name", "p"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['c']", ""),
            ("metadata.labels", "a=\"1\"\nb=\"2\""),
            ("spec.nodeName", "n"),
            ("spec.serviceAccountName", "x"),
            ("status.podIPs", "10.0.0.1,fd00::1"),
        ] {
            assert_eq!(value(path).as_deref(), Ok(want), "{path}");
        }
        for path in ["status.phase", "spec['x']"] {
            assert_eq!(value(path), Err(FieldError::UnsupportedFieldPath(path.into())));
        }
    }

    #[test]
    fn resources_are_rounded_up_to_the_divisor() {
        let container = json!({"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "3Mi"}}});
        let container: Container = serde_json::from_value(container).unwrap();
        let config = crate::config::tests::config();
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "other"}],
            "resources": {"limits": {"ephemeral-storage": "2Gi"}}}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let value = |name: &str, divisor: &str| resource(&config, &pod, &container, name, divisor);
        assert_eq!(value("limits.cpu", "0").as_deref(), Ok("2"));
        assert_eq!(value("limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(value("limits.memory", "2Mi").as_deref(), Ok("2"));
        assert_eq!(value("requests.cpu", "0").as_deref(), Ok("0"));
        for bad in ["cpu", "limits.pods", "use.cpu"] {
            assert_eq!(value(bad, "0"), Err(FieldError::UnsupportedResource(bad.into())));
        }
        // What it doesn't say is what the pod says, or what the node has for pods; huge pages have to be asked for.
        assert_eq!(value("limits.ephemeral-storage", "1Gi").as_deref(), Ok("2"));
        assert_eq!(value("limits.hugepages-2Mi", "1").as_deref(), Ok("0"));
        let facts = MachineInfo::gather(&config.data_dir);
        let reserved = Config { reserved: "memory=1Mi".parse().unwrap(), ..crate::config::tests::config() };
        let bare = container_named(&pod, "other").unwrap();
        let left = resource(&reserved, &pod, bare, "limits.memory", "1Ki").unwrap();
        assert_eq!(
            left,
            (facts.memory_kib - 1024 - facts.huge_pages.iter().map(|(_, bytes)| bytes / 1024).sum::<u64>()).to_string()
        );
        // A variable may be about another container.
        assert_eq!(super::container(&pod, &container, Some("other")).map(|c| c.name.as_str()), Ok("other"));
        assert_eq!(super::container(&pod, &container, None).map(|c| c.name.as_str()), Ok("c"));
        assert!(super::container(&pod, &container, Some("nosuch")).is_err());
    }

    #[test]
    fn texts_are_quoted_as_go_does() {
        for (text, want) in [
            ("a'b", r#""a'b""#),
            ("a\"b\\c\n\t", r#""a\"b\\c\n\t""#),
            ("\u{1b}[0m\u{7}\u{7f}", r#""\x1b[0m\a\x7f""#),
            ("\u{e9}\u{4e16}\u{200b}", "\"\u{e9}\u{4e16}\\u200b\""),
        ] {
            assert_eq!(quote(text), want);
        }
    }
}
