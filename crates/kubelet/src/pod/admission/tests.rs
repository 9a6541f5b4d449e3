use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": "p", "resourceVersion": "1"}, "spec": spec})).unwrap()
}

fn share(pod: &Pod) -> PodResources {
    PodResources::of(pod, pod.metadata.resource_version.is_none())
}

fn asking(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

fn with_port(port: Value) -> Value {
    json!({"containers": [{"name": "c", "ports": [port]}]})
}

fn allocatable() -> Amounts {
    let amounts = [("pods", "3"), ("cpu", "2"), ("memory", "1Gi"), ("ephemeral-storage", "1Gi"), ("x.io/gpu", "1")];
    amounts.into_iter().map(|(name, amount)| (name.into(), amount.parse().unwrap())).collect()
}

fn node() -> Node {
    let node = json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}},
        "spec": {"taints": [{"key": "out", "effect": "NoExecute"}, {"key": "soft", "effect": "NoSchedule"}]}});
    serde_json::from_value(node).unwrap()
}

#[test]
fn a_pod_that_can_not_be_here_beside_the_others_has_failed() {
    let tolerating = |mut spec: Value| {
        spec["tolerations"] = json!([{"key": "out", "operator": "Exists"}]);
        spec
    };
    let port = |number: i32, address: &str| json!({"containerPort": 1, "hostPort": number, "hostIP": address});
    let others = [share(&pod(asking(json!({"cpu": "1500m", "x.io/gpu": "1"})))), share(&pod(with_port(port(80, ""))))];
    for (spec, reason, message) in [
        (tolerating(json!({})), "", ""),
        (
            tolerating(asking(json!({"cpu": "501m"}))),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
        ),
        (tolerating(asking(json!({"cpu": "500m", "memory": "1Gi"}))), "", ""),
        (
            tolerating(asking(json!({"memory": "2Gi"}))),
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824",
        ),
        (tolerating(asking(json!({"ephemeral-storage": "2Gi"}))), "OutOfephemeral-storage", ""),
        (tolerating(asking(json!({"x.io/gpu": "1"}))), "OutOfx.io/gpu", ""),
        (tolerating(asking(json!({"hugepages-2Mi": "2Mi"}))), "OutOfhugepages-2Mi", ""),
        // It may be of the cluster as a whole.
        (tolerating(asking(json!({"x.io/elsewhere": "1"}))), "", ""),
        (
            tolerating(json!({"nodeSelector": {"disk": "hdd"}})),
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (tolerating(json!({"nodeSelector": {"disk": "ssd"}})), "", ""),
        (
            tolerating(with_port(port(80, "127.0.0.1"))),
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ),
        (tolerating(with_port(port(81, ""))), "", ""),
        (
            json!({}),
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        ),
    ] {
        let pod = pod(spec.clone());
        let found = predicate_failures(&pod, &share(&pod), others.iter(), &allocatable(), Some(&node()));
        let rejection = found.first().map_or(Rejection::new("", ""), PredicateFailure::rejection);
        assert_eq!(rejection.reason, reason, "{spec}");
        assert!(message.is_empty() || rejection.message == message, "{spec}: {}", rejection.message);
    }
    // A third pod is the last one.
    let three = [others[0].clone(), others[1].clone(), others[1].clone()];
    let (last, own) = (pod(tolerating(json!({}))), share(&pod(json!({}))));
    let found = predicate_failures(&last, &own, three.iter(), &allocatable(), Some(&node()));
    assert_eq!(found[0].rejection().reason, "OutOfpods");
    // Nothing is known of the node yet.
    assert_eq!(
        predicate_failures(&pod(json!({"nodeSelector": {"disk": "hdd"}})), &own, others.iter(), &allocatable(), None),
        []
    );
}

#[test]
fn kernel_parameters_of_others_are_refused() {
    let refused = |spec: Value, allowed: &str| {
        let mut whole = json!({"containers": []});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let refused = forbidden_sysctl(&pod(whole), &allowed.parse().unwrap());
        refused.map(|rejection| format!("{}: {}", rejection.reason, rejection.message))
    };
    let sets = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
    let words = |why: &str| Some(format!("SysctlForbidden: forbidden sysctl: {why}"));
    assert_eq!(refused(json!({}), ""), None);
    assert_eq!(refused(sets("net.ipv4.tcp_syncookies"), ""), None);
    assert_eq!(refused(sets("kernel.core_pattern"), ""), words("\"kernel.core_pattern\" not allowlisted"));
    assert_eq!(refused(sets("kernel.msgmax"), ""), words("\"kernel.msgmax\" not allowlisted"));
    assert_eq!(refused(sets("kernel.msgmax"), "kernel.msg*"), None);
    let mut host = sets("net.ipv4.tcp_syncookies");
    host["hostNetwork"] = true.into();
    assert_eq!(refused(host, ""), words("\"net.ipv4.tcp_syncookies\" not allowed with host net enabled"));
}

#[test]
fn of_two_that_want_the_same_the_first_gets_it_until_its_end() {
    let admitted = Admitted::default();
    let pod = pod(with_port(json!({"containerPort": 1, "hostPort": 80})));
    let ask = |uid: &str| admitted.try_admit(uid, &pod, &share(&pod), &allocatable(), None);
    assert_eq!(ask("first"), Decision::Admit);
    assert!(matches!(ask("second"), Decision::Reject(_)));
    assert!(!admitted.has("second"));
    admitted.release("first");
    assert_eq!(ask("second"), Decision::Admit);
    // It went while nobody looked.
    admitted.settle(&["other".to_string()].into());
    assert_eq!(ask("third"), Decision::Admit);
}

#[test]
fn a_critical_pod_gets_the_room_of_those_who_lose_least() {
    let admitted = Admitted::default();
    let plain = |uid: &str, spec: Value| admitted.hold(uid, share(&pod(spec)));
    let both = |cpu: &str| {
        let amounts = json!({"cpu": cpu, "memory": "1Mi"});
        json!({"containers": [{"name": "c", "resources": {"requests": amounts, "limits": amounts}}]})
    };
    plain("guaranteed", both("1"));
    plain("small", asking(json!({"cpu": "300m"})));
    plain("large", asking(json!({"cpu": "600m"})));
    let mut allocatable = allocatable();
    allocatable.insert("pods".into(), Quantity::from_int(10));
    let critical = |cpu: &str| {
        let mut spec = asking(json!({"cpu": cpu}));
        spec["priority"] = CRITICAL.into();
        pod(spec)
    };
    let ask = |pod: &Pod| {
        let decision = admitted.try_admit("critical", pod, &share(pod), &allocatable, None);
        admitted.release("critical");
        decision
    };
    let instead = |uids: &[&str]| Decision::AdmitAfter(uids.iter().map(|uid| (*uid).to_string()).collect());
    assert_eq!(ask(&critical("100m")), Decision::Admit);
    assert_eq!(ask(&critical("400m")), instead(&["small"]));
    assert_eq!(ask(&critical("500m")), instead(&["large"]));
    assert_eq!(ask(&critical("900m")), instead(&["large", "small"]));
    assert_eq!(ask(&critical("1200m")), instead(&["small", "guaranteed"]));
    assert!(matches!(ask(&critical("3")), Decision::NoVictims(why) if why.contains("(res: cpu, q: 1)")));
    // Nobody goes where that isn't enough.
    let mut elsewhere = critical("400m");
    elsewhere.spec.as_mut().unwrap().node_selector = Some([("disk".to_string(), "hdd".to_string())].into());
    let decision = admitted.try_admit("critical", &elsewhere, &share(&elsewhere), &allocatable, Some(&node()));
    assert!(matches!(decision, Decision::Reject(found) if found[0] == AFFINITY));
    // Of those who are as critical nobody goes, and a static pod is critical.
    let mut fixed = critical("400m");
    (fixed.metadata.resource_version, fixed.spec.as_mut().unwrap().priority) = (None, None);
    assert_eq!(ask(&fixed), instead(&["small"]));
    for uid in ["guaranteed", "small", "large"] {
        admitted.release(uid);
    }
    admitted.hold("equal", share(&critical("1900m")));
    assert!(matches!(ask(&critical("400m")), Decision::NoVictims(_)));
}

#[test]
fn a_machine_that_runs_short_takes_in_who_must_be_or_asks_for_what_it_uses() {
    let tolerant = json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]});
    let (memory, disk): (&[&str], &[&str]) = (&["MemoryPressure"], &["DiskPressure", "MemoryPressure"]);
    let said = |spec: Value, conditions: &[&str]| {
        let pod = pod(spec);
        under_pressure(&pod, &share(&pod), conditions).map(|rejection| (rejection.reason, rejection.message))
    };
    let evicted = |conditions: &str| Some(("Evicted".into(), format!("The node had condition: [{conditions}]. ")));
    assert_eq!(said(json!({}), &[]), None);
    assert_eq!(said(json!({}), memory), evicted("MemoryPressure"));
    assert_eq!(said(tolerant.clone(), memory), None);
    assert_eq!(said(asking(json!({"memory": "1Mi"})), memory), None);
    assert_eq!(said(asking(json!({"memory": "1Mi"})), disk), evicted("DiskPressure MemoryPressure"));
    assert_eq!(said(tolerant, disk), evicted("DiskPressure MemoryPressure"));
    assert_eq!(said(json!({"priority": CRITICAL}), disk), None);
}

#[test]
fn pods_for_other_systems_are_refused() {
    let mut labelled = pod(json!({}));
    labelled.metadata.labels = Some([("kubernetes.io/os".to_string(), "windows".to_string())].into());
    let reason = |pod: &Pod| unsupported(pod).map(|rejection| rejection.reason);
    assert_eq!(reason(&labelled).as_deref(), Some("PodOSSelectorNodeLabelDoesNotMatch"));
    assert_eq!(reason(&pod(json!({"os": {"name": "windows"}}))).as_deref(), Some("PodOSNotSupported"));
    assert_eq!(reason(&pod(json!({"os": {"name": "linux"}}))), None);
}
