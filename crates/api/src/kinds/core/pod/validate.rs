//! Pods, and the templates of pods.

use std::collections::HashSet;

use apimachinery::{Cause, ObjectExt as _, Quantity, names};
use serde_json::{Map, Value};

use super::container::{self, Role, Surroundings};
use super::{amounts, placement, static_pods, volumes};
use crate::kinds::core::resource_quota::OBJECT_COUNTS;
use crate::validate::field::{Field, too_many};

pub fn pod(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else {
        if !object.array_at(&["spec", "ephemeralContainers"]).is_empty() {
            let field = "spec.ephemeralContainers";
            causes.push(Cause::forbidden(field, "cannot be set on create"));
        }
        if is_gated(object) && !object.str_at(&["spec", "nodeName"]).is_empty() {
            let why = "cannot be set until all schedulingGates have been cleared";
            causes.push(Cause::forbidden("spec.nodeName", why));
        }
        if static_pods::is_mirror(object) {
            if object.str_at(&["spec", "nodeName"]).is_empty() {
                causes.push(Cause::required("spec.nodeName", "must set spec.nodeName if mirror pod annotation is set"));
            }
            causes.extend(static_pods::check(&object["spec"]));
        }
        return spec(&object["spec"], "spec", &[], causes);
    };
    static_pods::keep_mirror(object, old, causes);
    if object["spec"] == old["spec"] {
        return;
    }
    let before = causes.len();
    may_change(object, old, causes);
    if causes.len() == before {
        spec(&object["spec"], "spec", &[], causes);
    }
}

fn is_gated(pod: &Value) -> bool {
    !pod.array_at(&["spec", "schedulingGates"]).is_empty()
}

