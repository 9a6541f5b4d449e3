//! Fixtures: what is wrong in small snapshots. A case begins with `## CODE OBJECT`: what comes first in the answer.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::codes::{self, Severity};
use crate::kinds::{Kind, RESOURCES};
use crate::snapshot::{Coverage, LogOf, ObjectRef, Snapshot};
use crate::{judge, report};

const FIXTURES: [&str; 4] = [
    include_str!("../testdata/pods.yaml"),
    include_str!("../testdata/scheduling.yaml"),
    include_str!("../testdata/cluster.yaml"),
    include_str!("../testdata/ways.yaml"),
];
const HEALTHY: &str = include_str!("../testdata/healthy.yaml");

fn now() -> Timestamp {
    "2026-12-01T12:00:00Z".parse().unwrap()
}

/// What every snapshot has.
fn base() -> Vec<Value> {
    vec![
        json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}, "nodeInfo": {"kubeletVersion": "v1.37.0"},
                       "conditions": [{"type": "Ready", "status": "True"}]}}),
        json!({"kind": "Namespace", "metadata": {"name": "shop"}}),
        json!({"kind": "StorageClass", "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "timonel.io/local-path", "volumeBindingMode": "WaitForFirstConsumer"}),
    ]
}

fn snapshot(yaml: &str, with_base: bool) -> Snapshot {
    let mut s = Snapshot::new(now());
    s.version = "v1.37.0".into();
    let documents = apimachinery::yaml::all(yaml.as_bytes(), bounded::Limits::FILE).unwrap();
    let mut objects = if with_base { base() } else { Vec::new() };
    for document in documents.into_iter().map(|document| document.value).filter(|value| !value.is_null()) {
        if document["kind"] == "Log" {
            let word = |key: &str| document[key].as_str().unwrap().to_string();
            let log = LogOf {
                namespace: word("namespace"),
                pod: word("pod"),
                container: word("container"),
                previous: document["previous"] == true,
            };
            s.logs.insert(log, word("text"));
            continue;
        }
        objects.push(document);
    }
    for resource in &RESOURCES {
        let mut own: Vec<Value> = objects.iter().filter(|object| object["kind"] == resource.name).cloned().collect();
        for object in &mut own {
            if resource.namespaced && object["metadata"]["namespace"].is_null() {
                object["metadata"]["namespace"] = "shop".into();
            }
            if object["metadata"]["creationTimestamp"].is_null() {
                object["metadata"]["creationTimestamp"] = "2026-12-01T11:00:00Z".into();
            }
        }
        s.put(resource.kind, Coverage::All, own);
    }
    s
}

/// The cases of all fixtures: code, object, YAML.
fn cases() -> Vec<(String, String, String)> {
    let mut all: Vec<(String, String, String)> = Vec::new();
    for line in FIXTURES.iter().flat_map(|fixture| fixture.lines()) {
        match line.strip_prefix("## ") {
            Some(head) => {
                let (code, object) = head.split_once(' ').unwrap();
                all.push((code.into(), object.into(), String::new()));
            }
            None => {
                let case = all.last_mut().unwrap();
                case.2.push_str(line);
                case.2.push('\n');
            }
        }
    }
    all
}

