//! Containers that run and aren't ready: what their probes asked, and what was answered.

use serde_json::Value;

use super::pod::{self, Container};
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, is_true, items, name, namespace, seconds_since, short, since, text, time};
use crate::snapshot::{ObjectRef, Snapshot};

/// A pod has so long for what normally takes seconds, before it is told of.
pub const PATIENCE_SECONDS: i64 = 20;

/// Tells of readiness and startup probes that fail, of gates, and of init containers that don't end.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for pod in pod::pods(s).filter(|pod| pod::is_bound(pod) && text(pod, "/status/phase") != "Failed") {
        for container in pod::containers(pod).iter().filter(|container| container.runs()) {
            out.extend(running(s, pod, container));
        }
        out.extend(gate(pod));
    }
}

/// What a probe asks, in a line.
pub fn asked(probe: &Value) -> String {
    let port = |path: &str| {
        let port = probe.pointer(path).cloned().unwrap_or_default();
        port.as_str().map_or_else(|| port.to_string(), str::to_string)
    };
    let what = if probe.pointer("/httpGet").is_some() {
        let scheme = text(probe, "/httpGet/scheme");
        let scheme = if scheme.is_empty() { "HTTP" } else { scheme };
        format!("{scheme} GET {} on port {}", text(probe, "/httpGet/path"), port("/httpGet/port"))
    } else if probe.pointer("/tcpSocket").is_some() {
        format!("a TCP connection to port {}", port("/tcpSocket/port"))
    } else if probe.pointer("/grpc").is_some() {
        format!("gRPC health on port {}", port("/grpc/port"))
    } else {
        let words: Vec<&str> = items(probe, "/exec/command").iter().filter_map(Value::as_str).collect();
        if words.is_empty() {
            return String::new();
        }
        format!("the command {:?}", short(&words.join(" "), 120))
    };
    let number = |path: &str, default: i64| int(probe, path).unwrap_or(default);
    format!(
        "asked: {what}; every {} s, with {} s for an answer, {} failures in a row are too many",
        number("/periodSeconds", 10),
        number("/timeoutSeconds", 1),
        number("/failureThreshold", 3)
    )
}

/// The latest failure of a container's probe.
fn failure<'a>(s: &'a Snapshot, pod: &'a Value, container: &Container<'_>, kind: &str) -> Option<&'a Value> {
    let field = format!("{{{}}}", container.name);
    s.events(Kind::Pod, pod).find(|event| {
        let about = text(event, "/involvedObject/fieldPath");
        text(event, "/reason") == "Unhealthy"
            && text(event, "/message").starts_with(kind)
            && (about.is_empty() || about.contains(&field))
    })
}

fn running(s: &Snapshot, pod: &Value, container: &Container<'_>) -> Option<Finding> {
    let started = time(container.status, "/state/running/startedAt");
    let age = seconds_since(started, s.now);
    let object = ObjectRef::of(Kind::Pod, pod);
    let words = container.words();
    if container.is_init {
        if age < 3 * PATIENCE_SECONDS {
            return None;
        }
        let says =
            format!("{words} has been running for {} and must end before the others start", since(started, s.now));
        return Some(
            Finding::new(&codes::INIT_RUNNING, object, says)
                .details(pod::last_words(s, pod, container))
                .follows("the containers after it don't start")
                .next(pod::log_command(pod, container, false)),
        );
    }
    if is_true(container.status, "/ready") {
        return None;
    }
    let has_started = container.status.pointer("/started").and_then(Value::as_bool).unwrap_or(true);
    let (code, kind, probe) = if has_started {
        (&codes::PROBE_READINESS, "Readiness", container.spec.pointer("/readinessProbe"))
    } else {
        (&codes::PROBE_STARTUP, "Startup", container.spec.pointer("/startupProbe"))
    };
    let (probe, failed) = (probe?, failure(s, pod, container, kind));
    // It may just not have been asked yet.
    let initial = int(probe, "/initialDelaySeconds").unwrap_or(0);
    if failed.is_none() && age < PATIENCE_SECONDS.saturating_add(initial) {
        return None;
    }
    let says = format!("{words} runs, and its {} probe fails", kind.to_lowercase());
    let answer = failed.map_or(String::new(), |event| format!("the answer: {}", short(text(event, "/message"), 200)));
    let follows = match kind {
        "Readiness" => "it gets no requests from Services",
        _ => "the pod isn't ready, and the container is ended when the probe has failed too often",
    };
    Some(
        Finding::new(code, object, says)
            .detail(asked(probe))
            .detail(answer)
            .details(pod::last_words(s, pod, container))
            .follows(follows)
            .next(pod::log_command(pod, container, false)),
    )
}

fn gate(pod: &Value) -> Option<Finding> {
    if !object::has_condition(pod, "ContainersReady", "True") {
        return None;
    }
    let gates = items(pod, "/spec/readinessGates").iter().map(|gate| text(gate, "/conditionType"));
    let closed = gates.into_iter().find(|gate| !object::has_condition(pod, gate, "True"))?;
    let condition = object::condition(pod, closed);
    let said = condition.map_or("nobody has set it", |c| text(c, "/message"));
    let says = format!("its readiness gate {closed:?} isn't open");
    Some(
        Finding::new(&codes::READINESS_GATE, ObjectRef::of(Kind::Pod, pod), says)
            .detail(short(said, 200))
            .follows("it gets no requests, though all its containers are ready")
            .next(format!("kubectl -n {} get pod {} -o yaml", namespace(pod), name(pod))),
    )
}
