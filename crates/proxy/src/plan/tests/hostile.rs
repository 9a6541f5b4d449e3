//! No text of an object gets into a rule.

use super::*;

/// Texts that try to be read as something else.
const HOSTILE: [&str; 12] = [
    "}; add table ip pwned; #",
    "1.1.1.1 }\nadd table ip pwned\n",
    "192.0.2.77, 192.0.2.78",
    "10.42.0.2 : goto refuse_now",
    "0.0.0.0/0",
    "0.0.0.0/0 } accept; ip saddr { 10.0.0.0/8",
    "@pwned",
    "foo bar",
    "\"pwned\"",
    "$(id)",
    "fd42::2%eth0; flush ruleset",
    "ünïcode\u{0}",
];

/// Puts `text` into each string of an object in turn, and once into all.
fn with_text_everywhere(object: &serde_json::Value, text: &str) -> Vec<serde_json::Value> {
    fn leaves(value: &serde_json::Value, path: String, all: &mut Vec<String>) {
        match value {
            serde_json::Value::String(_) => all.push(path),
            serde_json::Value::Array(list) => {
                list.iter().enumerate().for_each(|(i, one)| leaves(one, format!("{path}/{i}"), all));
            }
            serde_json::Value::Object(map) => {
                map.iter().for_each(|(key, one)| leaves(one, format!("{path}/{}", key.replace('/', "~1")), all));
            }
            _ => {}
        }
    }
    let mut paths = Vec::new();
    leaves(object, String::new(), &mut paths);
    let put = |object: &mut serde_json::Value, path: &String| *object.pointer_mut(path).unwrap() = text.into();
    let mut all: Vec<_> = paths
        .iter()
        .map(|path| {
            let mut one = object.clone();
            put(&mut one, path);
            one
        })
        .collect();
    let mut every = object.clone();
    // Without these a service and its endpoints wouldn't be looked at.
    let kept = [
        "/metadata/labels/kubernetes.io~1service-name",
        "/metadata/name",
        "/metadata/namespace",
        "/addressType",
        "/spec/type",
    ];
    paths.iter().filter(|path| !kept.contains(&path.as_str())).for_each(|path| put(&mut every, path));
    all.push(every);
    all
}

#[test]
fn no_text_of_an_object_gets_into_a_rule() {
    let service = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "externalIPs": ["192.0.2.5"],
            "externalName": "x", "loadBalancerIP": "192.0.2.9", "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8", "10.1.0.0/16"],
            "ports": [{"name": "w", "port": 80, "protocol": "TCP", "nodePort": 30080, "targetPort": "web", "appProtocol": "h"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.6", "hostname": "h"}]}}});
    let slice = json!({"metadata": {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "w", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.42.0.2", "10.42.0.3"], "nodeName": "a", "zone": "z", "hostname": "h",
                       "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "a"}]}}]});
    let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [
            {"name": "x", "containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1", "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}]}});
    let script = |service: &serde_json::Value, slice: &serde_json::Value, pod: &serde_json::Value, zone: &str| {
        let (Ok(service), Ok(slice), Ok(pod)) = (
            serde_json::from_value::<Service>(service.clone()),
            serde_json::from_value::<EndpointSlice>(slice.clone()),
            serde_json::from_value::<Pod>(pod.clone()),
        ) else {
            return String::new();
        };
        let topology = NodeTopology { zone: Some(zone.into()) };
        let mut parts = Planner::new(Family::V4).parts(&config(), &topology, &[Arc::new(service)], &[Arc::new(slice)]);
        parts.extend(host_port_parts(Family::V4, &[Arc::new(pod)]));
        network::nft::TableSync::new("ip t", "services").diff_script(base_table(&config(), Family::V4), parts)
    };
    let untouched = script(&service, &slice, &pod, "z");
    for wanted in ["10.43.0.5", "192.0.2.5", "192.0.2.6", "10.0.0.0/8", "10.42.0.3", "192.0.2.1 . tcp . 8080"] {
        assert!(untouched.contains(wanted), "{wanted} is missing: what is tried below isn't looked at\n{untouched}");
    }
    kernel_table(std::slice::from_ref(&untouched));
    let mut all = BTreeSet::new();
    for text in HOSTILE {
        let mut tried: Vec<_> =
            with_text_everywhere(&service, text).iter().map(|service| script(service, &slice, &pod, "z")).collect();
        tried.extend(with_text_everywhere(&slice, text).iter().map(|slice| script(&service, slice, &pod, "z")));
        tried.extend(with_text_everywhere(&pod, text).iter().map(|pod| script(&service, &slice, pod, "z")));
        tried.push(script(&service, &slice, &pod, text));
        for script in tried {
            // `0.0.0.0/0` is a network that may be meant.
            assert!(text == "0.0.0.0/0" || !script.contains(text), "{text:?}\n{script}");
            assert!(!script.contains("pwned") && !script.contains("unsound!"), "{text:?}\n{script}");
            all.insert(script);
        }
    }
    // The kernel takes each of them, one after the other.
    kernel_table(&Vec::from_iter(all));
}
