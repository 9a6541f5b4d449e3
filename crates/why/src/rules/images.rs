//! Images that can't be had.

use serde_json::Value;

use super::pod::{self, Container};
use crate::codes::{self, Code};
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{items, name, namespace, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

const WAITING: [&str; 9] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "ErrImagePullBackOff",
    "ErrImageInspect",
];

/// Tells of images that can't be had, and of pull secrets that aren't there.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for pod in pod::pods(s) {
        let missing = missing_pull_secrets(s, pod);
        let mut pulls = false;
        for container in pod::containers(pod) {
            let Some((reason, message)) = container.waiting().filter(|(reason, _)| WAITING.contains(reason)) else {
                continue;
            };
            pulls = true;
            out.push(refused(s, pod, &container, reason, message, &missing));
        }
        if let (false, [first, ..]) = (pulls, &missing[..]) {
            let says = format!("its pull secret {first:?} doesn't exist");
            out.push(
                Finding::new(&codes::PULL_SECRET, ObjectRef::of(Kind::Pod, pod), says)
                    .follows("images that need credentials can't be pulled where the node hasn't got them")
                    .next(format!("kubectl -n {} get secrets", namespace(pod))),
            );
        }
    }
}

fn missing_pull_secrets<'a>(s: &Snapshot, pod: &'a Value) -> Vec<&'a str> {
    let secrets = items(pod, "/spec/imagePullSecrets").iter().map(|secret| text(secret, "/name"));
    secrets.filter(|secret| !secret.is_empty() && s.lacks(Kind::Secret, namespace(pod), secret)).collect()
}

/// What a registry or a runtime said of an image, as a code and in words.
fn classify(answer: &str) -> (&'static Code, &'static str) {
    let answer = answer.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| answer.contains(word));
    if says(&["toomanyrequests", "too many requests", "rate limit", "429"]) {
        return (&codes::IMAGE_RATE_LIMIT, "the registry has answered too many requests from here");
    }
    if says(&["x509", "certificate", "http response to https", "tls:", "handshake"]) {
        return (&codes::IMAGE_TLS, "the registry's certificate isn't trusted, or it doesn't speak TLS");
    }
    let unreachable = [
        "no such host",
        "connection refused",
        "timeout",
        "timed out",
        "dns error",
        "unreachable",
        "no route to host",
        "deadline exceeded",
        "error sending request",
        "connection reset",
        "failed to lookup",
        "no record",
        "502 bad",
        "503 service",
        "error trying to connect",
    ];
    if says(&unreachable) {
        return (&codes::IMAGE_REGISTRY, "the registry can't be reached from the node");
    }
    if says(&["no space left", "disk quota"]) {
        return (&codes::IMAGE_DISK, "the node has no room for it");
    }
    if says(&[
        "no match for platform",
        "no image for platform",
        "for this platform",
        "no matching manifest",
        "platform",
    ]) {
        return (&codes::IMAGE_PLATFORM, "there is none for the node's processor");
    }
    if says(&["unauthorized", "denied", "forbidden", "authentication required", "no basic auth", "401", "403"]) {
        return (
            &codes::IMAGE_DENIED,
            "the registry doesn't give it without other credentials, or has no such repository",
        );
    }
    if says(&[
        "manifest unknown",
        "manifest_unknown",
        "name unknown",
        "name_unknown",
        "not found",
        "404",
        "does not exist",
    ]) {
        return (&codes::IMAGE_NOT_FOUND, "the registry has no such image or tag");
    }
    (&codes::IMAGE_PULL, "the pull fails")
}

fn refused(
    s: &Snapshot,
    pod: &Value,
    container: &Container<'_>,
    reason: &str,
    message: &str,
    missing: &[&str],
) -> Finding {
    let image = text(container.spec, "/image");
    let object = ObjectRef::of(Kind::Pod, pod);
    let told = |event: &&Value| {
        let message = text(event, "/message");
        message.contains(image) && !message.starts_with("Back-off") && !message.starts_with("Error:")
    };
    let event = s.events(Kind::Pod, pod).filter(|event| text(event, "/reason") == "Failed").find(told);
    let answer = event.map_or(message, |event| text(event, "/message"));
    let whole = format!("{message} {answer}");
    let (code, why) = match reason {
        "InvalidImageName" => (&codes::IMAGE_NAME, "its name isn't one"),
        "ErrImageNeverPull" => {
            (&codes::IMAGE_NEVER, "it isn't on the node, and imagePullPolicy Never forbids to pull it")
        }
        _ => classify(&whole),
    };
    let words = container.words();
    let mut finding = Finding::new(code, object, format!("image {image:?} of {words} can't be had: {why}"))
        .detail(format!("node {} was told: {}", text(pod, "/spec/nodeName"), short(answer, 300)))
        .follows(format!("{words} can't start"));
    if let Some(secret) = missing.first() {
        finding = finding.detail(format!("its pull secret {secret:?} doesn't exist"));
    } else if code.id == codes::IMAGE_DENIED.id && items(pod, "/spec/imagePullSecrets").is_empty() {
        finding = finding.detail("the pod names no imagePullSecrets");
    }
    if code.id == codes::IMAGE_PLATFORM.id {
        let node = s.get(Kind::Node, "", text(pod, "/spec/nodeName"));
        let platform = node.map_or("", |node| text(node, "/status/nodeInfo/architecture"));
        finding = finding.detail(format!("the node's architecture is {platform}"));
    }
    finding.next(next(s, pod, container, code))
}

fn next(s: &Snapshot, pod: &Value, container: &Container<'_>, code: &Code) -> String {
    let (space, owner) = (namespace(pod), pod::owner(s, pod));
    let object = format!("{}/{}", owner.kind.word(), owner.name);
    match code.id {
        "W-IMAGE-DENIED" | "W-IMAGE-RATE-LIMIT" => format!(
            "kubectl -n {space} create secret docker-registry NAME --docker-server=HOST --docker-username=USER --docker-password=…  (and name it in imagePullSecrets)"
        ),
        "W-IMAGE-REGISTRY" | "W-IMAGE-TLS" | "W-IMAGE-DISK" => {
            format!("kubectl describe node {}", text(pod, "/spec/nodeName"))
        }
        "W-IMAGE-PULL" => format!("kubectl -n {space} describe pod {}", name(pod)),
        _ => format!("kubectl -n {space} set image {object} {}=IMAGE:TAG", container.name),
    }
}

/// The image's platform is wrong, by what the kernel says of its program.
pub fn is_foreign_program(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("exec format error") || message.contains("enoexec")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_registries_and_runtimes_are_told_apart() {
        for (answer, code) in [
            ("docker.io/library/nginx:nosuch: not found", "W-IMAGE-NOT-FOUND"),
            ("the registry says 404 Not Found: MANIFEST_UNKNOWN", "W-IMAGE-NOT-FOUND"),
            ("pull access denied, repository does not exist or may require authorization", "W-IMAGE-DENIED"),
            ("unexpected status 401 Unauthorized", "W-IMAGE-DENIED"),
            ("toomanyrequests: You have reached your pull rate limit", "W-IMAGE-RATE-LIMIT"),
            ("no match for platform in manifest: not found", "W-IMAGE-PLATFORM"),
            ("dial tcp: lookup registry.invalid: no such host", "W-IMAGE-REGISTRY"),
            ("http: server gave HTTP response to HTTPS client", "W-IMAGE-TLS"),
            ("write /var/lib: no space left on device", "W-IMAGE-DISK"),
            ("something else", "W-IMAGE-PULL"),
        ] {
            assert_eq!(classify(answer).0.id, code, "{answer}");
        }
    }
}
