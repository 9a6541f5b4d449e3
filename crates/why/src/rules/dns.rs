//! Names that containers are told and that lead nowhere, and the cluster's DNS itself.

use std::collections::BTreeSet;

use serde_json::Value;

use super::admission::answers;
use super::pod;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, items, name, namespace, nearest, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// The longest text that is searched for names.
const SEARCHED: usize = 4096;

/// Tells of names without a Service, of failed look-ups in logs, and of a cluster without DNS.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    cluster_dns(s, out);
    let mut told = BTreeSet::new();
    for pod in pod::pods(s) {
        let owner = pod::owner(s, pod);
        for container in pod::containers(pod) {
            for (place, host, service, space) in named(container.spec) {
                if s.lacks(Kind::Service, &space, &service) && told.insert((owner.clone(), host.clone())) {
                    out.push(missing(s, pod, &place, &host, &service, &space));
                }
            }
            out.extend(log(s, pod, &container));
        }
    }
    for set in s.all(Kind::StatefulSet) {
        let (space, wanted) = (namespace(set), text(set, "/spec/serviceName"));
        if !wanted.is_empty() && s.lacks(Kind::Service, space, wanted) {
            let near = nearest(wanted, s.within(Kind::Service, space).map(name));
            let says = format!("its Service {wanted:?} doesn't exist, so its pods have no names in the DNS");
            out.push(
                Finding::new(&codes::DNS_HEADLESS, ObjectRef::of(Kind::StatefulSet, set), says)
                    .detail(near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?")))
                    .follows(format!("{}-0.{wanted} doesn't resolve", name(set)))
                    .next(format!("kubectl -n {space} create service clusterip {wanted} --clusterip=None")),
            );
        }
    }
}

/// The Service and the namespace of a name of the cluster: `db.shop.svc`, `db.shop.svc.cluster.local`.
pub fn service_of(host: &str) -> Option<(&str, &str)> {
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    let at = labels.iter().position(|label| *label == "svc")?;
    let cluster = match labels.get(at.checked_add(1)?..) {
        None | Some([]) => true,
        Some(rest) => rest == ["cluster", "local"],
    };
    if !cluster || !(2..=3).contains(&at) {
        return None;
    }
    Some((labels.get(at.checked_sub(2)?)?, labels.get(at.checked_sub(1)?)?))
}

/// Names of the cluster's Services in the variables and arguments of a container: where, the name, the Service, its namespace.
fn named(spec: &Value) -> Vec<(String, String, String, String)> {
    let mut all = Vec::new();
    let mut search = |place: String, value: &str| {
        let value: String = value.chars().take(SEARCHED).collect();
        let words = value.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.'));
        for host in words.filter(|word| word.len() < 254 && word.contains(".svc")) {
            if let Some((service, space)) = service_of(host) {
                all.push((place.clone(), host.to_string(), service.to_string(), space.to_string()));
            }
        }
    };
    for env in items(spec, "/env") {
        search(format!("variable {}", text(env, "/name")), text(env, "/value"));
    }
    for path in ["/command", "/args"] {
        items(spec, path).iter().filter_map(Value::as_str).for_each(|word| search("its command".into(), word));
    }
    all
}

fn missing(s: &Snapshot, pod: &Value, place: &str, host: &str, service: &str, space: &str) -> Finding {
    let near = nearest(service, s.within(Kind::Service, space).map(name)).map(str::to_string);
    let elsewhere = s.all(Kind::Service).find(|o| name(o) == service).map(namespace);
    let hint = match (near, elsewhere) {
        (Some(near), _) => format!("there is {near}.{space}.svc: is that the one?"),
        (None, Some(other)) => format!("there is {service}.{other}.svc: is that the one?"),
        _ => String::new(),
    };
    let says = format!("{place} names {host}, and there is no Service {space}/{service}");
    Finding::new(&codes::DNS_NAME, ObjectRef::of(Kind::Pod, pod), says)
        .detail(hint)
        .follows("the name doesn't resolve")
        .next(format!("kubectl -n {space} get services"))
        .next(pod::edit(s, pod))
}

/// What programs write when a name doesn't resolve.
const UNRESOLVED: [&str; 10] = [
    "no such host",
    "bad address",
    "could not resolve host",
    "name or service not known",
    "temporary failure in name resolution",
    "nodename nor servname",
    "getaddrinfo enotfound",
    "getaddrinfo eai_again",
    "unknownhostexception",
    "failed to lookup address",
];

fn log(s: &Snapshot, pod: &Value, container: &pod::Container<'_>) -> Option<Finding> {
    let logs = [false, true].into_iter().filter_map(|previous| s.log(pod, container.name, previous));
    let unresolved = |line: &&str| {
        let line = line.to_lowercase();
        UNRESOLVED.iter().any(|words| line.contains(words))
    };
    let line = logs.flat_map(str::lines).rfind(unresolved)?;
    let says = format!("{} can't resolve a name: {}", container.words(), short(line, 160));
    let space = namespace(pod);
    Some(
        Finding::new(&codes::DNS_FAILED, ObjectRef::of(Kind::Pod, pod), says)
            .follows("it can't reach what it needs")
            .next(format!("kubectl -n {space} get services"))
            .next(pod::log_command(pod, container, !container.runs())),
    )
}

fn cluster_dns(s: &Snapshot, out: &mut Vec<Finding>) {
    const DNS: (&str, &str) = ("kube-system", "kube-dns");
    let Some(service) = s.get(Kind::Service, DNS.0, DNS.1) else { return };
    if !s.knows(Kind::EndpointSlice, DNS.0) || answers(s, DNS.0, DNS.1) {
        return;
    }
    // A DNS that runs in the nodes themselves has no endpoints, and no selector.
    if object::pairs(service, "/spec/selector").is_empty() {
        return;
    }
    out.push(
        Finding::new(
            &codes::DNS_DOWN,
            ObjectRef::of(Kind::Service, service),
            "the cluster's DNS has nobody that answers",
        )
        .follows("no name resolves in pods")
        .next("kubectl -n kube-system get pods -l k8s-app=kube-dns"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_are_read() {
        assert_eq!(service_of("db.shop.svc.cluster.local"), Some(("db", "shop")));
        assert_eq!(service_of("db-0.db.shop.svc."), Some(("db", "shop")));
        assert_eq!(service_of("db.shop.svc"), Some(("db", "shop")));
        assert_eq!(service_of("svc.example.com"), None);
        assert_eq!(service_of("a.b.svc.example.com"), None);
    }
}