#[test]
fn what_is_wrong_first_comes_first() {
    let mut failures = Vec::new();
    for (code, object, yaml) in cases() {
        let s = snapshot(&yaml, true);
        let report = judge(&s, &[], true);
        let is_hint = codes::find(&code).unwrap_or_else(|| panic!("{code} is no code")).severity == Severity::Hint;
        let found: Vec<(String, String)> = if is_hint {
            report.hints.iter().map(|f| (f.code.id.to_string(), f.object.to_string())).collect()
        } else {
            report.causes.iter().map(|c| (c.finding.code.id.to_string(), c.finding.object.to_string())).collect()
        };
        let fits = if is_hint {
            found.contains(&(code.clone(), object.clone()))
        } else {
            found.first() == Some(&(code.clone(), object.clone()))
        };
        if !fits {
            failures.push(format!("{code} {object}: found {found:?}"));
        }
        if is_hint && !report.causes.is_empty() {
            failures.push(format!(
                "{code} {object}: a hint, and something is wrong: {:?}",
                report.causes.first().map(|c| &c.finding)
            ));
        }
        let text = report.text(report::Colours { on: false });
        if !is_hint && !text.lines().next().is_some_and(|first| first.contains(&code) && first.contains(&object)) {
            failures.push(format!("{code}: the first line doesn't name it: {text}"));
        }
        if let Some(cause) =
            report.causes.first().filter(|cause| cause.finding.next.is_empty() && cause.finding.because.is_empty())
        {
            failures.push(format!("{code}: no next command: {:?}", cause.finding));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn nearly_every_code_has_a_fixture() {
    // Those of the machine, of answers of the API that `rules/admission.rs` tests in a table, and of pairs of pods.
    let elsewhere = [
        "W-MACHINE-",
        "W-CERTIFICATE-",
        "W-WEBHOOK-DOWN",
        "W-WEBHOOK-DENIED",
        "W-POLICY-DENIED",
        "W-POD-SECURITY",
        "W-LIMIT-RANGE",
        "W-SERVICE-ACCOUNT-MISSING",
        "W-PRIORITY-CLASS-MISSING",
        "W-RUNTIME-CLASS-MISSING",
        "W-CREATE-FAILED",
        "W-NETPOL-CUT",
        // These follow from others, which come before them, or have a test of their own below.
        "W-CLAIM-PENDING",
        "W-CLAIM-NO-CLASS",
        "W-VOLUME-NODE-DOWN",
        "W-SCHED-NO-NODES",
        "W-SERVICE-NOT-READY",
        "W-INGRESS-BACKEND",
        "W-CRONJOB-FAILED",
    ];
    let cases = cases();
    let untested = codes::ALL.iter().map(|code| code.id).filter(|id| !cases.iter().any(|(code, ..)| code == id));
    let untested: Vec<&str> = untested.filter(|id| !elsewhere.iter().any(|e| id.starts_with(e))).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

#[test]
fn a_healthy_cluster_gives_no_alarm() {
    let s = snapshot(HEALTHY, true);
    let report = judge(&s, &[], false);
    assert!(report.is_healthy(), "{}", report.text(report::Colours { on: false }));
    for (kind, name) in [(Kind::Service, "web"), (Kind::Deployment, "web"), (Kind::Pod, "web-a")] {
        let report = judge(&s, &[ObjectRef::new(kind, "shop", name)], false);
        assert!(report.is_healthy() && !report.state.is_empty(), "{}", report.text(report::Colours { on: false }));
    }
}

#[test]
fn consequences_stand_under_their_cause() {
    let (_, _, yaml) = cases().into_iter().find(|(code, ..)| code == "W-PROBE-READINESS").unwrap();
    let report = judge(&snapshot(&yaml, true), &[ObjectRef::new(Kind::Ingress, "shop", "a")], false);
    assert_eq!(report.causes.len(), 1, "{:?}", report.causes);
    let follows: Vec<&str> = report.causes[0].consequences.iter().map(|f| f.code.id).collect();
    assert_eq!(follows, ["W-SERVICE-NOT-READY", "W-INGRESS-BACKEND"]);
    let (_, _, yaml) = cases().into_iter().find(|(code, ..)| code == "W-CLAIM-CLASS-MISSING").unwrap();
    let report = judge(&snapshot(&yaml, true), &[ObjectRef::new(Kind::Pod, "shop", "a")], false);
    assert_eq!(report.causes[0].finding.code.id, "W-CLAIM-CLASS-MISSING");
    assert_eq!(report.causes[0].consequences[0].code.id, "W-CLAIM-PENDING");
}

#[test]
fn asked_about_a_node_only_what_is_because_of_it_is_told() {
    let case = |wanted: &str| cases().into_iter().find(|(code, ..)| code == wanted).unwrap().2;
    let node = [ObjectRef::new(Kind::Node, "", "n1")];
    assert!(judge(&snapshot(&case("W-PROBE-READINESS"), true), &node, false).is_healthy());
    let report = judge(&snapshot(&case("W-NODE-LOST"), true), &node, false);
    assert_eq!(report.causes.len(), 1);
    let follows: Vec<&str> = report.causes[0].consequences.iter().map(|f| f.code.id).collect();
    assert_eq!(follows, ["W-POD-WAITING", "W-SERVICE-NOT-READY"]);
}

#[test]
fn a_webhook_without_its_service_explains_the_pods_that_arent_made() {
    let yaml = "
{kind: ValidatingWebhookConfiguration, metadata: {name: w}, webhooks: [{name: a.example.com, failurePolicy: Fail, clientConfig: {service: {namespace: shop, name: hook}}}]}
---
{kind: ReplicaSet, metadata: {name: a}, spec: {replicas: 1}, status: {replicas: 0}}
---
{kind: Event, metadata: {name: e}, involvedObject: {apiVersion: apps/v1, kind: ReplicaSet, name: a, namespace: shop}, reason: FailedCreate, message: 'Error creating: Internal error occurred: failed calling webhook \"a.example.com\": failed to call webhook: no endpoints', lastTimestamp: \"2026-12-01T11:59:30Z\"}
";
    let report = judge(&snapshot(yaml, true), &[ObjectRef::new(Kind::ReplicaSet, "shop", "a")], false);
    assert_eq!(report.causes[0].finding.code.id, "W-WEBHOOK-NO-SERVICE", "{:?}", report.causes);
    let follows: Vec<&str> = report.causes[0].consequences.iter().map(|f| f.code.id).collect();
    assert_eq!(follows, ["W-WEBHOOK-DOWN", "W-REPLICAS-MISSING"]);
}

#[test]
fn what_may_not_be_seen_is_said_and_not_guessed() {
    let (_, _, yaml) = cases().into_iter().find(|(code, ..)| code == "W-CONFIG-SECRET-MISSING").unwrap();
    let mut s = snapshot(&yaml, true);
    s.put(Kind::Secret, Coverage::Unseen("you may not list secrets in namespace shop".into()), Vec::new());
    s.put(
        Kind::ServiceAccount,
        Coverage::Unseen("you may not list serviceaccounts in namespace shop".into()),
        Vec::new(),
    );
    let report = judge(&s, &[], false);
    let text = report.text(report::Colours { on: false });
    assert!(!text.contains("W-CONFIG-SECRET-MISSING"), "{text}");
    assert!(text.contains("  you may not list secrets, serviceaccounts in namespace shop"), "{text}");
}

#[test]
fn policies_are_simulated_for_a_pair_of_pods() {
    let yaml = "
{kind: Pod, metadata: {name: a, labels: {app: a}}, status: {podIP: 10.0.0.1}}
---
{kind: Pod, metadata: {name: b, labels: {app: b}}, spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}, status: {podIP: 10.0.0.2}}
---
{kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}], ports: [{port: http}]}]}}
";
    let mut s = snapshot(yaml, true);
    let cut = |s: &Snapshot, port: i64| {
        let pod = |name: &str| s.get(Kind::Pod, "shop", name).unwrap();
        crate::rules::cut(s, pod("a"), pod("b"), "TCP", port).map(|finding| finding.says)
    };
    assert!(
        cut(&s, 8080).is_some_and(|says| says.contains("network policy \"p\"") && says.contains("into Pod shop/b"))
    );
    s.put(Kind::NetworkPolicy, Coverage::All, vec![json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {
        "podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": "http"}]}]}})]);
    assert_eq!(cut(&s, 8080), None);
    assert!(cut(&s, 81).is_some());
}

