//! Services that lead nowhere: which label differs, which port isn't there, whose pods aren't ready.

use std::collections::BTreeMap;

use serde_json::Value;

use super::admission::answers;
use super::{dns, pod};
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, items, name, namespace, nearest, pairs, seconds_since, text, time};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of Services that lead nowhere.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for service in s.all(Kind::Service).filter(|service| !object::is_deleted(service)) {
        let kind = text(service, "/spec/type");
        if kind == "ExternalName" {
            out.extend(external_name(s, service));
            continue;
        }
        let selector = pairs(service, "/spec/selector");
        if selector.is_empty() {
            out.extend(without_selector(s, service));
        } else {
            out.extend(selected(s, service, &selector));
        }
        if kind == "LoadBalancer" && items(service, "/status/loadBalancer/ingress").is_empty() {
            out.extend(pending_load_balancer(s, service));
        }
    }
}

fn show(service: &Value) -> String {
    format!("kubectl -n {} describe service {}", namespace(service), name(service))
}

/// The pods that a selector selects.
pub fn selected_pods<'a>(s: &'a Snapshot, space: &str, selector: &BTreeMap<&str, &str>) -> Vec<&'a Value> {
    let pods = s.within(Kind::Pod, space).filter(|pod| !["Succeeded", "Failed"].contains(&text(pod, "/status/phase")));
    pods.filter(|pod| object::has_labels(pod, selector)).collect()
}

fn selected(s: &Snapshot, service: &Value, selector: &BTreeMap<&str, &str>) -> Vec<Finding> {
    let space = namespace(service);
    if !s.knows(Kind::Pod, space) {
        return Vec::new();
    }
    let pods = selected_pods(s, space, selector);
    if pods.is_empty() {
        return no_pods(s, service, selector).into_iter().collect();
    }
    let mut all: Vec<Finding> =
        items(service, "/spec/ports").iter().filter_map(|port| port_problem(service, port, &pods)).collect();
    let publishes = object::is_true(service, "/spec/publishNotReadyAddresses");
    let ready = pods.iter().filter(|pod| pod::is_ready(pod) && !object::is_deleted(pod)).count();
    // Pods that were only just made have their time.
    let oldest =
        pods.iter().map(|pod| seconds_since(time(pod, "/metadata/creationTimestamp"), s.now)).max().unwrap_or(0);
    if ready == 0 && !publishes && oldest >= super::probes::PATIENCE_SECONDS {
        let says = format!("none of its {} pods is ready, so nobody answers", pods.len());
        let mut finding = Finding::new(&codes::SERVICE_NOT_READY, ObjectRef::of(Kind::Service, service), says);
        finding.because.extend(pods.iter().take(20).map(|pod| ObjectRef::of(Kind::Pod, pod)));
        let word = pods.first().map_or(String::new(), |pod| format!("timonel why -n {space} pod/{}", name(pod)));
        all.push(finding.follows("connections to it are refused").next(word));
    } else if ready == 1 && pods.len() == 1 {
        let says = "one pod answers for it: while that one is replaced, nobody does";
        all.push(
            Finding::new(&codes::SERVICE_ONE_ENDPOINT, ObjectRef::of(Kind::Service, service), says).next(show(service)),
        );
    }
    all
}

