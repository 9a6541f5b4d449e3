//! Containers that ended: out of memory, by a signal, with a code, or because they had nothing more to do.

use serde_json::Value;

use super::images;
use super::pod::{self, Container};
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{int, is_true, name, namespace, seconds_since, short, since, text, time};
use crate::snapshot::{LogOf, ObjectRef, Snapshot};

/// For so long after a container's last end restarts are told of.
const RECENT_SECONDS: i64 = 3600;

/// For so long after it a container that a probe ended counts as one that will be ended again.
const PROBE_SECONDS: i64 = 300;

/// Tells of containers that ended and shouldn't have.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for pod in pod::pods(s).filter(|pod| text(pod, "/status/reason") != "Evicted") {
        for container in pod::containers(pod) {
            if let Some(finding) = ended(s, pod, &container) {
                out.push(finding);
            }
        }
    }
}

/// The logs that tell most of what is wrong: of containers that ended, and of those that aren't ready.
pub fn wanted_logs(s: &Snapshot, limit: usize) -> Vec<LogOf> {
    let mut all = Vec::new();
    for pod in pod::pods(s).filter(|pod| pod::is_bound(pod)) {
        for container in pod::containers(pod) {
            let failed = container.ended().is_some_and(|ended| int(ended, "/exitCode") != Some(0));
            let unready = container.runs() && !is_true(container.status, "/ready");
            let crashes = container.restarts() > 0 && !is_true(container.status, "/ready");
            let log = |previous| LogOf {
                namespace: namespace(pod).into(),
                pod: name(pod).into(),
                container: container.name.into(),
                previous,
            };
            if failed || unready || crashes {
                all.push(log(false));
            }
            if container.restarts() > 0 && (failed || crashes) {
                all.push(log(true));
            }
        }
    }
    all.truncate(limit);
    all
}

/// Whether this end of a container is one that its pod didn't want.
fn is_wrong(pod: &Value, container: &Container<'_>, ended: &Value) -> bool {
    let again = container.is_sidecar || text(pod, "/spec/restartPolicy") != "Never";
    let code = int(ended, "/exitCode").unwrap_or(0);
    if container.is_init {
        return code != 0;
    }
    code != 0 || (again && text(pod, "/spec/restartPolicy") == "Always")
}

fn ended(s: &Snapshot, pod: &Value, container: &Container<'_>) -> Option<Finding> {
    let ended = container.ended()?;
    let reason = text(ended, "/reason");
    if ["StartError", "ContainerCannotRun"].contains(&reason) || !is_wrong(pod, container, ended) {
        return None;
    }
    let waits = container.waiting().is_some_and(|(reason, _)| reason == "CrashLoopBackOff");
    let is_down = waits || container.status.pointer("/state/terminated").is_some_and(|t| !t.is_null());
    let unready = !is_true(container.status, "/ready") && !container.is_init;
    let finished = time(ended, "/finishedAt");
    if !is_down && !unready {
        let probe = probe_kill(s, pod, container).filter(|_| seconds_since(finished, s.now) < PROBE_SECONDS);
        return probe.or_else(|| restarts(s, pod, container, finished));
    }
    // An init container that succeeded after a failure.
    if container.is_init && int(container.status, "/state/terminated/exitCode") == Some(0) {
        return None;
    }
    let mut finding = cause(s, pod, container, ended)?;
    finding.details.extend(clock(s, container, waits, finished));
    finding.details.extend(pod::last_words(s, pod, container));
    let owner = pod::owner(s, pod);
    let follows = if text(pod, "/spec/restartPolicy") == "Never" || owner.kind == Kind::Job {
        "the pod has failed"
    } else if container.is_init {
        "the containers after it don't start"
    } else {
        "it is started again, less and less often"
    };
    let previous = container.runs() || waits;
    Some(finding.follows(follows).next(pod::log_command(pod, container, previous)))
}

/// What its ends have in common with a clock: how often, and when it is tried again.
fn clock(s: &Snapshot, container: &Container<'_>, waits: bool, finished: Option<jiff::Timestamp>) -> Option<String> {
    let restarts = container.restarts();
    let ended = since(finished, s.now);
    let backoff = container.waiting().map_or("", |(_, message)| message);
    let delay =
        backoff.split_whitespace().find(|word| word.ends_with('s') && word.starts_with(|c: char| c.is_ascii_digit()));
    match (waits, delay) {
        (true, Some(delay)) => Some(format!(
            "started again {restarts} times; it ended {ended} ago and waits {delay} before the next start"
        )),
        (true, None) => {
            Some(format!("started again {restarts} times; it ended {ended} ago and waits for the next start"))
        }
        _ if restarts > 0 => Some(format!("started again {restarts} times; it ended {ended} ago")),
        _ => Some(format!("it ended {ended} ago")),
    }
}

