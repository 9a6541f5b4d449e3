//! Amounts of resources: what pods request, and what nodes have.

use std::collections::BTreeMap;

use apimachinery::Quantity;
use serde_json::Value;

use super::pod;
use crate::object::text;

/// Amounts by the names of resources.
pub type Amounts = BTreeMap<String, Quantity>;

fn read(list: Option<&Value>) -> Amounts {
    let map = list.and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), Quantity::from_json(value)?))).collect()
}

fn sum(one: Quantity, other: Quantity, sign: i64) -> Quantity {
    // Thousandths are as fine as the scheduler counts CPU; amounts of bytes fit as well.
    let (one, other) = (one.milli(), other.milli());
    Quantity::from_milli(one.saturating_add(other.saturating_mul(sign)))
}

/// Adds amounts.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (key, value) in more {
        let entry = to.entry(key.clone()).or_default();
        *entry = sum(*entry, *value, 1);
    }
}

/// What is left of amounts.
pub fn subtract(from: &Amounts, taken: &Amounts) -> Amounts {
    let left = |(key, value): (&String, &Quantity)| {
        let taken = taken.get(key).copied().unwrap_or_default();
        (key.clone(), sum(*value, taken, -1))
    };
    from.iter().map(left).collect()
}

/// What a node has for pods.
pub fn allocatable(node: &Value) -> Amounts {
    read(node.pointer("/status/allocatable"))
}

/// Whether a pod takes room on its node.
pub fn counts(pod: &Value) -> bool {
    pod::is_bound(pod) && !["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
}

/// What a pod requests, as the scheduler counts it: the sum of its containers and sidecars, or of one init container and the sidecars before
/// it, whichever is more (KEP-753); what the pod itself says instead (KEP-2837); and its overhead.
pub fn requests(pod: &Value) -> Amounts {
    let (mut running, mut sidecars, mut highest) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in pod::containers(pod) {
        let own = read(container.spec.pointer("/resources/requests"));
        if container.is_init {
            let mut with_sidecars = sidecars.clone();
            add(&mut with_sidecars, &own);
            raise(&mut highest, &with_sidecars);
        } else {
            add(&mut running, &own);
            if container.is_sidecar {
                add(&mut sidecars, &own);
            }
        }
    }
    raise(&mut running, &highest);
    running.extend(read(pod.pointer("/spec/resources/requests")));
    add(&mut running, &read(pod.pointer("/spec/overhead")));
    running.insert("pods".into(), Quantity::from_int(1));
    running
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (key, value) in other {
        let entry = to.entry(key.clone()).or_default();
        *entry = (*entry).max(*value);
    }
}

/// An amount as one would write it.
pub fn show(resource: &str, amount: Quantity) -> String {
    let binary = resource == "memory" || resource.contains("storage") || resource.starts_with("hugepages-");
    if !binary {
        let milli = amount.milli();
        return if milli.checked_rem(1000) == Some(0) { (milli / 1000).to_string() } else { format!("{milli}m") };
    }
    let bytes = amount.as_f64();
    for (suffix, unit) in [("Gi", 30), ("Mi", 20), ("Ki", 10)] {
        let value = bytes / f64::from(1_u32 << unit);
        if value.abs() >= 1.0 {
            let text = format!("{value:.1}");
            return format!("{}{suffix}", text.trim_end_matches(".0"));
        }
    }
    amount.canonical(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_are_counted_as_the_scheduler_counts_them() {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod = json!({"spec": {
            "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": of("100m")},
                               {"name": "i", "resources": of("1")}],
            "containers": [{"name": "a", "resources": of("300m")}, {"name": "b", "resources": of("200m")}],
            "overhead": {"cpu": "10m"}}});
        assert_eq!(requests(&pod)["cpu"], Quantity::from_milli(1110));
    }

    #[test]
    fn amounts_are_shown_as_one_would_write_them() {
        assert_eq!(show("memory", Quantity::from_int(1536 << 20)), "1.5Gi");
        assert_eq!(show("cpu", Quantity::from_milli(1500)), "1500m");
        assert_eq!(show("cpu", Quantity::from_int(4000)), "4000");
        assert_eq!(show("memory", Quantity::from_int(100)), "100");
    }
}