/// Of a pod's spec little may change: images, the deadline, tolerations added, gates removed, and while it has gates,
/// where it may go (KEP-3521, KEP-3838). The node comes by the binding subresource.
fn may_change(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let gated = is_gated(old);
    let (mut frozen_new, mut frozen_old) = (object["spec"].clone(), old["spec"].clone());
    for frozen in [&mut frozen_new, &mut frozen_old] {
        thaw(frozen, gated);
    }
    if frozen_new != frozen_old {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
    for gate in object.array_at(&["spec", "schedulingGates"]) {
        if !old.array_at(&["spec", "schedulingGates"]).contains(gate) {
            let name = gate.str_at(&["name"]);
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            causes.push(Cause::forbidden("spec.schedulingGates", &why));
        }
    }
    let deadline = |pod: &Value| pod.at(&["spec", "activeDeadlineSeconds"]).as_i64();
    if let Some(was) = deadline(old) {
        const FIELD: &str = "spec.activeDeadlineSeconds";
        match deadline(object) {
            None => {
                causes.push(Cause::invalid(FIELD, &Value::Null, "must not update from a positive integer to nil value"))
            }
            Some(is) if is > was => {
                let why = format!("must be less than or equal to previous value {was}");
                causes.push(Cause::invalid(FIELD, &is.into(), &why));
            }
            _ => {}
        }
    }
    let bare = |toleration: &Value| {
        let mut bare = toleration.clone();
        bare.as_object_mut().map(|t| t.remove("tolerationSeconds"));
        bare
    };
    let tolerations: Vec<Value> = object.array_at(&["spec", "tolerations"]).iter().map(bare).collect();
    if !old.array_at(&["spec", "tolerations"]).iter().all(|t| tolerations.contains(&bare(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(Cause::forbidden("spec.tolerations", detail));
    }
    if gated {
        may_narrow(object, old, causes);
    }
}

/// A gated pod's choice of nodes may only become smaller.
fn may_narrow(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let selector = |pod: &Value| pod.at(&["spec", "nodeSelector"]).as_object().cloned().unwrap_or_default();
    let new = selector(object);
    if !selector(old).iter().all(|(key, value)| new.get(key) == Some(value)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        causes.push(Cause::invalid("spec.nodeSelector", &object["spec"]["nodeSelector"], why));
    }
    const TERMS: [&str; 5] =
        ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    const FIELD: &str = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (terms, before) = (object.array_at(&TERMS), old.array_at(&TERMS));
    if before.is_empty() {
        return;
    }
    if terms.len() != before.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return causes.push(Cause::invalid(FIELD, &terms.to_vec().into(), why));
    }
    for (i, (term, was)) in terms.iter().zip(before).enumerate() {
        let kept = ["matchExpressions", "matchFields"].iter().all(|list| {
            let (is, was) = (term.array_at(&[list]), was.array_at(&[list]));
            was.iter().all(|wanted| is.contains(wanted))
        });
        // A term without any wish matches no node; with one it would match more.
        let matched_none = ["matchExpressions", "matchFields"].iter().all(|list| was.array_at(&[list]).is_empty());
        if !kept || (matched_none && term != was) {
            let why = "only additions are allowed (no mutations or deletions)";
            causes.push(Cause::invalid(format!("{FIELD}[{i}]"), term, why));
        }
    }
}

/// A pod's quality of service is fixed when it is made.
pub fn resize(object: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Vec::new();
    let causes = &mut found;
    spec(&object["spec"], "spec", &[], causes);
    let class = |pod: &Value| super::qos_class(&pod["spec"]);
    if class(object) != class(old) {
        let why = "Pod QOS Class may not change as a result of resizing";
        causes.push(Cause::invalid("metadata.labels", &Value::from(class(object)), why));
    }
    for (list, field, new, before) in each_resource(object, old) {
        if !matches!(field.as_str(), "cpu" | "memory") && new != before {
            let why = "only cpu and memory resources are mutable";
            causes.push(Cause::forbidden(format!("spec.{list}"), why));
        }
    }
    found
}

/// The amounts of all containers that are in either of two pods: list, resource, new and old amount.
fn each_resource<'a>(new: &'a Value, old: &'a Value) -> Vec<(&'static str, String, &'a Value, &'a Value)> {
    let mut all = Vec::new();
    for list in ["containers", "initContainers"] {
        let (new, old) = (new.array_at(&["spec", list]), old.array_at(&["spec", list]));
        for (a, b) in new.iter().zip(old) {
            for kind in ["requests", "limits"] {
                let (a, b) = (a.at(&["resources", kind]), b.at(&["resources", kind]));
                let names = a.as_object().into_iter().chain(b.as_object()).flat_map(|m| m.keys());
                all.extend(names.map(|name| (list, name.clone(), a.at(&[name]), b.at(&[name]))));
            }
        }
    }
    all
}

fn thaw(spec: &mut Value, gated: bool) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(c) = container.as_object_mut() {
                c.remove("image");
            }
        }
    }
    let Some(map) = spec.as_object_mut() else { return };
    for field in ["activeDeadlineSeconds", "tolerations", "ephemeralContainers", "schedulingGates"] {
        map.remove(field);
    }
    if !gated {
        return;
    }
    map.remove("nodeSelector");
    if let Some(affinity) = map.get_mut("affinity").and_then(Value::as_object_mut) {
        if let Some(node) = affinity.get_mut("nodeAffinity").and_then(Value::as_object_mut) {
            node.remove("requiredDuringSchedulingIgnoredDuringExecution");
        }
        affinity.retain(|_, part| part.as_object().is_none_or(|p| !p.is_empty()));
    }
    if map.get("affinity").and_then(Value::as_object).is_some_and(Map::is_empty) {
        map.remove("affinity");
    }
}

