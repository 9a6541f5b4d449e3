//! What containers are configured by: ConfigMaps, Secrets and keys that aren't there, and volumes that can't be mounted.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod::{self, is_optional};
use super::start_was_refused_root;
use crate::codes::{self, Code};
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{items, name, namespace, nearest, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of configuration that containers lack, and of mounts that fail.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for pod in
        pod::pods(s).filter(|pod| pod::is_bound(pod) && text(pod, "/status/phase") == "Pending" || has_waiting(pod))
    {
        let mut found = missing(s, pod);
        if found.is_empty() {
            found.extend(waiting(s, pod));
        }
        if found.is_empty() {
            found.extend(volumes(s, pod));
        }
        out.extend(found);
    }
}

fn has_waiting(pod: &Value) -> bool {
    pod::containers(pod).iter().any(|c| c.waiting().is_some_and(|(reason, _)| reason == "CreateContainerConfigError"))
}

/// ConfigMaps and Secrets that a pod names and must have: the kind, its name, and where it is named.
fn references(pod: &Value) -> BTreeSet<(Kind, String, String)> {
    let mut all = BTreeSet::new();
    let mut add = |kind: Kind, reference: Option<&Value>, field: &str, place: &str| {
        if let Some(reference) = reference.filter(|r| !r.is_null() && !is_optional(r)) {
            all.insert((kind, text(reference, field).to_string(), place.to_string()));
        }
    };
    for volume in items(pod, "/spec/volumes") {
        let place = format!("volume {:?}", text(volume, "/name"));
        add(Kind::ConfigMap, volume.pointer("/configMap"), "/name", &place);
        add(Kind::Secret, volume.pointer("/secret"), "/secretName", &place);
        for source in items(volume, "/projected/sources") {
            add(Kind::ConfigMap, source.pointer("/configMap"), "/name", &place);
            add(Kind::Secret, source.pointer("/secret"), "/name", &place);
        }
    }
    for container in pod::containers(pod) {
        for from in items(container.spec, "/envFrom") {
            let place = format!("envFrom of {}", container.words());
            add(Kind::ConfigMap, from.pointer("/configMapRef"), "/name", &place);
            add(Kind::Secret, from.pointer("/secretRef"), "/name", &place);
        }
        for env in items(container.spec, "/env") {
            let place = format!("variable {} of {}", text(env, "/name"), container.words());
            add(Kind::ConfigMap, env.pointer("/valueFrom/configMapKeyRef"), "/name", &place);
            add(Kind::Secret, env.pointer("/valueFrom/secretKeyRef"), "/name", &place);
        }
    }
    all
}

fn missing(s: &Snapshot, pod: &Value) -> Vec<Finding> {
    let space = namespace(pod);
    let absent =
        references(pod).into_iter().filter(|(kind, wanted, _)| !wanted.is_empty() && s.lacks(*kind, space, wanted));
    let mut told = BTreeSet::new();
    absent
        .filter(|(kind, wanted, _)| told.insert((*kind, wanted.clone())))
        .map(|(kind, wanted, place)| {
            let code = if kind == Kind::Secret { &codes::SECRET_MISSING } else { &codes::CONFIG_MAP_MISSING };
            let word = kind.resource().name;
            let says = format!("{word} {wanted:?} doesn't exist, which {place} needs");
            let near = nearest(&wanted, s.within(kind, space).map(name));
            let elsewhere = s.all(kind).find(|o| name(o) == wanted).map(namespace);
            let hint = match (near, elsewhere) {
                (_, Some(other)) => {
                    format!("there is one of that name in namespace {other:?}, which pods of {space:?} can't use")
                }
                (Some(near), None) => format!("there is {near:?}: is that the one?"),
                _ => String::new(),
            };
            let create = if kind == Kind::Secret { "secret generic" } else { "configmap" };
            Finding::new(code, ObjectRef::of(Kind::Pod, pod), says)
                .detail(hint)
                .follows("its containers can't start")
                .next(format!("kubectl -n {space} create {create} {wanted} --from-literal=KEY=VALUE"))
        })
        .collect()
}

