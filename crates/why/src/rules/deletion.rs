//! Objects that are being deleted and stay.

use serde_json::Value;

use super::scheduling::claims;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::{Kind, RESOURCES};
use crate::object::{self, int, items, name, namespace, seconds_since, short, since, text, time};
use crate::snapshot::{ObjectRef, Snapshot};

/// So long after its time an object may take to go.
const PATIENCE_SECONDS: i64 = 10;

/// Tells of pods, claims, namespaces and whatever else is being deleted for too long, and of who holds them.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for resource in &RESOURCES {
        for object in s.all(resource.kind).filter(|object| object::is_deleted(object)) {
            let since_when = time(object, "/metadata/deletionTimestamp");
            // Of a pod it is the time at which it should be gone; of others that at which its deletion began.
            if seconds_since(since_when, s.now) < PATIENCE_SECONDS {
                continue;
            }
            out.extend(match resource.kind {
                Kind::Namespace => Some(held_namespace(s, object)),
                Kind::Pod if items(object, "/metadata/finalizers").is_empty() => Some(pod(s, object)),
                kind => held(s, kind, object),
            });
        }
    }
}

fn pod(s: &Snapshot, pod: &Value) -> Finding {
    let node = text(pod, "/spec/nodeName");
    let object = ObjectRef::of(Kind::Pod, pod);
    let late = since(time(pod, "/metadata/deletionTimestamp"), s.now);
    let ready = s.get(Kind::Node, "", node).is_some_and(|n| object::has_condition(n, "Ready", "True"));
    let why = if s.lacks(Kind::Node, "", node) {
        format!("its node {node} isn't in the cluster any more")
    } else if !ready {
        format!("its node {node} isn't ready and can't say that its containers have ended")
    } else {
        format!("node {node} hasn't ended it yet")
    };
    let grace = int(pod, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
    let event = s.events(Kind::Pod, pod).next().map_or(String::new(), |e| {
        format!("the last event: {}: {}", text(e, "/reason"), short(text(e, "/message"), 160))
    });
    Finding::new(&codes::POD_TERMINATING, object, format!("it should have been gone {late} ago: {why}"))
        .detail(format!("its grace period was {grace} s"))
        .detail(event)
        .because(ObjectRef::new(Kind::Node, "", node))
        .follows("a StatefulSet makes no new one before this one is gone")
        .next(format!("kubectl describe node {node}"))
        .next(format!(
            "kubectl -n {} delete pod {} --grace-period=0 --force  (when the machine is surely off)",
            namespace(pod),
            name(pod)
        ))
}

fn held(s: &Snapshot, kind: Kind, object: &Value) -> Option<Finding> {
    let reference = ObjectRef::of(kind, object);
    let finalizers: Vec<&str> = items(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
    if finalizers.is_empty() {
        return None;
    }
    let age = since(time(object, "/metadata/deletionTimestamp"), s.now);
    if kind == Kind::PersistentVolumeClaim && finalizers.contains(&"kubernetes.io/pvc-protection") {
        let user = s.within(Kind::Pod, namespace(object)).find(|pod| claims(pod).iter().any(|c| c == name(object)));
        if let Some(user) = user {
            let says = format!("it was deleted {age} ago and stays, as Pod {} still uses it", name(user));
            let next = format!("kubectl -n {} delete pod {}", namespace(object), name(user));
            return Some(
                Finding::new(&codes::CLAIM_IN_USE, reference, says).follows("it goes with its last pod").next(next),
            );
        }
    }
    let says = format!("it was deleted {age} ago and stays until its finalizer {} is removed", finalizers.join(", "));
    let resource = kind.resource();
    let space = if resource.namespaced { format!("-n {} ", namespace(object)) } else { String::new() };
    let next = format!(
        "kubectl {space}patch {} {} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'  (then what its owner would have cleaned up stays)",
        resource.plural,
        name(object)
    );
    Some(
        Finding::new(&codes::FINALIZER, reference, says)
            .detail(format!(
                "whoever set {} should remove it: does that controller run?",
                finalizers.first().unwrap_or(&"")
            ))
            .follows("its name can't be used again, and its namespace can't go")
            .next(format!("kubectl {space}get {} {} -o yaml", resource.plural, name(object)))
            .next(next),
    )
}

fn held_namespace(s: &Snapshot, space: &Value) -> Finding {
    let reference = ObjectRef::of(Kind::Namespace, space);
    let age = since(time(space, "/metadata/deletionTimestamp"), s.now);
    let reasons = [
        "NamespaceDeletionDiscoveryFailure",
        "NamespaceDeletionGroupVersionParsingFailure",
        "NamespaceDeletionContentFailure",
        "NamespaceFinalizersRemaining",
        "NamespaceContentRemaining",
    ];
    let told: Vec<String> = reasons
        .iter()
        .filter_map(|kind| object::condition(space, kind).filter(|c| text(c, "/status") == "True"))
        .map(|c| short(text(c, "/message"), 250))
        .collect();
    let mut holders: Vec<ObjectRef> = Vec::new();
    for resource in RESOURCES.iter().filter(|r| r.namespaced && r.kind != Kind::Event) {
        holders.extend(s.within(resource.kind, name(space)).map(|object| ObjectRef::of(resource.kind, object)));
    }
    let says = format!("it was deleted {age} ago and isn't gone");
    let mut finding = Finding::new(&codes::NAMESPACE_STUCK, reference, says).details(told);
    let held: Vec<String> = holders.iter().take(8).map(ToString::to_string).collect();
    if !held.is_empty() {
        finding = finding.detail(format!("what is still in it: {}", held.join(", ")));
    }
    finding.because.extend(holders.into_iter().take(50));
    if let Some(service) = s.all(Kind::ApiService).find(|a| object::has_condition(a, "Available", "False")) {
        finding = finding.because(ObjectRef::of(Kind::ApiService, service));
    }
    finding.follows("nothing can be made in it").next(format!("kubectl get namespace {} -o yaml", name(space)))
}
