//! What the words of the table stand for.

use serde_json::{Value, json};

use super::{binding, pod, role, secure, service, set, signing};

/// The body of a line: nothing, JSON, a word with JSON or words behind it, or a bomb. `node` is the uid of n1.
pub fn body(text: &str, name: &str, node: &str) -> Vec<u8> {
    if let Some(bomb) = text.strip_prefix('@') {
        return bomb_of(bomb);
    }
    if text.is_empty() || text.starts_with(['{', '[']) {
        return text.into();
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let change: Value = serde_json::from_str(rest).unwrap_or_default();
    let words: Vec<&str> = rest.split(' ').collect();
    let template = |of: &str, version: &str| {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": if of == "Job" { "Never" } else { "Always" },
            "containers": [secure("c")]}});
        let mut object =
            json!({"apiVersion": version, "kind": of, "metadata": {"name": name}, "spec": {"template": template}});
        if of == "Deployment" {
            object["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
        }
        set(&mut object["spec"], &change);
        object
    };
    let object = match word {
        "pod" => pod(name, &change),
        "container" => {
            let mut container = secure("c");
            set(&mut container, &change);
            pod(name, &json!({"containers": [container]}))
        }
        "context" => {
            let mut container = secure("c");
            set(&mut container["securityContext"], &change);
            pod(name, &json!({"containers": [container]}))
        }
        "debug" => {
            json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i", "securityContext": change}]}})
        }
        "mirror" => {
            let mut pod = pod(name, &change);
            pod["metadata"]["annotations"] =
                json!({"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file"});
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node, "controller": true}]);
            pod
        }
        "service" => service(name, &change),
        "job" => template("Job", "batch/v1"),
        "deployment" => template("Deployment", "apps/v1"),
        "csr" => signing(name, words[0], words[1], words[2], &format!("{} auth", words[3])),
        "role" => role(name, words[0], &json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])),
        "grant" => binding(name, words[0], words[1], words[2]),
        other => panic!("what is {other:?}?"),
    };
    object.to_string().into()
}

/// What is small and becomes large, or is what nothing expects.
fn bomb_of(name: &str) -> Vec<u8> {
    let copies = |into: &dyn Fn(usize) -> (String, String), count: usize| {
        let steps = (0..count).map(|n| {
            let (from, path) = into(n);
            json!({"op": "copy", "from": from, "path": path})
        });
        Value::from_iter(steps).to_string()
    };
    let text = match name {
        "deep" => "[".repeat(100_000) + &"]".repeat(100_000),
        "brackets" => format!("a: {}", "[".repeat(100_000)),
        "values" => format!("{{\"x\": [{}]}}", vec!["{\"\":0}"; 300_000].join(",")),
        "long" => format!("\"{}\"", "x".repeat(4 << 20)),
        "map" => json!({"metadata": {"name": "x"}, "data": {"a": "x".repeat(2 << 20)}}).to_string(),
        "aliases" => format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 30_000].join(","), vec!["*a"; 30_000].join(",")),
        "copies" => copies(&|n| ("/data".into(), format!("/data/k{n}")), 40),
        "nested" => copies(&|_| ("/metadata".into(), "/metadata/annotations".into()), 40),
        "steps" => copies(&|_| ("/data/a".into(), "/data/b".into()), 10_001),
        other => panic!("what is @{other}?"),
    };
    text.into()
}

/// A selector that is nothing but brackets.
pub fn selector() -> String {
    format!("a%20in%20{}", "(".repeat(20_000))
}