/// A pod's or a template's spec at `path`. `claimed` are volumes that come from elsewhere (claim templates).
pub fn spec(spec: &Value, path: &str, claimed: &[&str], causes: &mut Vec<Cause>) {
    let spec = Field::new(spec, path);
    spec.at("containers").require("", causes);
    spec.at("restartPolicy").must_be(&["Always", "Never", "OnFailure"], causes);
    spec.at("terminationGracePeriodSeconds").not_negative(causes);
    spec.at("activeDeadlineSeconds").range(1, i64::from(i32::MAX), causes);
    for field in ["hostname", "subdomain"] {
        spec.at(field).is(names::dns1123_label, causes);
    }
    for field in ["nodeName", "serviceAccountName", "priorityClassName", "schedulerName"] {
        spec.at(field).is(names::dns1123_subdomain, causes);
    }
    spec.at("runtimeClassName").is_if_said(names::dns1123_subdomain, causes);
    spec.at("hostnameOverride").is_if_said(names::dns1123_subdomain, causes);
    spec.at("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], causes);
    spec.at("os").at("name").one_of(&["linux", "windows"], causes);
    dns(&spec, causes);
    pod_security(&spec, causes);
    placement::check(&spec, causes);
    for alias in spec.at("hostAliases").items() {
        alias.at("ip").address(causes);
        for name in alias.at("hostnames").items() {
            name.is(names::dns1123_subdomain, causes);
        }
    }
    for (_, amount) in spec.at("overhead").entries() {
        amount.quantity(causes);
    }
    let mut volumes = volumes::check(&spec.at("volumes"), causes);
    volumes.extend(claimed);
    containers(&spec, &volumes, causes);
    whole(&spec, causes);
}

fn containers(spec: &Field<'_>, volumes: &[&str], causes: &mut Vec<Cause>) {
    let around = Surroundings {
        volumes,
        is_pod: spec.path == "spec",
        os: spec.at("os").at("name").text(),
        host_network: *spec.at("hostNetwork").value == true,
        grace: spec.at("terminationGracePeriodSeconds").value.as_i64(),
    };
    let (mut seen, mut host_ports) = (HashSet::new(), HashSet::new());
    for (list, role) in
        [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)]
    {
        for c in spec.at(list).items() {
            container::check(&c, role, &around, causes);
            let name = c.at("name");
            if !seen.insert(name.text()) {
                causes.push(Cause::duplicate(&name.path, name.value));
            }
            let target = c.at("targetContainerName");
            let is_there = |list| spec.at(list).items().any(|other| other.at("name").text() == target.text());
            if role == Role::Ephemeral && !target.is_empty() && !is_there("containers") && !is_there("initContainers") {
                causes.push(Cause::not_found(&target.path, target.value));
            }
            let shown = c.at("securityContext").at("procMount");
            if shown.text() == "Unmasked" && spec.at("hostUsers").value != false {
                shown.invalid("`hostUsers` must be false to use `Unmasked`", causes);
            }
            // Init containers come one after the other; sidecars aren't told from them here (upstream's `checkHostPortConflicts`).
            let mut own = HashSet::new();
            let seen = if role == Role::Main { &mut host_ports } else { &mut own };
            for port in c.at("ports").items() {
                let host = port.at("hostPort");
                let Some(number) = host.value.as_i64().filter(|number| *number != 0) else { continue };
                let text = format!("{}/{}/{number}", port.at("protocol").text(), port.at("hostIP").text());
                if !seen.insert(text.clone()) {
                    causes.push(Cause::duplicate(host.path, &text.into()));
                }
            }
        }
    }
}

fn dns(spec: &Field<'_>, causes: &mut Vec<Cause>) {
    spec.at("dnsPolicy").must_be(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], causes);
    let config = spec.at("dnsConfig");
    let servers = config.at("nameservers");
    if spec.at("dnsPolicy").text() == "None" {
        servers.require("must provide at least one DNS nameserver when `dnsPolicy` is None", causes);
    }
    too_many(&servers, 3, causes);
    for server in servers.items() {
        server.address(causes);
    }
    too_many(&config.at("searches"), 32, causes);
    for search in config.at("searches").items() {
        // A dot alone is the root (KEP-4427).
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        if search.text() != "."
            && let Err(why) = names::search_domain(name)
        {
            search.invalid(&why, causes);
        }
    }
    for option in config.at("options").items() {
        option.at("name").require("must not be empty", causes);
    }
}

