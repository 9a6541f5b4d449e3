//! Containers that don't start: sandboxes, commands, users, hooks.

use serde_json::Value;

use super::pod::{self, Container};
use super::{images, is_recent};
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{is_true, items, name, namespace, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of pods and containers that their node can't start.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for pod in pod::pods(s).filter(|pod| pod::is_bound(pod)) {
        sandbox(s, pod, out);
        for container in pod::containers(pod) {
            if let Some(finding) = container_start(s, pod, &container) {
                out.push(finding);
            }
        }
    }
}

fn sandbox(s: &Snapshot, pod: &Value, out: &mut Vec<Finding>) {
    let started = pod::containers(pod).iter().any(|c| c.ended().is_some() || c.runs());
    let Some(event) = s.event(Kind::Pod, pod, &["FailedCreatePodSandBox"]).filter(|_| !started) else { return };
    let object = ObjectRef::of(Kind::Pod, pod);
    let says = format!("node {} can't make its sandbox (network, namespaces)", text(pod, "/spec/nodeName"));
    out.push(
        Finding::new(&codes::SANDBOX, object, says)
            .detail(format!("the node says: {}", short(text(event, "/message"), 300)))
            .follows("none of its containers can start")
            .next(format!("kubectl describe node {}", text(pod, "/spec/nodeName"))),
    );
}

fn container_start(s: &Snapshot, pod: &Value, container: &Container<'_>) -> Option<Finding> {
    let object = ObjectRef::of(Kind::Pod, pod);
    let words = container.words();
    let ended = container.ended();
    let (reason, message) = match container.waiting() {
        Some((reason, message))
            if ["RunContainerError", "CreateContainerError", "PostStartHookError"].contains(&reason) =>
        {
            (reason.to_string(), message.to_string())
        }
        Some((reason @ "CreateContainerConfigError", message)) if refuses_root(message) => {
            (reason.to_string(), message.to_string())
        }
        _ => {
            let ended = ended?;
            let reason = text(ended, "/reason");
            if !["StartError", "ContainerCannotRun"].contains(&reason) {
                return hook(s, pod, container);
            }
            (reason.into(), text(ended, "/message").into())
        }
    };
    if reason == "PostStartHookError" {
        return hook(s, pod, container);
    }
    let lower = message.to_lowercase();
    let command = command(container.spec);
    let (code, says) = if refuses_root(&message) {
        (&codes::ROOT_REFUSED, format!("{words} would run as root, which runAsNonRoot forbids"))
    } else if images::is_foreign_program(&message) {
        let image = text(container.spec, "/image");
        (&codes::IMAGE_PLATFORM, format!("image {image:?} of {words} is made for another processor"))
    } else if ["no such file", "not found", "enoent"].iter().any(|word| lower.contains(word)) {
        (&codes::START_COMMAND, format!("{words} can't start: its image has no program {command}"))
    } else if ["permission denied", "eacces"].iter().any(|word| lower.contains(word)) {
        (&codes::START_PERMISSION, format!("{words} can't start: {command} may not be executed"))
    } else {
        (&codes::START_FAILED, format!("{words} can't be started"))
    };
    let finding = Finding::new(code, object, says).detail(format!("the runtime says: {}", short(&message, 300)));
    Some(finding.follows(format!("{words} is tried again, less and less often")).next(pod::edit(s, pod)))
}

pub fn refuses_root(message: &str) -> bool {
    message.contains("runAsNonRoot") || message.contains("will run as root")
}

/// The program that a container runs, as far as its spec says.
fn command(spec: &Value) -> String {
    let word = items(spec, "/command").first().or_else(|| items(spec, "/args").first()).and_then(Value::as_str);
    word.map_or_else(|| "that it names".into(), |word| format!("{:?}", short(word, 80)))
}

fn hook(s: &Snapshot, pod: &Value, container: &Container<'_>) -> Option<Finding> {
    if is_true(container.status, "/ready") {
        return None;
    }
    let event = s.event(Kind::Pod, pod, &["FailedPostStartHook"]).filter(|event| is_recent(s, event))?;
    let about = text(event, "/involvedObject/fieldPath");
    if !about.is_empty() && !about.contains(&format!("{{{}}}", container.name)) {
        return None;
    }
    let words = container.words();
    let says = format!("the postStart hook of {words} fails");
    let finding = Finding::new(&codes::START_HOOK, ObjectRef::of(Kind::Pod, pod), says);
    let finding = finding.detail(format!("the node says: {}", short(text(event, "/message"), 300)));
    let next = format!("kubectl -n {} describe pod {}", namespace(pod), name(pod));
    Some(finding.follows(format!("{words} is ended and started again")).next(next))
}
