use apimachinery::yaml;
use serde_json::{Value, json};

use super::*;

fn parse(text: &str) -> Value {
    yaml::first(text.as_bytes(), bounded::values::Limits::FILE).unwrap().value
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A slice of the driver `d`, of the pool `p`, on the node `n`, unless `spec` says otherwise.
fn slice(name: &str, spec: &str) -> Arc<ResourceSlice> {
    let mut of = parse(spec);
    if of.get("driver").is_none() {
        of["driver"] = "d".into();
    }
    if of.get("pool").is_none() {
        of["pool"] = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
    }
    if !["nodeName", "allNodes", "nodeSelector", "perDeviceNodeSelection"].iter().any(|key| of.get(key).is_some()) {
        of["nodeName"] = "n".into();
    }
    Arc::new(read(json!({"metadata": {"name": name}, "spec": of})))
}

fn class(name: &str, spec: &str) -> Arc<DeviceClass> {
    Arc::new(read(json!({"metadata": {"name": name}, "spec": parse(spec)})))
}

fn claim(name: &str, devices: &str) -> Arc<ResourceClaim> {
    Arc::new(read(
        json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"devices": parse(devices)}}),
    ))
}

fn node(name: &str, labels: Value) -> Node {
    read(json!({"metadata": {"name": name, "labels": labels}}))
}

/// Four GPUs, of two models, on two switches.
fn gpus() -> Arc<ResourceSlice> {
    slice(
        "gpus",
        "devices:
- {name: gpu-0, attributes: {model: {string: small}, switch: {int: 1}}, capacity: {memory: {value: 10Gi}}}
- {name: gpu-1, attributes: {model: {string: small}, switch: {int: 2}}, capacity: {memory: {value: 10Gi}}}
- {name: gpu-2, attributes: {model: {string: large}, switch: {int: 1}}, capacity: {memory: {value: 40Gi}}}
- {name: gpu-3, attributes: {model: {string: large}, switch: {int: 2}}, capacity: {memory: {value: 40Gi}}}",
    )
}

fn inventory(slices: Vec<Arc<ResourceSlice>>) -> Inventory {
    let large = "{selectors: [{cel: {expression: \"device.attributes['d'].model == 'large'\"}}], config: [{opaque: {driver: d, parameters: {of: class}}}]}";
    let list = [
        class("any", "{}"),
        class("large", large),
        class("broken", "{selectors: [{cel: {expression: \"device.attributes['d'].absent\"}}]}"),
    ];
    Inventory { slices, classes: classes(list), ..Inventory::default() }
}

/// What the claims get on the node `n`: the requests and devices of each, or why not.
fn given(inventory: Inventory, claims: &[Arc<ResourceClaim>]) -> String {
    let mut devices = match PodDevices::of(claims.to_vec(), inventory) {
        Ok(devices) => devices,
        Err(DevicesError::Unresolvable(why) | DevicesError::Wrong(why)) => return why,
    };
    if let Some(rejection) = devices.rejection(&node("n", json!({"zone": "a"}))) {
        return rejection.reasons.join(", ");
    }
    let of = |allocation: Option<AllocationResult>| {
        let results = allocation.and_then(|a| a.devices).and_then(|devices| devices.results).unwrap_or_default();
        results.iter().map(|r| format!("{}={}", r.request, r.device)).collect::<Vec<_>>().join(" ")
    };
    devices.allocations("n").into_iter().map(|(_, allocation)| of(allocation)).collect::<Vec<_>>().join("; ")
}

