//! Pods, and the templates of pods.

use std::collections::HashSet;

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::Value;

use super::container::{self, Role, Surroundings};
use super::resources::whole;
use super::update::{is_gated, may_change};
use super::{claims, placement, static_pods, volumes};
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
    claims::check(&spec, causes);
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