/// Workloads that would match, were they not scaled to nothing or kept from making pods.
fn without_running_workload(s: &Snapshot, service: &Value, selector: &BTreeMap<&str, &str>) -> Option<Finding> {
    let space = namespace(service);
    let object = ObjectRef::of(Kind::Service, service);
    for kind in [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet, Kind::ReplicaSet] {
        let own = s.within(kind, space).find(|workload| {
            let labels = pairs(workload, "/spec/template/metadata/labels");
            selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        if let Some(workload) = own {
            let reference = ObjectRef::of(kind, workload);
            let zero = int(workload, "/spec/replicas") == Some(0);
            let why = if zero { "is scaled to 0" } else { "has no pods" };
            let says = format!("it has no pods: {reference} {why}");
            let finding = Finding::new(&codes::SERVICE_NO_PODS, object, says).because(reference.clone());
            let next = if zero {
                format!("kubectl -n {space} scale {} {} --replicas=1", kind.word(), name(workload))
            } else {
                format!("timonel why -n {space} {}/{}", kind.word(), name(workload))
            };
            return Some(finding.follows("nobody answers for it").next(next));
        }
    }
    None
}

fn no_pods(s: &Snapshot, service: &Value, selector: &BTreeMap<&str, &str>) -> Option<Finding> {
    let space = namespace(service);
    let object = ObjectRef::of(Kind::Service, service);
    let words = |map: &BTreeMap<&str, &str>| map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
    if let Some(finding) = without_running_workload(s, service, selector) {
        return Some(finding);
    }
    // The pod that has most of the labels, and the one that differs.
    let matches = |pod: &Value| {
        let labels = pairs(pod, "/metadata/labels");
        selector.iter().filter(|(key, value)| labels.get(*key) == Some(value)).count()
    };
    let closeness = |pod: &&Value| {
        let labels = pairs(pod, "/metadata/labels");
        let near = selector.iter().filter(|(_, value)| nearest(value, labels.values().copied()).is_some()).count();
        let same_key = selector.keys().filter(|key| labels.contains_key(*key)).count();
        (matches(pod), near, same_key)
    };
    let closest = s.within(Kind::Pod, space).filter(|pod| closeness(pod) > (0, 0, 0)).max_by_key(closeness);
    let mut finding = Finding::new(
        &codes::SERVICE_NO_PODS,
        object,
        format!("no pod has the labels of its selector {}", words(selector)),
    );
    if let Some(pod) = closest {
        let labels = pairs(pod, "/metadata/labels");
        for (key, value) in selector.iter().filter(|(key, value)| labels.get(*key) != Some(value)) {
            let has = labels.get(key).map_or_else(|| format!("has no label {key}"), |has| format!("has {key}={has}"));
            finding =
                finding.detail(format!("the nearest, Pod {}, {has}; the selector wants {key}={value}", name(pod)));
        }
    } else {
        let elsewhere = s.all(Kind::Pod).find(|pod| matches(pod) == selector.len());
        if let Some(pod) = elsewhere {
            finding = finding.detail(format!(
                "Pod {}/{} has them, and a Service selects pods of its own namespace alone",
                namespace(pod),
                name(pod)
            ));
        }
    }
    let next = format!("kubectl -n {space} get pods --show-labels");
    Some(finding.follows("nobody answers for it").next(next))
}

/// The number or name that a port of a Service leads to.
fn target(port: &Value) -> Value {
    match port.pointer("/targetPort") {
        Some(target) if !target.is_null() && target != 0 && target != "" => target.clone(),
        _ => port.pointer("/port").cloned().unwrap_or_default(),
    }
}

fn port_problem(service: &Value, port: &Value, pods: &[&Value]) -> Option<Finding> {
    let object = ObjectRef::of(Kind::Service, service);
    let target = target(port);
    let ports: Vec<&Value> = pods
        .iter()
        .flat_map(|pod| pod::containers(pod).into_iter().filter(|c| !c.is_init).flat_map(|c| items(c.spec, "/ports")))
        .collect();
    let listed: std::collections::BTreeSet<String> = ports
        .iter()
        .map(|p| format!("{} {}", text(p, "/name"), int(p, "/containerPort").unwrap_or(0)).trim().to_string())
        .collect();
    let listed: Vec<String> = listed.into_iter().collect();
    let own = int(port, "/port").unwrap_or(0);
    match target.as_str() {
        Some(wanted) if !ports.iter().any(|p| text(p, "/name") == wanted) => {
            let near = nearest(wanted, ports.iter().map(|p| text(p, "/name")).filter(|n| !n.is_empty()));
            let says = format!("its port {own} leads to the port named {wanted:?}, which its pods haven't got");
            let ports = if listed.is_empty() { "none".into() } else { listed.join(", ") };
            let near = near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?"));
            let next = format!("kubectl -n {} edit service {}", namespace(service), name(service));
            Some(
                Finding::new(&codes::SERVICE_PORT, object, says)
                    .detail(format!("ports of its pods: {ports}"))
                    .detail(near)
                    .follows("nobody answers on that port")
                    .next(next),
            )
        }
        Some(_) => None,
        None => {
            let number = target.as_i64()?;
            if listed.is_empty() || ports.iter().any(|p| int(p, "/containerPort") == Some(number)) {
                return None;
            }
            let says =
                format!("its port {own} leads to port {number}, which its pods don't declare ({})", listed.join(", "));
            Some(
                Finding::new(&codes::SERVICE_PORT_UNDECLARED, object, says)
                    .detail("that works if they listen there all the same")
                    .next(show(service)),
            )
        }
    }
}

fn without_selector(s: &Snapshot, service: &Value) -> Option<Finding> {
    let space = namespace(service);
    let young = seconds_since(time(service, "/metadata/creationTimestamp"), s.now) < super::probes::PATIENCE_SECONDS;
    // A DNS that runs in the nodes themselves answers at its address without endpoints.
    let in_the_nodes = space == "kube-system" && name(service) == "kube-dns";
    if in_the_nodes || young || !s.knows(Kind::EndpointSlice, space) || answers(s, space, name(service)) {
        return None;
    }
    let says = "it has no selector, and nobody gave it endpoints";
    let next = format!("kubectl -n {space} get endpointslices");
    Some(
        Finding::new(&codes::SERVICE_NO_ENDPOINTS, ObjectRef::of(Kind::Service, service), says)
            .follows("nobody answers for it")
            .next(next),
    )
}

fn pending_load_balancer(s: &Snapshot, service: &Value) -> Option<Finding> {
    if seconds_since(time(service, "/metadata/creationTimestamp"), s.now) < super::probes::PATIENCE_SECONDS {
        return None;
    }
    let says = "no load balancer has given it an address";
    let detail = match text(service, "/spec/loadBalancerClass") {
        "" => "is there a controller for Services of type LoadBalancer in this cluster?".into(),
        class => format!("its loadBalancerClass is {class:?}: does a controller for that class run?"),
    };
    let ports: Vec<String> =
        items(service, "/spec/ports").iter().filter_map(|p| int(p, "/nodePort")).map(|p| p.to_string()).collect();
    Some(
        Finding::new(&codes::SERVICE_LOAD_BALANCER, ObjectRef::of(Kind::Service, service), says)
            .detail(detail)
            .follows(format!("it is reached by its node ports alone ({})", ports.join(", ")))
            .next(show(service)),
    )
}

fn external_name(s: &Snapshot, service: &Value) -> Option<Finding> {
    let target = text(service, "/spec/externalName");
    let (other, space) = dns::service_of(target)?;
    if !s.lacks(Kind::Service, space, other) {
        return None;
    }
    let says = format!("it stands for {target}, and there is no Service {space}/{other}");
    let finding = Finding::new(&codes::SERVICE_EXTERNAL_NAME, ObjectRef::of(Kind::Service, service), says);
    Some(finding.follows("its name doesn't resolve").next(format!("kubectl -n {space} get services")))
}