#[test]
fn requests_get_the_first_devices_that_satisfy_all_of_them() {
    for (devices, want) in [
        ("requests: [{name: r, exactly: {deviceClassName: any}}]", "r=gpu-0"),
        ("requests: [{name: r, exactly: {deviceClassName: large, count: 2}}]", "r=gpu-2 r=gpu-3"),
        ("requests: [{name: r, exactly: {deviceClassName: large, count: 3}}]", "cannot allocate all claims"),
        ("requests: [{name: r, exactly: {deviceClassName: large, allocationMode: All}}]", "r=gpu-2 r=gpu-3"),
        (
            "requests: [{name: r, exactly: {deviceClassName: any, selectors: [{cel: {expression: \"device.capacity['d'].memory.compareTo(quantity('20Gi')) > 0\"}}]}}]",
            "r=gpu-2",
        ),
        // The first request may not take what the second one alone can use.
        (
            "requests: [{name: a, exactly: {deviceClassName: any, count: 3}}, {name: b, exactly: {deviceClassName: any, selectors: [{cel: {expression: \"device.attributes['d'].switch == 1 && device.attributes['d'].model == 'small'\"}}]}}]",
            "a=gpu-1 a=gpu-2 a=gpu-3 b=gpu-0",
        ),
        ("requests: [{name: r, exactly: {deviceClassName: none}}]", "request r: device class none does not exist"),
        (
            "requests: [{name: r, firstAvailable: [{name: x, deviceClassName: none}]}]",
            "request r/x: device class none does not exist",
        ),
        (
            "requests: [{name: r, exactly: {deviceClassName: broken}}]",
            "class broken: selector #0 on device d/p/gpu-0: CEL runtime error: no such key: absent",
        ),
        (
            "requests: [{name: r, exactly: {deviceClassName: any, selectors: [{cel: {expression: \"device.\"}}]}}]",
            "CEL compile error",
        ),
        (
            "requests: [{name: r, exactly: {deviceClassName: any, count: 33}}]",
            "claim ns/c: number of requested devices 33 exceeds the claim limit of 32",
        ),
        ("requests: [{name: r}]", "resource claim ns/c, request r: unknown request type"),
        ("requests: [{name: r, exactly: {deviceClassName: any, allocationMode: Some}}]", "unsupported count mode Some"),
    ] {
        let told = given(inventory(vec![gpus()]), &[claim("c", devices)]);
        assert!(told == want || (want.len() > 10 && told.contains(want)), "{devices}: {told}");
    }
}

#[test]
fn of_alternatives_the_first_that_can_be_had_is_taken() {
    let wish = |sub: &str| {
        claim(
            "c",
            &format!(
                "requests: [{{name: r, firstAvailable: [{sub}]}}, {{name: s, exactly: {{deviceClassName: any}}}}]"
            ),
        )
    };
    let many = "{name: many, deviceClassName: any, count: 4}";
    let few = "{name: few, deviceClassName: large, count: 2}";
    assert_eq!(given(inventory(vec![gpus()]), &[wish(&format!("{few}, {many}"))]), "r/few=gpu-2 r/few=gpu-3 s=gpu-0");
    // With four of them, none is left for the other request.
    assert_eq!(given(inventory(vec![gpus()]), &[wish(&format!("{many}, {few}"))]), "r/few=gpu-2 r/few=gpu-3 s=gpu-0");
    assert_eq!(given(inventory(vec![gpus()]), &[wish(many)]), "cannot allocate all claims");
    // Another claim of the pod needs what the first alternative would take.
    let other = claim("o", "requests: [{name: r, exactly: {deviceClassName: large, count: 2}}]");
    let first =
        claim("c", &format!("requests: [{{name: r, firstAvailable: [{few}, {{name: one, deviceClassName: any}}]}}]"));
    assert_eq!(given(inventory(vec![gpus()]), &[first, other]), "r/one=gpu-0; r=gpu-2 r=gpu-3");
}

#[test]
fn the_node_with_the_earlier_alternative_is_the_better_one() {
    let wish = claim(
        "c",
        "requests: [{name: r, firstAvailable: [{name: best, deviceClassName: large}, {name: good, deviceClassName: any}]}]",
    );
    let elsewhere = slice(
        "m",
        "nodeName: m\npool: {name: m, generation: 1, resourceSliceCount: 1}\ndevices: [{name: x, attributes: {model: {string: small}}}]",
    );
    let mut devices = PodDevices::of(vec![wish], inventory(vec![gpus(), elsewhere])).unwrap();
    assert_eq!((devices.rejection(&node("n", json!({}))), devices.rejection(&node("m", json!({})))), (None, None));
    assert_eq!((devices.score("n"), devices.score("m"), devices.score("other")), (8, 7, 0));
}

#[test]
fn devices_agree_in_what_the_claim_says() {
    let two = "requests: [{name: a, exactly: {deviceClassName: any}}, {name: b, exactly: {deviceClassName: any, selectors: [{cel: {expression: \"device.attributes['d'].model == 'large'\"}}]}}]";
    let with = |constraint: &str| {
        given(inventory(vec![gpus()]), &[claim("c", &format!("{two}\nconstraints: [{constraint}]"))])
    };
    assert_eq!(with("{matchAttribute: d/switch}"), "a=gpu-0 b=gpu-2");
    assert_eq!(with("{matchAttribute: d/model}"), "a=gpu-2 b=gpu-3");
    assert_eq!(with("{distinctAttribute: d/switch}"), "a=gpu-0 b=gpu-3");
    assert_eq!(with("{matchAttribute: d/absent}"), "cannot allocate all claims");
    assert_eq!(with("{matchAttribute: d/absent, requests: [c]}"), "a=gpu-0 b=gpu-2");
    assert_eq!(with("{requests: [a]}"), "claim ns/c, constraint #0: empty constraint (unsupported constraint type?)");
    let all = claim(
        "c",
        "requests: [{name: r, exactly: {deviceClassName: large, allocationMode: All}}]\nconstraints: [{matchAttribute: d/switch}]",
    );
    let told = given(inventory(vec![gpus()]), &[all]);
    assert!(told.contains("cannot add device d/p/gpu-3 because a claim constraint would not be satisfied"), "{told}");
}