/// A code for what a kubelet says about configuration.
fn classify(message: &str) -> (&'static Code, String) {
    let message_short = short(message, 250);
    let key = [
        "couldn't find key",
        "non-existent config key",
        "references non-existent",
        "key not found",
        "non-existent secret key",
    ];
    if key.iter().any(|words| message.contains(words)) {
        return (&codes::KEY_MISSING, format!("a key that it needs isn't there: {message_short}"));
    }
    if message.contains("not found") && message.to_lowercase().contains("secret") {
        return (&codes::SECRET_MISSING, format!("a Secret that it needs doesn't exist: {message_short}"));
    }
    if message.contains("not found") && message.to_lowercase().contains("configmap") {
        return (&codes::CONFIG_MAP_MISSING, format!("a ConfigMap that it needs doesn't exist: {message_short}"));
    }
    (&codes::CONFIG_OTHER, format!("its configuration can't be used: {message_short}"))
}

fn waiting(s: &Snapshot, pod: &Value) -> Vec<Finding> {
    let mut all = Vec::new();
    for container in pod::containers(pod) {
        let Some(("CreateContainerConfigError", message)) = container.waiting() else { continue };
        if start_was_refused_root(message) {
            continue;
        }
        let (code, says) = classify(message);
        let show = match code.id {
            "W-CONFIG-KEY-MISSING" if message.to_lowercase().contains("secret") => "secrets",
            "W-CONFIG-KEY-MISSING" => "configmaps",
            _ => "events",
        };
        let finding = Finding::new(code, ObjectRef::of(Kind::Pod, pod), says);
        let finding = finding.follows(format!("{} can't start", container.words()));
        let finding = finding.next(format!("kubectl -n {} get {show} -o yaml", namespace(pod)));
        all.push(finding.next(pod::edit(s, pod)));
    }
    all
}

fn volumes(s: &Snapshot, pod: &Value) -> Option<Finding> {
    if pod::containers(pod).iter().any(|c| c.runs() || c.ended().is_some()) {
        return None;
    }
    let event = s.event(Kind::Pod, pod, &["FailedMount", "FailedAttachVolume", "FailedMapVolume"])?;
    let message = text(event, "/message");
    let lower = message.to_lowercase();
    let (code, says) = if text(event, "/reason") == "FailedAttachVolume" {
        let many = lower.contains("multi-attach");
        let why = if many { ": another node still has it" } else { "" };
        (&codes::VOLUME_ATTACH, format!("a volume can't be attached to node {}{why}", text(pod, "/spec/nodeName")))
    } else {
        match classify(message) {
            (code, says) if code.id != codes::CONFIG_OTHER.id => (code, says),
            _ if lower.contains("hostpath")
                || lower.contains("is not a directory")
                || lower.contains("is not a file") =>
            {
                (
                    &codes::HOST_PATH,
                    format!("a hostPath isn't as its type says on node {}", text(pod, "/spec/nodeName")),
                )
            }
            _ if lower.contains("driver name") && lower.contains("not found") => (
                &codes::DRIVER_MISSING,
                format!("the storage driver of a volume doesn't run on node {}", text(pod, "/spec/nodeName")),
            ),
            _ => (&codes::VOLUME_MOUNT, format!("a volume can't be mounted on node {}", text(pod, "/spec/nodeName"))),
        }
    };
    let show = format!("kubectl -n {} describe pod {}", namespace(pod), name(pod));
    let finding = Finding::new(code, ObjectRef::of(Kind::Pod, pod), says);
    Some(
        finding
            .detail(format!("the node says: {}", short(message, 300)))
            .follows("its containers can't start")
            .next(show),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubelets_say_of_configuration_has_its_code() {
        for (message, code) in [
            ("couldn't find key k in ConfigMap shop/c", "W-CONFIG-KEY-MISSING"),
            (
                "MountVolume.SetUp failed for volume \"v\" : references non-existent config key: k",
                "W-CONFIG-KEY-MISSING",
            ),
            ("secret \"s\" not found", "W-CONFIG-SECRET-MISSING"),
            ("configmap \"c\" not found", "W-CONFIG-MAP-MISSING"),
            ("failed to sync configmap cache", "W-CONFIG-OTHER"),
        ] {
            assert_eq!(classify(message).0.id, code, "{message}");
        }
    }
}
