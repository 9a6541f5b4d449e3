//! Pods as a whole: rejected, evicted, out of time, or waiting without a reason that another rule tells.

use serde_json::Value;

use super::pod;
use super::probes::PATIENCE_SECONDS;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{is_true, name, namespace, seconds_since, short, since, text, time};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of pods that have failed as a whole, and of those that aren't ready and of which no other rule has told.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for pod in pod::pods(s) {
        let object = ObjectRef::of(Kind::Pod, pod);
        if text(pod, "/status/phase") == "Failed" {
            out.extend(failed(s, pod));
        } else if !pod::is_ready(pod) && !out.iter().any(|finding| finding.object == object && is_reason(finding)) {
            out.extend(waits(s, pod));
        }
    }
}

fn is_reason(finding: &Finding) -> bool {
    finding.code.severity != codes::Severity::Hint && finding.code.id != codes::PULL_SECRET.id
}

fn failed(s: &Snapshot, pod: &Value) -> Option<Finding> {
    let object = ObjectRef::of(Kind::Pod, pod);
    let (reason, message) = (text(pod, "/status/reason"), text(pod, "/status/message"));
    let node = text(pod, "/spec/nodeName");
    let show = format!("kubectl -n {} get pod {} -o yaml", namespace(pod), name(pod));
    let replaced = "a controller makes another one; this one stays until it is deleted";
    match reason {
        "" => None,
        "Evicted" => Some(
            Finding::new(
                &codes::POD_EVICTED,
                object,
                format!("node {node} evicted it, as the node was short of something"),
            )
            .detail(format!("the node says: {}", short(message, 250)))
            .because(ObjectRef::new(Kind::Node, "", node))
            .follows(replaced)
            .next(format!("kubectl describe node {node}")),
        ),
        "DeadlineExceeded" => Some(
            Finding::new(&codes::POD_DEADLINE, object, "it was active for longer than activeDeadlineSeconds")
                .detail(short(message, 250))
                .follows("its containers were ended")
                .next(pod::edit(s, pod)),
        ),
        _ => Some(
            Finding::new(&codes::POD_REJECTED, object, format!("node {node} doesn't take it: {reason}"))
                .detail(short(message, 250))
                .follows(replaced)
                .next(show),
        ),
    }
}

fn waits(s: &Snapshot, pod: &Value) -> Option<Finding> {
    if !pod::is_bound(pod) {
        return None;
    }
    let containers = pod::containers(pod);
    let scheduled = crate::object::condition(pod, "PodScheduled").and_then(|c| time(c, "/lastTransitionTime"));
    let since_when = scheduled.or_else(|| time(pod, "/metadata/creationTimestamp"));
    let running_since =
        containers.iter().filter(|c| c.runs()).filter_map(|c| time(c.status, "/state/running/startedAt")).max();
    let since_when = since_when.max(running_since);
    if seconds_since(since_when, s.now) < PATIENCE_SECONDS.saturating_mul(2) {
        return None;
    }
    let node = text(pod, "/spec/nodeName");
    let unready = containers.iter().find(|c| !is_true(c.status, "/ready"));
    let reason = unready.and_then(|c| c.waiting()).map_or("", |(reason, _)| reason);
    let state = match (unready, reason) {
        (Some(container), "") => format!("{} isn't ready", container.words()),
        (Some(container), reason) => format!("{} waits ({reason})", container.words()),
        (None, _) => "its containers are ready and the pod isn't".into(),
    };
    let says = format!("it has been on node {node} for {} and {state}", since(since_when, s.now));
    let event = s.events(Kind::Pod, pod).next().map_or(String::new(), |event| {
        format!("the last event: {}: {}", text(event, "/reason"), short(text(event, "/message"), 200))
    });
    Some(
        Finding::new(&codes::POD_WAITING, ObjectRef::of(Kind::Pod, pod), says)
            .detail(event)
            .because(ObjectRef::new(Kind::Node, "", node))
            .next(format!("kubectl -n {} describe pod {}", namespace(pod), name(pod))),
    )
}