#[test]
fn what_others_have_is_theirs_but_for_administrators() {
    let mut taken = inventory(vec![gpus()]);
    let result = json!({"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "gpu-2"},
        {"request": "r", "driver": "d", "pool": "p", "device": "gpu-3", "adminAccess": true}]}});
    let result: AllocationResult = read(result);
    taken.allocated = allocated(std::iter::once(&result));
    let large = |more: &str| claim("c", &format!("requests: [{{name: r, exactly: {{deviceClassName: large{more}}}}}]"));
    assert_eq!(given(taken.clone(), &[large("")]), "r=gpu-3");
    assert_eq!(given(taken.clone(), &[large(", count: 2")]), "cannot allocate all claims");
    assert_eq!(given(taken.clone(), &[large(", allocationMode: All")]), "cannot allocate all claims");
    assert_eq!(given(taken.clone(), &[large(", allocationMode: All, adminAccess: true")]), "r=gpu-2 r=gpu-3");
    assert_eq!(given(taken, &[large(", count: 3, adminAccess: true")]), "cannot allocate all claims");
}

#[test]
fn partitions_share_the_counters_of_their_device() {
    let pool = "{name: p, generation: 1, resourceSliceCount: 2}";
    let counters = slice(
        "counters",
        &format!("pool: {pool}\nsharedCounters: [{{name: gpu, counters: {{memory: {{value: 40Gi}}}}}}]"),
    );
    let part = |name: &str, memory: &str| {
        format!("{{name: {name}, consumesCounters: [{{counterSet: gpu, counters: {{memory: {{value: {memory}}}}}}}]}}")
    };
    let parts = format!("{}, {}, {}", part("whole", "40Gi"), part("half", "20Gi"), part("other-half", "20Gi"));
    let parts = slice("parts", &format!("pool: {pool}\ndevices: [{parts}]"));
    let wish =
        |count: u32| claim("c", &format!("requests: [{{name: r, exactly: {{deviceClassName: any, count: {count}}}}}]"));
    let both = inventory(vec![counters, parts.clone()]);
    assert_eq!(given(both.clone(), &[wish(1)]), "r=whole");
    assert_eq!(given(both.clone(), &[wish(2)]), "r=half r=other-half");
    assert_eq!(given(both.clone(), &[wish(3)]), "cannot allocate all claims");
    let half = DeviceId { driver: "d".into(), pool: "p".into(), device: "half".into() };
    let taken = Inventory { allocated: [half].into(), ..both };
    assert_eq!(given(taken, &[wish(1)]), "r=other-half");
    // Without the counters' slice the pool isn't complete; with a counter that isn't there it is wrong.
    assert_eq!(given(inventory(vec![parts]), &[wish(1)]), "cannot allocate all claims");
    let lost =
        slice("lost", "devices: [{name: x, consumesCounters: [{counterSet: none, counters: {memory: {value: 1}}}]}]");
    assert_eq!(given(inventory(vec![lost]), &[wish(1)]), "invalid resource pools were encountered");
}

#[test]
fn tainted_devices_are_for_those_that_tolerate_it() {
    let tainted = slice(
        "s",
        "devices: [{name: a, taints: [{key: old, effect: NoSchedule}]}, {name: b, taints: [{key: odd, effect: None}]}, {name: c}]",
    );
    let rule = "{deviceSelector: {driver: d, device: b}, taint: {key: broken, value: fan, effect: NoExecute}}";
    let rule: DeviceTaintRule = read(json!({"metadata": {"name": "r"}, "spec": parse(rule)}));
    let wish = |more: &str| {
        claim("c", &format!("requests: [{{name: r, exactly: {{deviceClassName: any, allocationMode: All{more}}}}}]"))
    };
    let one = claim("c", "requests: [{name: r, exactly: {deviceClassName: any}}]");
    let plain = inventory(vec![tainted]);
    assert_eq!(given(plain.clone(), std::slice::from_ref(&one)), "r=b", "unknown effects keep nobody away");
    let ruled = Inventory { rules: vec![Arc::new(rule)], ..plain };
    assert_eq!(given(ruled.clone(), &[one]), "r=c");
    assert_eq!(given(ruled.clone(), &[wish("")]), "cannot allocate all claims");
    assert_eq!(given(ruled.clone(), &[wish(", tolerations: [{operator: Exists}]")]), "r=a r=b r=c");
    let exact = ", tolerations: [{key: old, operator: Exists}, {key: broken, value: fan, effect: NoExecute}]";
    assert_eq!(given(ruled, &[wish(exact)]), "r=a r=b r=c");
}

