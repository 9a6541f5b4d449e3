//! Which families of addresses a service has (KEP-563). Pure; the addresses themselves are the allocator's.

use apimachinery::{Cause, Family, ObjectExt as _};
use serde_json::{Value, json};

/// Fills in `ipFamilyPolicy` and `ipFamilies`, and brings `clusterIPs` in line with them, as far as they are given.
/// `cluster` are the families that services may have, the default one first. A new policy alone says what is wanted: with
/// `SingleStack` the second address goes, with the others one may come.
pub fn settle(spec: &mut Value, old: Option<&Value>, cluster: &[Family], causes: &mut Vec<Cause>) {
    let addresses = one_or_many(spec, old);
    let asked: Vec<String> = spec.strings_at(&["ipFamilies"]).into_iter().map(String::from).collect();
    let policy = spec["ipFamilyPolicy"].as_str().map(String::from);
    let headless = addresses.first().is_some_and(|a| a == "None");
    // What is malformed is refused by the validation that follows.
    let read: Vec<Option<Family>> = addresses.iter().map(|a| a.parse().ok().map(Family::of)).collect();
    if (!headless && read.contains(&None)) || asked.iter().any(|f| family(f).is_none()) || asked.len() > 2 {
        return;
    }
    let same = |field: &str| old.is_some_and(|old| old[field] == spec[field]);
    // Both fields are as they were, and the policy leaves the matter open: so it stays.
    if old.is_some() && policy.as_deref() == Some("PreferDualStack") && unchanged(spec, old) && !asked.is_empty() {
        return;
    }
    let mut families: Vec<Family> = asked.iter().filter_map(|f| family(f)).collect();
    for address in read.iter().skip(families.len()).flatten() {
        families.push(*address);
    }
    let mut kept = addresses.clone();
    if policy.as_deref() == Some("SingleStack") && old.is_some() {
        if same("clusterIPs") {
            kept.truncate(1);
        }
        if same("ipFamilies") {
            families.truncate(1);
        }
    }
    let lost = |field: &str, count: usize| old.is_some_and(|old| old.array_at(&[field]).len() > count);
    if policy.as_deref() != Some("SingleStack")
        && (lost("clusterIPs", kept.len()) || lost("ipFamilies", families.len()))
    {
        // Refused by the validation, which says how to give the second one back.
        return;
    }
    let free = headless && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let mut policy = policy;
    if families.len() > 1 && policy.is_none() && !free {
        // Refused by the validation: two families need a policy.
        return;
    }
    if free {
        // Its endpoints are somebody's own: they may be of families that the cluster has not.
        policy.get_or_insert_with(|| "RequireDualStack".into());
    } else if !are_configured(policy.as_deref(), &families, cluster, causes) {
        return;
    }
    let policy = policy.unwrap_or_else(|| "SingleStack".into());
    if families.is_empty() {
        families.extend(cluster.first());
    }
    if policy != "SingleStack" && families.len() == 1 {
        families.extend(
            families.first().map(|family| other_family(*family)).filter(|other| free || cluster.contains(other)),
        );
    }
    write(spec, policy, &families, kept);
}

fn write(spec: &mut Value, policy: String, families: &[Family], addresses: Vec<String>) {
    spec["ipFamilyPolicy"] = policy.into();
    spec["ipFamilies"] = families.iter().map(|f| f.name()).collect::<Vec<_>>().into();
    if addresses.is_empty() {
        spec.as_object_mut().map(|spec| spec.remove("clusterIPs"));
    } else {
        spec["clusterIPs"] = addresses.into();
    }
}

/// Whether the cluster has the families that a service asks for; else that is a cause.
fn are_configured(policy: Option<&str>, families: &[Family], cluster: &[Family], causes: &mut Vec<Cause>) -> bool {
    if policy == Some("RequireDualStack") && cluster.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &json!("RequireDualStack"), detail));
    }
    for (i, family) in families.iter().enumerate().filter(|(_, family)| !cluster.contains(family)) {
        let path = format!("spec.ipFamilies[{i}]");
        causes.push(Cause::invalid(path, &json!(family.name()), "not configured on this cluster"));
    }
    causes.is_empty()
}

fn other_family(family: Family) -> Family {
    if family == Family::V4 { Family::V6 } else { Family::V4 }
}

/// The family that a Service calls `IPv4` or `IPv6`.
pub fn family(name: &str) -> Option<Family> {
    [Family::V4, Family::V6].into_iter().find(|family| family.name() == name)
}

fn unchanged(spec: &Value, old: Option<&Value>) -> bool {
    old.is_some_and(|old| {
        ["ipFamilyPolicy", "clusterIPs", "ipFamilies"].iter().all(|field| old[*field] == spec[*field])
    })
}

