//! Rows of a table of pods: applied at once to a cluster, and each looked at until it is as it should be.

use serde_json::Value;
use testkit::Cluster;

/// What is looked at.
pub enum Look {
    /// What a script prints in the container `c` of a pod that is ready.
    Says(&'static str),
    /// What the container `c` of a pod that is over has printed.
    Printed,
    /// A part of the pod's status, by JSON pointer.
    Status(&'static str),
    /// The message of an event of the pod with this reason.
    Event(&'static str),
}
use Look::{Event, Printed, Says, Status};

/// Name, spec, what is looked at, and what must be seen: all of the text, or with `~` in front a part of it.
pub type Row = (&'static str, &'static str, Look, &'static str);

/// A pod of which the row gives what differs: `{pod}` fields of the spec, `c:` fields of its container.
fn manifest((name, spec, ..): &Row) -> String {
    let (mut of_pod, mut of_container, mut rest) = (String::new(), String::new(), String::new());
    for line in spec.lines().map(str::trim_end).filter(|l| !l.trim().is_empty()) {
        match line.trim_start().strip_prefix("c: ") {
            Some(field) => of_container.push_str(&format!("    {field}\n")),
            None if line.trim_start().starts_with("---") => rest.push_str("---\n"),
            None if !rest.is_empty() => rest.push_str(&format!("{}\n", line.trim_start_matches("    "))),
            None => of_pod.push_str(&format!("  {}\n", line.trim_start())),
        }
    }
    let says = |field: &str| of_container.lines().any(|line| line.trim_start().starts_with(field));
    let command =
        if says("command:") || says("args:") { String::new() } else { "    command: [sleep, '36000']\n".into() };
    let image = if says("image:") { "" } else { "    image: busybox:1.28\n" };
    let grace =
        if of_pod.contains("terminationGracePeriodSeconds") { "" } else { "  terminationGracePeriodSeconds: 0\n" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{row: {name}}}, annotations: {{note: hello}}}}\nspec:\n{grace}{of_pod}  containers:\n  - name: c\n{image}{command}{of_container}{rest}"
    )
}

fn seen(cluster: &Cluster, name: &str, look: &Look) -> anyhow::Result<String> {
    match look {
        Says(script) => {
            let output = cluster.kubectl(&["exec", name, "-c", "c", "--", "sh", "-c", script]);
            Ok(output.stdout + &output.stderr)
        }
        Printed => {
            let phase = cluster.get("pod", name)?["status"]["phase"].as_str().unwrap_or("").to_string();
            anyhow::ensure!(matches!(phase.as_str(), "Succeeded" | "Failed"), "{phase}");
            cluster.ok(&["logs", name, "-c", "c"])
        }
        Status(pointer) => {
            let pod = cluster.get("pod", name)?;
            Ok(match pod["status"].pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            })
        }
        Event(reason) => {
            let select = format!("involvedObject.name={name},reason={reason}");
            cluster.ok(&["get", "events", "--field-selector", &select, "-o", "jsonpath={.items[*].message}"])
        }
    }
}

/// A seccomp profile, as upstream's documentation writes them.
const NO_MKDIR: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}]}"#;

/// Applies all rows at once and looks at each until it is as it should be.
pub fn check(before: &str, rows: &[Row]) -> anyhow::Result<()> {
    let cluster = Cluster::start_prepared(&["--restart-backoff", "1s,2s"], |node| {
        let profiles = node.folder().join("data/agent/seccomp");
        std::fs::create_dir_all(&profiles)?;
        std::fs::write(profiles.join("no-mkdir.json"), NO_MKDIR)?;
        Ok(std::fs::write(profiles.join("bad.json"), r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#)?)
    })?;
    if !before.is_empty() {
        cluster.apply(before)?;
    }
    // What a row names so is the node's, and goes with it.
    let folder = cluster.server.folder().display().to_string();
    let all: Vec<String> = rows.iter().map(|row| manifest(row).replace("FOLDER", &folder)).collect();
    cluster.apply(&all.join("---\n"))?;
    let mut wrong = Vec::new();
    for row in rows {
        let (name, spec, look, expected) = row;
        // On older kernels what is in memory can't be shown to other users: then the container says what it waits for.
        let (look, expected) = match spec.contains("hostUsers: false") && !shows_other_users() {
            true => (&Status("/containerStatuses/0/state/waiting/message"), &"~since Linux 6.3"),
            false => (look, expected),
        };
        let mut last = String::new();
        let came = cluster.eventually(name, || {
            last = seen(&cluster, name, look)?.trim().to_string();
            Ok(match expected.strip_prefix('~') {
                Some(part) => last.contains(part),
                None => last == *expected,
            })
        });
        if came.is_err() {
            let state = seen(&cluster, name, &Status("/containerStatuses/0/state")).unwrap_or_default();
            let why = format!("{name}: {last:?} rather than {expected:?}; its state: {state}");
            // Each takes its time: who watches needn't wait for all of them.
            eprintln!("{why}");
            wrong.push(why);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

/// Whether the kernel's tmpfs takes part in mounts that translate users (mount_setattr(2)).
fn shows_other_users() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3)
}