#[test]
fn a_node_sees_its_own_devices_and_those_of_all() {
    let one = claim("c", "requests: [{name: r, exactly: {deviceClassName: any}}]");
    let seen = |spec: &str| given(inventory(vec![slice("s", spec)]), std::slice::from_ref(&one));
    assert_eq!(seen("nodeName: other\ndevices: [{name: x}]"), "cannot allocate all claims");
    assert_eq!(seen("allNodes: true\ndevices: [{name: x}]"), "r=x");
    let zone = |zone: &str| {
        format!(
            "nodeSelector: {{nodeSelectorTerms: [{{matchExpressions: [{{key: zone, operator: In, values: [{zone}]}}]}}]}}\ndevices: [{{name: x}}]"
        )
    };
    assert_eq!(seen(&zone("a")), "r=x");
    assert_eq!(seen(&zone("b")), "cannot allocate all claims");
    assert_eq!(
        seen("perDeviceNodeSelection: true\ndevices: [{name: x, nodeName: other}, {name: z, nodeName: 'n'}]"),
        "r=z"
    );
    // An older generation, and a pool that isn't complete yet.
    let of = |generation: u32, count: u32| {
        format!(
            "pool: {{name: p, generation: {generation}, resourceSliceCount: {count}}}\ndevices: [{{name: x{generation}}}]"
        )
    };
    let both = vec![slice("a", &of(1, 1)), slice("b", &of(2, 1))];
    assert_eq!(given(inventory(both), std::slice::from_ref(&one)), "r=x2");
    assert_eq!(seen(&of(1, 2)), "cannot allocate all claims");
    let all = claim("c", "requests: [{name: r, exactly: {deviceClassName: any, allocationMode: All}}]");
    let told = given(inventory(vec![slice("s", &of(1, 2))]), &[all]);
    assert_eq!(told, "claim ns/c, request r: asks for all devices, but resource pool d/p is currently being updated");
    let twice = slice("s", "devices: [{name: x}, {name: x}]");
    assert_eq!(given(inventory(vec![twice]), &[one]), "invalid resource pools were encountered");
}

#[test]
fn an_allocation_says_where_it_is_and_how_it_is_set_up() {
    let wish = "requests: [{name: r, exactly: {deviceClassName: large}}, {name: s, exactly: {deviceClassName: any}}]
config: [{requests: [s], opaque: {driver: d, parameters: {of: claim}}}, {opaque: {driver: d, parameters: {of: all}}}]";
    let mut devices = PodDevices::of(vec![claim("c", wish)], inventory(vec![gpus()])).unwrap();
    assert_eq!(devices.rejection(&node("n", json!({}))), None);
    let allocation = devices.allocations("n").remove(0).1.unwrap();
    let told = serde_json::to_value(&allocation).unwrap();
    assert_eq!(
        told["nodeSelector"],
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]})
    );
    assert_eq!(
        told["devices"]["config"],
        json!([
            {"source": "FromClass", "requests": ["r"], "opaque": {"driver": "d", "parameters": {"of": "class"}}},
            {"source": "FromClaim", "requests": ["s"], "opaque": {"driver": "d", "parameters": {"of": "claim"}}},
            {"source": "FromClaim", "opaque": {"driver": "d", "parameters": {"of": "all"}}},
        ])
    );
    // A claim that has its devices goes where they are.
    let mut has = (*claim("c", wish)).clone();
    has.status.get_or_insert_default().allocation = Some(allocation);
    let mut devices = PodDevices::of(vec![Arc::new(has)], Inventory::default()).unwrap();
    assert_eq!(devices.rejection(&node("n", json!({}))), None);
    assert_eq!(devices.rejection(&node("m", json!({}))).unwrap().reasons, ["resourceclaim not available on the node"]);
    assert!(devices.to_deallocate("pod").is_some(), "nobody else uses it");
}

#[test]
fn a_search_that_takes_too_long_is_broken_off() {
    let devices: Vec<String> = (0..40).map(|n| format!("{{name: d{n:02}, attributes: {{n: {{int: {n}}}}}}}")).collect();
    let many = slice("s", &format!("devices: [{}]", devices.join(", ")));
    let wish = claim(
        "c",
        "requests: [{name: r, exactly: {deviceClassName: any, count: 20}}, {name: s, exactly: {deviceClassName: any, count: 12}}]\nconstraints: [{requests: [s], matchAttribute: d/n}]",
    );
    assert_eq!(given(inventory(vec![many]), &[wish]), "node n: timed out trying to allocate devices");
}
