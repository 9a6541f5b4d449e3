//! The downward API: fields of a pod and resources of its containers, for variables and volumes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;

use crate::config::Config;
use crate::machine::MachineInfo;

/// Why the downward API has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// `fieldPath` names no field that it offers.
    #[error("unsupported fieldPath: {0}")]
    UnsupportedFieldPath(String),
    /// `resource` isn't of the form `limits.cpu`.
    #[error("unsupported container resource: {0}")]
    UnsupportedResource(String),
}

/// The value of a pod's field (`fieldRef.fieldPath`); `ips` are the pod's addresses.
///
/// # Errors
/// When the downward API doesn't offer the field.
pub fn field(config: &Config, pod: &Pod, path: &str, ips: &[IpAddr]) -> Result<String, FieldError> {
    let unsupported = || FieldError::UnsupportedFieldPath(path.into());
    let quoted =
        |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n");
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

/// A container's `limits.cpu` and the like, in units of `divisor`, rounded up. A missing limit is the machine's capacity.
///
/// # Errors
/// When `name` is neither a limit nor a request.
pub fn resource(config: &Config, container: &Container, name: &str, divisor: &str) -> Result<String, FieldError> {
    let resources = container.resources.clone().unwrap_or_default();
    let (list, resource) = name.split_once('.').ok_or_else(|| FieldError::UnsupportedResource(name.into()))?;
    let map = if list == "limits" { &resources.limits } else { &resources.requests };
    let machine = || {
        let info = MachineInfo::gather(&config.data_dir);
        let amount = match resource {
            "cpu" => info.cpus as u64,
            "memory" => info.memory_kib.saturating_mul(1024),
            _ => info.disk_bytes,
        };
        Quantity::from_int(i64::try_from(amount).unwrap_or(i64::MAX))
    };
    let found = map.as_ref().and_then(|m| m.get(resource)).and_then(|q| q.0.parse::<Quantity>().ok());
    let value = found.unwrap_or_else(|| if list == "limits" { machine() } else { Quantity::ZERO });
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
        let value = |name: &str, divisor: &str| resource(&config, &container, name, divisor);
        assert_eq!(value("limits.cpu", "0").as_deref(), Ok("2"));
        assert_eq!(value("limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(value("limits.memory", "2Mi").as_deref(), Ok("2"));
        assert_eq!(value("requests.cpu", "0").as_deref(), Ok("0"));
        assert_eq!(value("cpu", "0"), Err(FieldError::UnsupportedResource("cpu".into())));
    }
}