/// The addresses that are asked for. Clients that know `clusterIP` alone write that, and what they read of the list.
fn one_or_many(spec: &mut Value, old: Option<&Value>) -> Vec<String> {
    let one = spec.str_at(&["clusterIP"]).to_string();
    let list_is_old = old.is_some_and(|old| !old["clusterIPs"].is_null() && old["clusterIPs"] == spec["clusterIPs"]);
    let one_is_old = old.is_some_and(|old| old.str_at(&["clusterIP"]) == one);
    if spec.array_at(&["clusterIPs"]).is_empty() || (list_is_old && !one_is_old) {
        let list: Vec<&String> = std::iter::once(&one).filter(|one| !one.is_empty()).collect();
        spec["clusterIPs"] = json!(list);
    }
    spec.strings_at(&["clusterIPs"]).into_iter().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &[Family] = &[Family::V4];
    const BOTH: &[Family] = &[Family::V4, Family::V6];

    fn settled(mut spec: Value, old: Option<&Value>, cluster: &[Family]) -> String {
        let mut causes = Vec::new();
        settle(&mut spec, old, cluster, &mut causes);
        match causes.first() {
            Some(cause) => format!("{}: {}", cause.field, cause.message),
            None => {
                format!("{} {} {}", spec["ipFamilyPolicy"], spec["ipFamilies"], spec["clusterIPs"]).replace('"', "")
            }
        }
    }

    #[test]
    fn new_services_get_the_families_they_ask_for() {
        let app = || json!({"selector": {"app": "web"}});
        let with = |more: Value| {
            let mut spec = app();
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let table = [
            (with(json!({})), V4, "SingleStack [IPv4] null"),
            (with(json!({})), BOTH, "SingleStack [IPv4] null"),
            (with(json!({"ipFamilies": ["IPv6"]})), BOTH, "SingleStack [IPv6] null"),
            (
                with(json!({"ipFamilies": ["IPv6"]})),
                V4,
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (with(json!({"ipFamilyPolicy": "PreferDualStack"})), V4, "PreferDualStack [IPv4] null"),
            (with(json!({"ipFamilyPolicy": "PreferDualStack"})), BOTH, "PreferDualStack [IPv4,IPv6] null"),
            (
                with(json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})),
                BOTH,
                "RequireDualStack [IPv6,IPv4] null",
            ),
            (
                with(json!({"ipFamilyPolicy": "RequireDualStack"})),
                V4,
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (with(json!({"clusterIP": "fd43::7"})), BOTH, "SingleStack [IPv6] [fd43::7]"),
            (with(json!({"clusterIP": "None"})), BOTH, "SingleStack [IPv4] [None]"),
            (json!({"clusterIP": "None"}), V4, "RequireDualStack [IPv4,IPv6] [None]"),
            (json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"}), V4, "SingleStack [IPv4] [None]"),
        ];
        for (spec, cluster, expected) in table {
            assert_eq!(settled(spec.clone(), None, cluster), expected, "{spec}");
        }
    }

    #[test]
    fn another_policy_brings_or_takes_the_second_family() {
        let spec = |policy: &str, families: Value, ips: Value| json!({"selector": {"a": "b"}, "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy});
        let single = spec("SingleStack", json!(["IPv4"]), json!(["10.0.0.1"]));
        let dual = spec("RequireDualStack", json!(["IPv4", "IPv6"]), json!(["10.0.0.1", "fd43::1"]));
        let changed = |old: &Value, policy: &str, cluster| {
            let mut new = old.clone();
            new["ipFamilyPolicy"] = policy.into();
            settled(new, Some(old), cluster)
        };
        assert_eq!(changed(&single, "PreferDualStack", BOTH), "PreferDualStack [IPv4,IPv6] [10.0.0.1]");
        assert_eq!(changed(&single, "SingleStack", BOTH), "SingleStack [IPv4] [10.0.0.1]");
        assert_eq!(changed(&dual, "SingleStack", BOTH), "SingleStack [IPv4] [10.0.0.1]");
        assert_eq!(changed(&dual, "PreferDualStack", BOTH), "PreferDualStack [IPv4,IPv6] [10.0.0.1,fd43::1]");
        // One that preferred two when there was one family isn't touched by an update of something else.
        let prefers = spec("PreferDualStack", json!(["IPv4"]), json!(["10.0.0.1"]));
        assert_eq!(changed(&prefers, "PreferDualStack", BOTH), "PreferDualStack [IPv4] [10.0.0.1]");
    }
}
