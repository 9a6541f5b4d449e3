mod preemption;

use std::sync::Arc;

use informer::{Keyed as _, Pod};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::*;
use crate::filters::WaitingClaim;

/// A cluster, written line by line:
/// `node NAME CPU [label=value…] [taint=KEY] [cordoned]`
/// `pod NAME on NODE cpu=1 priority=0 app=x owner=o started=MINUTE nominated=NODE preempted` and `{JSON}` for the rest of the spec.
fn cluster(text: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "node" => snapshot.put_node(Arc::new(node(&words[1..]))),
            "pod" => {
                let (info, on) = pod(line.strip_prefix("pod ").unwrap());
                snapshot.assume(info.pod.key(), Arc::new(info), &on);
            }
            other => panic!("{other:?} is neither node nor pod"),
        }
    }
    snapshot
}

fn node(words: &[&str]) -> Node {
    let mut labels = json!({"kubernetes.io/hostname": words[0]});
    let mut spec = json!({});
    for word in &words[2..] {
        match word.split_once('=') {
            Some(("taint", key)) => spec["taints"] = json!([{"key": key, "effect": "NoSchedule"}]),
            Some((key, value)) => labels[key] = value.into(),
            None => spec["unschedulable"] = true.into(),
        }
    }
    let node = json!({"metadata": {"name": words[0], "labels": labels}, "spec": spec,
        "status": {"allocatable": {"cpu": words[1], "memory": "4Gi", "pods": "10", "example.com/gpu": "1"}}});
    serde_json::from_value(node).unwrap()
}

fn pod(text: &str) -> (PodInfo, String) {
    let (head, rest) = text.split_once('{').unwrap_or((text, ""));
    let mut spec: Value = if rest.is_empty() { json!({}) } else { serde_json::from_str(&format!("{{{rest}")).unwrap() };
    let mut words = head.split_whitespace();
    let name = words.next().unwrap();
    let (mut labels, mut on, mut owners) = (json!({}), String::new(), json!([]));
    let (mut requests, mut status, mut deleted) = (json!({}), json!({}), Value::Null);
    for word in words {
        match word.split_once('=') {
            Some(("started", minute)) => status["startTime"] = format!("2026-01-01T00:{minute:0>2}:00Z").into(),
            Some(("nominated", node)) => status["nominatedNodeName"] = node.into(),
            None if word == "preempted" => {
                deleted = "2026-01-01T00:00:00Z".into();
                status["conditions"] =
                    json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
            }
            Some(("cpu", amount)) => requests["cpu"] = amount.into(),
            Some(("gpu", amount)) => requests["example.com/gpu"] = amount.into(),
            Some(("priority", number)) => spec["priority"] = number.parse::<i32>().unwrap().into(),
            Some(("owner", uid)) => {
                owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}]);
            }
            Some((key, value)) => labels[key] = value.into(),
            None if word != "on" => on = word.into(),
            None => {}
        }
    }
    spec["containers"] = json!([{"name": "c", "resources": {"requests": requests}}]);
    let metadata = json!({"name": name, "namespace": "n", "labels": labels, "ownerReferences": owners, "deletionTimestamp": deleted});
    let pod = json!({"metadata": metadata, "spec": spec, "status": status});
    (PodInfo::read(Arc::new(serde_json::from_value::<Pod>(pod).unwrap())), on)
}

fn placed(snapshot: &mut Snapshot, text: &str) -> String {
    placed_with(snapshot, text, &PodVolumes::default())
}

fn schedule(info: &PodInfo, snapshot: &mut Snapshot, volumes: &PodVolumes, profile: &Profile) -> Outcome {
    schedule_pod(&info.pod.key(), info, snapshot, volumes, &mut PodDevices::default(), profile)
}

fn placed_with(snapshot: &mut Snapshot, text: &str, volumes: &PodVolumes) -> String {
    let (info, _) = pod(text);
    match schedule(&info, snapshot, volumes, &Profile::default()) {
        Outcome::Node(name) => name,
        Outcome::Unschedulable(fit_error) => fit_error.message(),
        Outcome::Failed(why) => why,
    }
}

