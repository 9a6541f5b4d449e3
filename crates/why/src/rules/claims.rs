//! Claims without a volume, volumes on nodes that are down, and drivers that aren't there.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::Value;

use super::pod;
use super::scheduling::claims;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, items, name, namespace, nearest, pairs, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// Tells of claims and volumes.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for claim in s.all(Kind::PersistentVolumeClaim).filter(|claim| !object::is_deleted(claim)) {
        out.extend(problem(s, claim));
        out.extend(resize(s, claim));
        out.extend(node_down(s, claim));
    }
    for volume in s.all(Kind::PersistentVolume).filter(|v| text(v, "/status/phase") == "Failed") {
        let says = "it couldn't be cleaned up or removed after its claim was deleted";
        out.push(
            Finding::new(&codes::VOLUME_FAILED, ObjectRef::of(Kind::PersistentVolume, volume), says)
                .detail(short(text(volume, "/status/message"), 200))
                .follows("its storage stays in use")
                .next(format!("kubectl describe pv {}", name(volume))),
        );
    }
}

/// What is wrong with a claim, if anything is.
pub fn problem(s: &Snapshot, claim: &Value) -> Option<Finding> {
    let object = ObjectRef::of(Kind::PersistentVolumeClaim, claim);
    let show = format!("kubectl -n {} describe pvc {}", namespace(claim), name(claim));
    let follows = "pods that use it wait";
    match text(claim, "/status/phase") {
        "Bound" => return None,
        "Lost" => {
            let says = format!("its volume {:?} is gone, and its data with it", text(claim, "/spec/volumeName"));
            return Some(
                Finding::new(&codes::CLAIM_LOST, object, says).follows("pods that use it can't start").next(show),
            );
        }
        _ => {}
    }
    let wanted = claim.pointer("/spec/storageClassName").and_then(Value::as_str);
    if let Some(class) = wanted.filter(|class| !class.is_empty()) {
        if fitting_volume(s, claim) {
            return None;
        }
        if s.lacks(Kind::StorageClass, "", class) {
            let classes: Vec<&str> = s.all(Kind::StorageClass).map(name).collect();
            let near = nearest(class, classes.iter().copied());
            let says = format!("its storage class {class:?} doesn't exist");
            return Some(
                Finding::new(&codes::CLASS_MISSING, object, says)
                    .detail(near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?")))
                    .detail(format!("storage classes of this cluster: {}", classes.join(", ")))
                    .follows(follows)
                    .next("kubectl get storageclass"),
            );
        }
        return unprovisioned(s, claim, s.get(Kind::StorageClass, "", class)?, show);
    }
    let has_default =
        s.all(Kind::StorageClass).any(|c| pairs(c, "/metadata/annotations").get(DEFAULT) == Some(&"true"));
    if fitting_volume(s, claim) || !s.knows(Kind::StorageClass, "") || (wanted.is_none() && has_default) {
        return None;
    }
    if wanted == Some("") {
        return Some(no_volume(s, claim, "it asks for no storage class, so for a volume that is there"));
    }
    let says = "it names no storage class, and none is the default";
    let next =
        format!("kubectl patch storageclass NAME -p '{{\"metadata\":{{\"annotations\":{{\"{DEFAULT}\":\"true\"}}}}}}'");
    Some(Finding::new(&codes::NO_CLASS, object, says).follows(follows).next("kubectl get storageclass").next(next))
}

fn typed_claim(claim: &Value) -> Option<PersistentVolumeClaim> {
    serde_json::from_value(claim.clone()).ok()
}

fn candidates(s: &Snapshot) -> impl Iterator<Item = (&Value, PersistentVolume)> {
    s.all(Kind::PersistentVolume).filter_map(|v| Some((v, serde_json::from_value(v.clone()).ok()?)))
}

/// Whether there is a volume that it may get: then it gets it in a moment.
fn fitting_volume(s: &Snapshot, claim: &Value) -> bool {
    let Some(claim) = typed_claim(claim) else { return false };
    candidates(s)
        .any(|(object, volume)| text(object, "/status/phase") == "Available" && placement::volume_fits(&claim, &volume))
}

fn no_volume(s: &Snapshot, claim: &Value, why: &str) -> Finding {
    let object = ObjectRef::of(Kind::PersistentVolumeClaim, claim);
    let mut finding = Finding::new(&codes::NO_VOLUME, object, format!("no volume fits it: {why}"));
    if let Some(typed) = typed_claim(claim) {
        for (object, volume) in candidates(s).take(5) {
            let bound = text(object, "/spec/claimRef/name");
            let reason = match (text(object, "/status/phase"), placement::volume_satisfies(&typed, &volume)) {
                ("Bound", _) => format!("is claim {bound:?}'s"),
                ("Released", _) => format!("was claim {bound:?}'s and keeps its data (spec.claimRef)"),
                (_, Err(why)) => short(&why, 120),
                (_, Ok(())) => "has another storage class, mode or labels".into(),
            };
            finding = finding.detail(format!("volume {} {reason}", name(object)));
        }
    }
    if !s.knows(Kind::PersistentVolume, "") {
        finding = finding.detail("you may not list persistentvolumes: whether one is there can't be told");
    }
    finding.follows("pods that use it wait").next("kubectl get pv")
}

fn unprovisioned(s: &Snapshot, claim: &Value, class: &Value, show: String) -> Option<Finding> {
    let object = ObjectRef::of(Kind::PersistentVolumeClaim, claim);
    let provisioner = text(class, "/provisioner");
    let space = namespace(claim);
    let waits_for_pod = text(class, "/volumeBindingMode") == "WaitForFirstConsumer";
    let users: Vec<&Value> = s
        .within(Kind::Pod, space)
        .filter(|pod| claims(pod).iter().any(|c| c == name(claim)) && !object::is_deleted(pod))
        .collect();
    if provisioner == "kubernetes.io/no-provisioner" {
        if waits_for_pod && users.is_empty() {
            return Some(unused(claim));
        }
        let why = format!("class {:?} makes none, somebody must", name(class));
        return Some(no_volume(s, claim, &why));
    }
    if let Some(event) = s.event(Kind::PersistentVolumeClaim, claim, &["ProvisioningFailed"]) {
        let says = format!("storage driver {provisioner} can't make its volume");
        return Some(
            Finding::new(&codes::PROVISIONING, object, says)
                .detail(format!("it says: {}", short(text(event, "/message"), 300)))
                .follows("pods that use it wait")
                .next(show),
        );
    }
    if waits_for_pod && users.is_empty() {
        return Some(unused(claim));
    }
    let selected = !text(claim, "/metadata/annotations/volume.kubernetes.io~1selected-node").is_empty();
    if waits_for_pod && !selected {
        // Its pod isn't scheduled, and says why.
        return None;
    }
    let own = provisioner.starts_with("timonel.io/") || provisioner.starts_with("rancher.io/local-path");
    if s.knows(Kind::CsiDriver, "") && s.get(Kind::CsiDriver, "", provisioner).is_none() && !own {
        let drivers: Vec<&str> = s.all(Kind::CsiDriver).map(name).collect();
        let drivers = if drivers.is_empty() { "none".into() } else { drivers.join(", ") };
        let says = format!("storage driver {provisioner:?} of its class {:?} isn't installed", name(class));
        return Some(
            Finding::new(&codes::DRIVER_MISSING, object, says)
                .detail(format!("drivers of this cluster: {drivers}"))
                .follows("nobody makes its volume, and pods that use it wait")
                .next("kubectl get csidrivers,storageclass"),
        );
    }
    None
}

fn unused(claim: &Value) -> Finding {
    let object = ObjectRef::of(Kind::PersistentVolumeClaim, claim);
    let says = "it gets its volume when the first pod uses it, and none does";
    let next = format!("kubectl -n {} describe pvc {}", namespace(claim), name(claim));
    Finding::new(&codes::CLAIM_UNUSED, object, says).next(next)
}

fn resize(s: &Snapshot, claim: &Value) -> Option<Finding> {
    let event = s.event(Kind::PersistentVolumeClaim, claim, &["VolumeResizeFailed", "FileSystemResizeFailed"])?;
    let wanted = object::amount(claim, "/spec/resources/requests/storage")?;
    if object::amount(claim, "/status/capacity/storage")? >= wanted {
        return None;
    }
    let says = format!("it can't grow to {}", text(claim, "/spec/resources/requests/storage"));
    let object = ObjectRef::of(Kind::PersistentVolumeClaim, claim);
    Some(
        Finding::new(&codes::CLAIM_RESIZE, object, says)
            .detail(short(text(event, "/message"), 250))
            .follows("it keeps its size")
            .next(format!("kubectl -n {} describe pvc {}", namespace(claim), name(claim))),
    )
}

/// A volume that is on one node, which is down or gone, while a pod wants it.
fn node_down(s: &Snapshot, claim: &Value) -> Option<Finding> {
    let volume = s.get(Kind::PersistentVolume, "", text(claim, "/spec/volumeName"))?;
    let waiting = s.within(Kind::Pod, namespace(claim)).any(|pod| {
        claims(pod).iter().any(|c| c == name(claim)) && !pod::is_ready(pod) && text(pod, "/status/phase") != "Succeeded"
    });
    let terms = items(volume, "/spec/nodeAffinity/required/nodeSelectorTerms").iter();
    let host = terms
        .flat_map(|term| items(term, "/matchExpressions"))
        .find(|e| text(e, "/key") == "kubernetes.io/hostname")?;
    let [Value::String(host)] = items(host, "/values") else { return None };
    let node =
        s.all(Kind::Node).find(|n| pairs(n, "/metadata/labels").get("kubernetes.io/hostname") == Some(&host.as_str()));
    let object = ObjectRef::of(Kind::PersistentVolumeClaim, claim);
    let follows = "pods that use it can't run elsewhere";
    match node {
        None if waiting && s.knows(Kind::Node, "") => {
            let says = format!("its volume {} is on node {host:?}, which isn't in the cluster any more", name(volume));
            let next = format!(
                "kubectl -n {} delete pvc {}  (its data is on that machine alone)",
                namespace(claim),
                name(claim)
            );
            Some(
                Finding::new(&codes::VOLUME_NODE_GONE, object, says)
                    .follows(follows)
                    .next("kubectl get nodes")
                    .next(next),
            )
        }
        Some(node) if waiting && !object::has_condition(node, "Ready", "True") => {
            let says = format!("its volume {} is on node {host:?}, which isn't ready", name(volume));
            let node = ObjectRef::of(Kind::Node, node);
            let next = format!("kubectl describe node {host}");
            Some(Finding::new(&codes::VOLUME_NODE_DOWN, object, says).because(node).follows(follows).next(next))
        }
        _ => None,
    }
}