fn pod_security(spec: &Field<'_>, causes: &mut Vec<Cause>) {
    let context = spec.at("securityContext");
    if spec.at("hostUsers").value == false {
        for field in ["hostNetwork", "hostPID", "hostIPC"].map(|name| spec.at(name)) {
            if field.value == true {
                field.forbid("when `hostUsers` is false", causes);
            }
        }
    }
    if spec.at("shareProcessNamespace").value == true && spec.at("hostPID").value == true {
        spec.at("shareProcessNamespace").invalid("ShareProcessNamespace and HostPID cannot both be enabled", causes);
    }
    container::common_security(&context, causes);
    for group in context.at("supplementalGroups").items() {
        group.range(0, i64::from(i32::MAX), causes);
    }
    context.at("fsGroupChangePolicy").one_of(&["Always", "OnRootMismatch"], causes);
    context.at("supplementalGroupsPolicy").one_of(&["Merge", "Strict"], causes);
    context.at("sysctls").unique("name", causes);
    for sysctl in context.at("sysctls").items() {
        let name = sysctl.at("name");
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        if name.require("", causes) && !name.text().chars().all(fits) {
            name.invalid("must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$", causes);
        }
    }
}

/// What a pod may use as a whole (KEP-2837): at least what its containers ask for, and what each may use.
fn whole(spec: &Field<'_>, causes: &mut Vec<Cause>) {
    let own = spec.at("resources");
    if own.value.is_null() {
        return;
    }
    resources(own.value, &own.path, causes);
    for part in ["requests", "limits"] {
        for name in own.value[part].as_object().into_iter().flatten().map(|(name, _)| name) {
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
                let supported = ["cpu", "hugepages-", "memory"];
                causes.push(Cause::not_supported(
                    format!("{}.{part}[{name}]", own.path),
                    &Value::from(name.as_str()),
                    &supported,
                ));
            }
        }
    }
    let of = |part: &str, name: &str| Quantity::from_json(&own.value[part][name]);
    for (name, asked) in amounts::container_amounts(spec.value, "requests") {
        if let Some(whole) = of("requests", &name).filter(|whole| *whole < asked) {
            let detail = format!(
                "must be greater than or equal to aggregate container requests of {}",
                asked.canonical(name != "cpu")
            );
            let field = format!("{}.requests[{name}]", own.path);
            causes.push(Cause::invalid(field, &Value::from(whole.canonical(name != "cpu")), &detail));
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.at(list).items() {
            for (name, limit) in container.value["resources"]["limits"].as_object().into_iter().flatten() {
                let (Some(limit_of_one), Some(whole)) = (Quantity::from_json(limit), of("limits", name)) else {
                    continue;
                };
                if limit_of_one > whole {
                    let detail =
                        format!("must be less than or equal to pod limits of {}", whole.canonical(name != "cpu"));
                    causes.push(Cause::invalid(format!("{}.resources.limits[{name}]", container.path), limit, &detail));
                }
            }
        }
    }
}

/// What a container may ask for: Kubernetes' own resources by their names, those of others with a domain (upstream's
/// `ValidateContainerResourceName`).
fn container_resource(name: &str, field: &str, causes: &mut Vec<Cause>) {
    let invalid = |why: &str| Cause::invalid(field, &Value::from(name), why);
    if let Err(why) = names::qualified_name(name) {
        causes.push(invalid(&why));
        return;
    }
    if !name.contains('/') {
        let of_containers = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if !of_containers && !is_standard(name) {
            causes.push(invalid("must be a standard resource type or fully qualified"));
        }
        if !of_containers {
            causes.push(invalid("must be a standard resource for containers"));
        }
    } else if !name.contains("kubernetes.io/")
        && (name.starts_with("requests.") || names::qualified_name(&format!("requests.{name}")).is_err())
    {
        causes.push(invalid("doesn't follow extended resource name standard"));
    }
}