fn cause(s: &Snapshot, pod: &Value, container: &Container<'_>, ended: &Value) -> Option<Finding> {
    let object = ObjectRef::of(Kind::Pod, pod);
    let words = container.words();
    let code = int(ended, "/exitCode").unwrap_or(0);
    let signal = int(ended, "/signal")
        .filter(|signal| *signal > 0)
        .or((129..=192).contains(&code).then_some(code.saturating_sub(128)));
    if text(ended, "/reason") == "OOMKilled" {
        let limit = text(container.spec, "/resources/limits/memory");
        let says = match limit {
            "" => format!("{words} was killed: the node, or the pod, had no memory left"),
            limit => format!("{words} was killed: it used more memory than its limit of {limit}"),
        };
        return Some(Finding::new(&codes::OOM, object, says).next(pod::edit(s, pod)));
    }
    if let Some(probe) = probe_kill(s, pod, container) {
        return Some(probe);
    }
    if code == 0 {
        let says = format!("{words} ended with exit code 0, and restartPolicy Always starts it again");
        return Some(
            Finding::new(&codes::EXIT_COMPLETED, object, says)
                .detail("a server must stay in the foreground; what is meant to end belongs into a Job"),
        );
    }
    let log = [false, true]
        .iter()
        .filter_map(|previous| s.log(pod, container.name, *previous))
        .collect::<Vec<_>>()
        .join("\n");
    if images::is_foreign_program(&log) {
        let says = format!("image {:?} of {words} is made for another processor", text(container.spec, "/image"));
        return Some(Finding::new(&codes::IMAGE_PLATFORM, object, says));
    }
    match (code, signal) {
        (127, _) => {
            let says = format!("{words} ended with exit code 127: its command wasn't found");
            Some(Finding::new(&codes::START_COMMAND, object, says).next(pod::edit(s, pod)))
        }
        (126, _) => {
            let says = format!("{words} ended with exit code 126: its command may not be executed");
            Some(Finding::new(&codes::START_PERMISSION, object, says).next(pod::edit(s, pod)))
        }
        (_, Some(signal)) => {
            let says = format!("{words} was ended by signal {signal}{}", signal_name(signal));
            Some(Finding::new(&codes::EXIT_SIGNAL, object, says))
        }
        _ => {
            let message = short(text(ended, "/message"), 120);
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            Some(Finding::new(&codes::EXIT_CODE, object, format!("{words} ended with exit code {code}{message}")))
        }
    }
}

fn signal_name(signal: i64) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        4 => " (SIGILL: an instruction that this processor hasn't got)",
        6 => " (SIGABRT: it gave up by itself)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL: from outside, or it didn't end in time)",
        11 => " (SIGSEGV: a fault of the program)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM: it was asked to end)",
        31 => " (SIGSYS: a system call that its seccomp profile forbids)",
        _ => "",
    }
}

/// A liveness or startup probe that ended the container.
fn probe_kill(s: &Snapshot, pod: &Value, container: &Container<'_>) -> Option<Finding> {
    let field = format!("{{{}}}", container.name);
    let about = |event: &&Value| text(event, "/involvedObject/fieldPath").contains(&field);
    let killed = s
        .events(Kind::Pod, pod)
        .filter(about)
        .find(|event| text(event, "/reason") == "Killing" && text(event, "/message").contains("probe"))?;
    let startup = text(killed, "/message").contains("startup probe");
    let (code, probe) = if startup { (&codes::PROBE_STARTUP, "startup") } else { (&codes::PROBE_LIVENESS, "liveness") };
    let kind = if startup { "Startup" } else { "Liveness" };
    let answer = s
        .events(Kind::Pod, pod)
        .filter(about)
        .find(|event| text(event, "/reason") == "Unhealthy" && text(event, "/message").starts_with(kind));
    let spec = container.spec.pointer(&format!("/{probe}Probe")).unwrap_or(&Value::Null);
    let words = container.words();
    let finding = Finding::new(
        code,
        ObjectRef::of(Kind::Pod, pod),
        format!("{words} is ended again and again because its {probe} probe fails"),
    );
    let answered = answer.map_or(String::new(), |event| format!("the answer: {}", short(text(event, "/message"), 200)));
    Some(finding.detail(super::probes::asked(spec)).detail(answered).next(pod::edit(s, pod)))
}

fn restarts(
    s: &Snapshot,
    pod: &Value,
    container: &Container<'_>,
    finished: Option<jiff::Timestamp>,
) -> Option<Finding> {
    const MANY: i64 = 3;
    let restarts = container.restarts();
    if restarts < MANY || seconds_since(finished, s.now) > RECENT_SECONDS || container.is_init {
        return None;
    }
    let why = container.ended().map_or("", |ended| text(ended, "/reason"));
    let says = format!(
        "{} was started again {restarts} times, last {} ago ({why})",
        container.words(),
        since(finished, s.now)
    );
    let finding = Finding::new(&codes::RESTARTS, ObjectRef::of(Kind::Pod, pod), says);
    let finding = finding.details(pod::last_words(s, pod, container));
    Some(finding.follows("requests are lost each time").next(pod::log_command(pod, container, true)))
}