#[test]
fn figures_of_the_machine_are_judged() {
    let mut s = snapshot("", true);
    let certificate = |days: i64| crate::machine::Certificate {
        file: "apiserver.crt".into(),
        issued: now() - jiff::SignedDuration::from_hours(24 * 350),
        expires: now() + jiff::SignedDuration::from_hours(24 * days),
    };
    s.machine = Some(crate::machine::Machine {
        node: "n1".into(),
        disk: Some((1 << 20, 1 << 40)),
        inotify: Some((128, 128)),
        files: Some((99, 100)),
        forwards: Some(false),
        missing_modules: vec!["overlay".into()],
        clock_unsynchronized: true,
        certificates: vec![certificate(-1), certificate(5), certificate(300)],
        ..crate::machine::Machine::default()
    });
    let report = judge(&s, &[], false);
    let text = report.text(report::Colours { on: false });
    for code in [
        "W-MACHINE-DISK",
        "W-MACHINE-INOTIFY",
        "W-MACHINE-FILES",
        "W-MACHINE-FORWARDING",
        "W-MACHINE-MODULES",
        "W-MACHINE-CLOCK",
        "W-CERTIFICATE-EXPIRED",
        "W-CERTIFICATE-EXPIRES",
    ] {
        assert!(text.contains(code), "{code} isn't in {text}");
    }
}

#[test]
fn a_cluster_without_nodes_or_classes_says_so() {
    let yaml = "
{kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: x}]}, status: {phase: Pending, conditions: [{type: PodScheduled, status: \"False\"}]}}
---
{kind: PersistentVolumeClaim, metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}, status: {phase: Pending}}
";
    let report = judge(&snapshot(yaml, false), &[], false);
    let codes: Vec<&str> = report.causes.iter().map(|c| c.finding.code.id).collect();
    assert_eq!(codes, ["W-CLAIM-NO-CLASS", "W-SCHED-NO-NODES"]);
}

#[test]
fn control_characters_of_objects_arent_printed() {
    assert_eq!(report::printable("a\x1b[2Jb\rc\nd"), "a [2Jb c\nd");
}