#[test]
fn pods_go_where_they_fit_best() {
    assert_eq!(placed(&mut cluster("node a 1\nnode b 4"), "p cpu=1"), "b");
    assert_eq!(placed(&mut cluster("node a 4 taint=k\nnode b 2"), "p cpu=1"), "b");
    assert_eq!(placed(&mut cluster("node a 4 taint=k"), r#"p {"tolerations": [{"operator": "Exists"}]}"#), "a");
    assert_eq!(
        placed(&mut cluster("node a 1\nnode b 4"), r#"p {"nodeSelector": {"kubernetes.io/hostname": "a"}}"#),
        "a"
    );
    let preferring = r#"p {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 50, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}"#;
    assert_eq!(placed(&mut cluster("node a 2 disk=ssd\nnode b 4"), &preferring.replace('\n', "")), "a");
}

#[test]
fn refusals_are_counted_in_upstreams_words() {
    assert_eq!(
        placed(&mut cluster("node a 1\nnode b 2\nnode c 9 cordoned\nnode d 9 taint=k"), "p cpu=3"),
        "0/4 nodes are available: 1 node(s) had untolerated taint {k: }, 1 node(s) were unschedulable, 2 Insufficient cpu."
    );
    assert_eq!(placed(&mut cluster(""), "p"), "no nodes available to schedule pods");
    assert_eq!(
        placed(&mut cluster("node a 1\npod q on a gpu=1"), "p gpu=1"),
        "0/1 nodes are available: 1 Insufficient example.com/gpu."
    );
    // Each resource that is missing is told, not the first alone.
    assert_eq!(
        placed(&mut cluster("node a 1\nnode b 9"), "p cpu=3 gpu=2"),
        "0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient example.com/gpu."
    );
    assert_eq!(
        unresolvable_message(2, "pod has unbound immediate PersistentVolumeClaims"),
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn volumes_are_found_or_made_where_the_pod_can_run() {
    let claim = |candidates: &[(&str, &str)], has_provisioner: bool, zones: &[&str]| {
        let on = |node: &str| {
            serde_json::from_value(json!({"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}))
            .unwrap()
        };
        let topologies = json!([{"matchLabelExpressions": [{"key": "zone", "values": zones}]}]);
        WaitingClaim {
            name: "c".into(),
            candidates: candidates.iter().map(|(name, node)| ((*name).into(), Some(on(node)))).collect(),
            has_provisioner,
            topologies: if zones.is_empty() { Vec::new() } else { serde_json::from_value(topologies).unwrap() },
            roomy: None,
        }
    };
    let roomy = |zones: &[&str]| {
        let places = zones.iter().map(|zone| apimachinery::LabelSelector::from_pairs([("zone", *zone)])).collect();
        WaitingClaim { roomy: Some(places), ..claim(&[], true, &[]) }
    };
    let none = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    for (waiting, wanted) in [
        (vec![claim(&[("v", "b")], false, &[])], "b"),
        (vec![claim(&[], false, &[])], none),
        // Each claim needs one of its own.
        (vec![claim(&[("v", "b")], false, &[]), claim(&[("v", "b")], false, &[])], none),
        (vec![claim(&[("v", "b")], false, &[]), claim(&[("v", "b"), ("w", "b")], false, &[])], "b"),
        (vec![claim(&[], true, &["2"])], "b"),
        (vec![claim(&[], true, &["3"])], none),
        (vec![claim(&[("v", "b")], true, &["3"])], "b"),
        (vec![roomy(&["2"])], "b"),
        (vec![roomy(&[])], "0/2 nodes are available: 2 node(s) did not have enough free storage."),
        (vec![WaitingClaim { candidates: claim(&[("v", "b")], true, &[]).candidates, ..roomy(&[]) }], "b"),
    ] {
        let volumes = PodVolumes { waiting, ..PodVolumes::default() };
        assert_eq!(placed_with(&mut cluster("node a 9 zone=1\nnode b 1 zone=2"), "p", &volumes), wanted, "{volumes:?}");
    }
}

#[test]
fn pods_that_ask_for_nothing_count_for_something() {
    assert_eq!(placed(&mut cluster("node a 4\nnode b 4\npod q on a\npod r on a"), "p"), "b");
    assert_eq!(placed(&mut cluster("node a 4\nnode b 4\npod q on a"), "p cpu=1"), "b");
}

const NEAR: &str = r#""requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "zone"}]"#;
const ZONES: &str = "node a 4 zone=1\nnode b 4 zone=1\nnode c 4 zone=2\nnode d 4";

#[test]
fn affinity_keeps_pods_in_a_domain() {
    let wants = |app: &str| format!(r#"p app={app} {{"affinity": {{"podAffinity": {{{NEAR}}}}}}}"#);
    // The first of a group may go anywhere where there is a domain; who isn't of the group has nowhere to go.
    let mut zones = cluster(ZONES);
    assert!(["a", "b", "c"].contains(&placed(&mut zones, &wants("x")).as_str()));
    assert_eq!(placed(&mut zones, &wants("y")), "0/4 nodes are available: 4 node(s) didn't match pod affinity rules.");
    assert_eq!(placed(&mut cluster(&format!("{ZONES}\npod q on c app=x cpu=3")), &wants("y")), "c");
}

#[test]
fn terms_of_affinity_are_about_the_same_pods() {
    let term =
        |label: &str| format!(r#"{{"labelSelector": {{"matchLabels": {{"{label}": "x"}}}}, "topologyKey": "zone"}}"#);
    let both = [term("app"), term("tier")].join(",");
    let wants = format!(
        r#"p {{"affinity": {{"podAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution": [{both}]}}}}}}"#
    );
    let apart = "node a 4 zone=1\npod q on a app=x\npod r on a tier=x";
    assert_eq!(
        placed(&mut cluster(apart), &wants),
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."
    );
    assert_eq!(placed(&mut cluster("node a 4 zone=1\npod q on a app=x tier=x"), &wants), "a");
}

#[test]
fn anti_affinity_works_in_both_directions() {
    let wants = format!(r#"p app=y {{"affinity": {{"podAntiAffinity": {{{NEAR}}}}}}}"#);
    assert_eq!(placed(&mut cluster("node a 4 zone=1\nnode c 4 zone=2\npod q on a app=x"), &wants), "c");
    assert_eq!(
        placed(&mut cluster("node a 4 zone=1\npod q on a app=x"), &wants),
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
    );
    // The one that is there keeps others away.
    let there = format!(r#"pod q on a app=y {{"affinity": {{"podAntiAffinity": {{{NEAR}}}}}}}"#);
    assert_eq!(
        placed(&mut cluster(&format!("node a 4 zone=1\nnode b 4 zone=1\n{there}")), "p app=x"),
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    // Preferences pull and push.
    let prefers = |side: &str| {
        format!(
            r#"p {{"affinity": {{"{side}": {{"preferredDuringSchedulingIgnoredDuringExecution": [{{"weight": 100, "podAffinityTerm": {{"labelSelector": {{"matchLabels": {{"app": "x"}}}}, "topologyKey": "zone"}}}}]}}}}}}"#
        )
    };
    let two = "node a 4 zone=1\nnode c 4 zone=2\npod q on a app=x cpu=1";
    assert_eq!(placed(&mut cluster(two), &prefers("podAffinity")), "a");
    assert_eq!(placed(&mut cluster(two), &prefers("podAntiAffinity")), "c");
}

fn spread(when: &str, skew: u32) -> String {
    format!(
        r#"p app=x {{"topologySpreadConstraints": [{{"maxSkew": {skew}, "topologyKey": "zone", "whenUnsatisfiable": "{when}", "labelSelector": {{"matchLabels": {{"app": "x"}}}}}}]}}"#
    )
}

#[test]
fn constraints_spread_pods_over_domains() {
    let text = "node a 9 zone=1\nnode c 1 zone=2\nnode e 9\npod q on a app=x\npod r on c cpu=1";
    assert_eq!(
        placed(&mut cluster(text), &spread("DoNotSchedule", 1).replace("app=x {", "app=x cpu=1 {")),
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints, \
         1 node(s) didn't match pod topology spread constraints (missing required label)."
    );
    assert_eq!(
        placed(&mut cluster("node a 9 zone=1\nnode c 2 zone=2\npod q on a app=x"), &spread("DoNotSchedule", 1)),
        "c"
    );
    assert_eq!(
        placed(&mut cluster("node a 9 zone=1\nnode c 2 zone=2\npod q on c app=x"), &spread("ScheduleAnyway", 1)),
        "a"
    );
    assert_eq!(placed(&mut cluster(text), &spread("DoNotSchedule", 2).replace("app=x {", "app=x cpu=1 {")), "a");
}

#[test]
fn constraints_count_what_they_are_about() {
    let constraint = |key: &str, rest: &str| {
        format!(r#"{{"maxSkew": 1, "topologyKey": "{key}", "whenUnsatisfiable": "DoNotSchedule"{rest}}}"#)
    };
    let wants =
        |head: &str, list: &[String]| format!(r#"{head} {{"topologySpreadConstraints": [{}]}}"#, list.join(","));
    let app = r#", "labelSelector": {"matchLabels": {"app": "x"}}"#;
    // A node without the labels of all constraints is in no domain of any.
    let racks = "node a 9 zone=1 rack=1\nnode b 9 zone=2\npod q on a app=x";
    let two = wants("p app=x", &[constraint("zone", app), constraint("rack", app)]);
    assert_eq!(placed(&mut cluster(racks), &two), "a");
    // Without a selector no pod is counted.
    let zones = "node a 9 zone=1\nnode c 1 zone=2\npod q on a\npod r on a\npod s on c cpu=1";
    assert_eq!(placed(&mut cluster(zones), &wants("p cpu=1", &[constraint("zone", "")])), "a");
}

#[test]
fn pods_of_a_controller_are_kept_apart() {
    let mut two = cluster("node a 9\nnode b 2\npod q on a owner=o");
    assert_eq!(placed(&mut two, "p owner=o cpu=1"), "b");
    assert_eq!(placed(&mut two, "p owner=other cpu=1"), "a");
}

#[test]
fn the_more_nodes_the_fewer_are_looked_at() {
    assert_eq!([1, 100, 101, 1000, 5000, 20000].map(num_feasible_nodes_to_find), [1, 100, 100, 420, 500, 1000]);
    // All get their turn.
    let text: Vec<String> = (0..300).map(|i| format!("node n{i:03} 4")).collect();
    let mut many = cluster(&text.join("\n"));
    let mut used = std::collections::BTreeSet::new();
    for i in 0..60 {
        let (info, _) = pod(&format!("p{i} cpu=1"));
        let key = info.pod.key();
        let Outcome::Node(node) = schedule(&info, &mut many, &PodVolumes::default(), &Profile::default()) else {
            panic!("there is room")
        };
        used.insert(node.clone());
        many.assume(key, Arc::new(info), &node);
    }
    assert_eq!(used.len(), 60);
}

#[test]
fn requests_count_the_peak_of_init_containers_and_the_sum_of_sidecars() {
    let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = c("1");
    sidecar["restartPolicy"] = "Always".into();
    let of = |spec: Value| {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        crate::resources::requests(&pod).cpu_milli
    };
    assert_eq!(of(json!({"containers": [c("1"), c("2")], "initContainers": [c("5")]})), 5000);
    assert_eq!(of(json!({"containers": [c("1"), c("2")], "initContainers": [sidecar, c("1")]})), 4000);
    assert_eq!(
        of(json!({"containers": [c("1")], "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "1"}})),
        4000
    );
}

#[test]
fn profiles_pack_or_spread_and_images_draw() {
    let with = |profile: &Profile, nodes: &str, text: &str| {
        let (info, _) = pod(text);
        match schedule(&info, &mut cluster(nodes), &PodVolumes::default(), profile) {
            Outcome::Node(name) => name,
            Outcome::Unschedulable(fit_error) => fit_error.message(),
            Outcome::Failed(why) => why,
        }
    };
    let nodes = "node a 4\nnode b 4\npod q on b cpu=2";
    assert_eq!(with(&Profile::default(), nodes, "p cpu=1"), "a");
    let packing = Profile {
        strategy: crate::profile::Strategy::MostAllocated,
        resources: vec![("cpu".into(), 1)],
        ..Profile::default()
    };
    assert_eq!(with(&packing, nodes, "p cpu=1"), "b");
    let added = serde_json::from_value(json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
        [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}));
    let own = Profile { affinity: added.unwrap(), ..Profile::default() };
    assert_eq!(with(&own, "node a 4\nnode b 1 disk=ssd", "p cpu=1"), "b");
    assert_eq!(
        with(&own, "node a 4", "p"),
        "0/1 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity."
    );
    // A large image that is there outweighs a little room.
    let mut snapshot = cluster("node a 4\nnode b 4\npod q on b cpu=500m");
    let mut holder = node(&["b", "4"]);
    holder.status.as_mut().unwrap().images =
        Some(serde_json::from_value(json!([{"names": ["big:latest"], "sizeBytes": 2_000_000_000_i64}])).unwrap());
    snapshot.put_node(Arc::new(holder));
    let (mut info, _) = pod("p cpu=100m");
    assert_eq!(schedule(&info, &mut snapshot, &PodVolumes::default(), &Profile::default()), Outcome::Node("a".into()));
    info.images = vec!["big:latest".into()];
    assert_eq!(schedule(&info, &mut snapshot, &PodVolumes::default(), &Profile::default()), Outcome::Node("b".into()));
}

#[test]
fn ports_of_a_node_collide_by_number_protocol_and_address() {
    let port = |address: &str, protocol: &str, number: i32| json!({"containerPort": 80, "hostPort": number, "hostIP": address, "protocol": protocol});
    let pod = |spec: Value| {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        PodInfo::read(Arc::new(pod))
    };
    let of = |port: Value| pod(json!({"containers": [{"name": "c", "ports": [port]}]}));
    for (one, other, collide) in [
        (("127.0.0.1", "TCP", 54321), ("127.0.0.1", "TCP", 54321), true),
        (("127.0.0.1", "TCP", 54321), ("127.0.0.2", "TCP", 54321), false),
        (("127.0.0.2", "TCP", 54321), ("127.0.0.2", "UDP", 54321), false),
        (("0.0.0.0", "TCP", 54322), ("127.0.0.1", "TCP", 54322), true),
        (("", "TCP", 54322), ("127.0.0.1", "TCP", 54322), true),
        (("", "TCP", 54322), ("0.0.0.0", "TCP", 54322), true),
        (("", "TCP", 54322), ("", "TCP", 54323), false),
        (("", "TCP", 54322), ("", "SCTP", 54322), false),
    ] {
        let (a, b) = (of(port(one.0, one.1, one.2)), of(port(other.0, other.1, other.2)));
        assert_eq!((a.host_ports_conflict(&b), b.host_ports_conflict(&a)), (collide, collide), "{one:?} {other:?}");
    }
    // Sidecars serve as long as the pod does; what comes before it is over when others may come.
    let plain = of(port("", "TCP", 80));
    let init = |restarts: Value| {
        let init = json!([{"name": "i", "restartPolicy": restarts, "ports": [port("", "TCP", 80)]}]);
        pod(json!({"containers": [], "initContainers": init}))
    };
    assert!(init(json!("Always")).host_ports_conflict(&plain) && plain.host_ports_conflict(&init(json!("Always"))));
    assert!(!init(Value::Null).host_ports_conflict(&plain));
}