/// Whether a name without a domain means a resource at all, be it of containers or of quotas.
pub fn is_standard(name: &str) -> bool {
    let (part, resource) = match name.split_once('.') {
        Some((part @ ("requests" | "limits"), resource)) => (part, resource),
        _ => ("", name),
    };
    OBJECT_COUNTS.contains(&name)
        || matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || (resource == "storage" && part != "limits")
        || (resource.starts_with(HUGE_PAGES) && part != "limits")
}

/// Quantities, none negative, and no request above its limit.
pub fn resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    let read = |list: &str, name: &str, value: &Value, causes: &mut Vec<Cause>| -> Option<Quantity> {
        let field = format!("{path}.{list}[{name}]");
        container_resource(name, &field, causes);
        let text = value.as_str().map(String::from).unwrap_or_else(|| value.to_string());
        match text.parse::<Quantity>() {
            Ok(q) if q.is_negative() => {
                causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
                None
            }
            Ok(q) => {
                // Devices come whole.
                if name.contains('/') && !name.contains("kubernetes.io/") && q.milli() % 1000 != 0 {
                    causes.push(Cause::invalid(field.clone(), value, "must be an integer"));
                }
                let page = name.strip_prefix(HUGE_PAGES).and_then(|size| size.parse::<Quantity>().ok());
                if let Some(page) = page.filter(|page| page.value() <= 0 || q.value() % page.value() != 0) {
                    let detail = format!("must be a multiple of the size of a page, {}", page.canonical(true));
                    causes.push(Cause::invalid(field, value, &detail));
                }
                Some(q)
            }
            Err(e) => {
                causes.push(Cause::invalid(field, value, &e.to_string()));
                None
            }
        }
    };
    for (name, value) in resources["limits"].as_object().into_iter().flatten() {
        read("limits", name, value, causes);
    }
    for (name, value) in resources["requests"].as_object().into_iter().flatten() {
        let request = read("requests", name, value, causes);
        let limit = &resources["limits"][name.as_str()];
        if limit.is_null() {
            if !may_be_exceeded(name) {
                let detail = "Limit must be set for non overcommitable resources";
                causes.push(Cause::required(format!("{path}.limits"), detail));
            }
            continue;
        }
        let text = limit.as_str().map(String::from).unwrap_or_else(|| limit.to_string());
        if let (Some(request), Ok(limit)) = (request, text.parse::<Quantity>())
            && (request > limit || (request < limit && !may_be_exceeded(name)))
        {
            let relation = if may_be_exceeded(name) { "less than or equal" } else { "equal" };
            let detail = format!("must be {relation} to {name} limit of {text}");
            causes.push(Cause::invalid(format!("{path}.requests"), value, &detail));
        }
    }
    let names = || {
        ["limits", "requests"]
            .into_iter()
            .flat_map(|list| resources[list].as_object().into_iter().flatten())
            .map(|(n, _)| n)
    };
    if names().any(|n| n.starts_with(HUGE_PAGES)) && !names().any(|n| matches!(n.as_str(), "cpu" | "memory")) {
        causes.push(Cause::forbidden(path, "HugePages require cpu or memory"));
    }
}

const HUGE_PAGES: &str = "hugepages-";

/// Whether more of a resource may be promised than there is: not of huge pages, nor of what isn't Kubernetes' own.
fn may_be_exceeded(name: &str) -> bool {
    let own = !name.contains('/') || name.split('/').next().is_some_and(|domain| domain.ends_with("kubernetes.io"));
    own && !name.starts_with(HUGE_PAGES)
}
