//! Which kinds are served, by docs/conformance/kinds.md, and what those do that came with v1.37.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::server::Server;

/// What discovery says of a resource: kind, scope, short names, categories, verbs, and verbs of subresources.
type Told = (String, String, BTreeSet<String>, BTreeSet<String>, BTreeSet<String>, BTreeMap<String, BTreeSet<String>>);

/// Group and version of a resource, and its plural.
type Key = (String, String);

const ALL: &str = "create delete deletecollection get list patch update watch";

fn words(cell: &str) -> BTreeSet<String> {
    cell.replace('`', "").split_whitespace().map(String::from).collect()
}

/// The rows of the document: those that are served, and those that aren't.
fn documented() -> (BTreeMap<Key, Told>, BTreeSet<Key>) {
    let (mut served, mut others) = (BTreeMap::new(), BTreeSet::new());
    let text = include_str!("../../../../docs/conformance/kinds.md");
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<String> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [_, version, plural, kind, scope, short, categories, verbs, subresources, _, here, _] = cells.as_slice()
        else {
            panic!("{row}");
        };
        let key = (version.clone(), plural.clone());
        if here != "served" {
            others.insert(key);
            continue;
        }
        let of_subresources = subresources
            .split(')')
            .filter_map(|one| one.trim().split_once(" ("))
            .map(|(name, verbs)| (name.to_string(), words(verbs)));
        let verbs = words(if verbs == "all" { ALL } else { verbs });
        let told = (kind.clone(), scope.clone(), words(short), words(categories), verbs, of_subresources.collect());
        assert!(served.insert(key, told).is_none(), "{row}");
    }
    (served, others)
}

fn texts(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(String::from)).collect()
}

#[tokio::test]
async fn the_kinds_of_v1_37_are_served_as_upstream_serves_them() {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let server = Server::start().await;
    let mut told = BTreeMap::new();
    for path in ["/api", "/apis"] {
        let (_, _, bytes) = server.get(path, AGGREGATED).await;
        let groups: Value = serde_json::from_slice(&bytes).unwrap();
        for group in groups["items"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                let name = match group["metadata"]["name"].as_str().unwrap_or("") {
                    "" => version["version"].as_str().unwrap().to_string(),
                    group => format!("{group}/{}", version["version"].as_str().unwrap()),
                };
                for resource in version["resources"].as_array().unwrap() {
                    let subresources = resource["subresources"].as_array().into_iter().flatten();
                    let of = |key: &str| resource[key].as_str().unwrap_or("").to_string();
                    told.insert(
                        (name.clone(), of("resource")),
                        (
                            resource["responseKind"]["kind"].as_str().unwrap().to_string(),
                            of("scope"),
                            texts(&resource["shortNames"]),
                            texts(&resource["categories"]),
                            texts(&resource["verbs"]),
                            subresources
                                .map(|s| (s["subresource"].as_str().unwrap().to_string(), texts(&s["verbs"])))
                                .collect(),
                        ),
                    );
                }
            }
        }
    }
    let (served, others) = documented();
    assert!(served.len() > 70 && others.len() > 20);
    let mut faults = Vec::new();
    for (key, wanted) in &served {
        match told.get(key) {
            Some(told) if told == wanted => {}
            told => faults.push(format!("{key:?}: {told:?}, and not {wanted:?}")),
        }
    }
    let more = told.keys().filter(|key| !served.contains_key(*key) && !key.0.starts_with("metrics.k8s.io/"));
    faults.extend(more.map(|key| format!("{key:?} isn't in the document")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A kind of v1.37: where its objects are, one, a patch that changes it, and a patch that is refused with words.
struct Row {
    path: &'static str,
    object: Value,
    change: Value,
    refused: Value,
    words: &'static str,
}

#[tokio::test]
async fn the_kinds_that_came_with_v1_37_live_as_all_others_do() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let authority =
        |name: &str| pki::Authority::load_or_create(folder.path(), name).unwrap().certificate_pem().to_string();
    let (a, b) = (authority("a"), authority("b"));
    let request = pki::new_key_and_request(pki::KeyType::Ed25519).unwrap().request;
    let request = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(request)
    };
    let rows = [
        Row {
            path: "/apis/certificates.k8s.io/v1/clustertrustbundles",
            object: json!({"kind": "ClusterTrustBundle", "metadata": {"name": "example.com:s:x"}, "spec": {"signerName": "example.com/s", "trustBundle": a}}),
            change: json!({"spec": {"trustBundle": b}}),
            refused: json!({"spec": {"trustBundle": "nonsense"}}),
            words: "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
        },
        Row {
            path: "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests",
            object: json!({"kind": "PodCertificateRequest", "metadata": {"name": "x"}, "spec": {"signerName": "example.com/s", "podName": "p", "podUID": "1",
                "serviceAccountName": "a", "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3", "stubPKCS10Request": request}}),
            change: json!({"metadata": {"labels": {"a": "b"}}}),
            refused: json!({"spec": {"podName": "q"}}),
            words: "spec: Invalid value",
        },
        Row {
            path: "/apis/storagemigration.k8s.io/v1/storageversionmigrations",
            object: json!({"kind": "StorageVersionMigration", "metadata": {"name": "x"}, "spec": {"resource": {"group": "apps", "resource": "deployments"}}}),
            change: json!({"metadata": {"labels": {"a": "b"}}}),
            refused: json!({"spec": {"resource": {"resource": "daemonsets"}}}),
            words: "spec: Invalid value",
        },
        Row {
            path: "/apis/resource.k8s.io/v1/devicetaintrules",
            object: json!({"kind": "DeviceTaintRule", "metadata": {"name": "x"}, "spec": {"deviceSelector": {"driver": "d.example.com", "pool": "a/b"},
                "taint": {"key": "example.com/broken", "effect": "NoSchedule"}}}),
            change: json!({"spec": {"taint": {"effect": "NoExecute"}}}),
            refused: json!({"spec": {"taint": {"effect": "Whatever"}}}),
            words: "spec.taint.effect: Unsupported value: \"Whatever\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
        },
    ];
    for Row { path, mut object, change, refused, words } in rows {
        let version = path.trim_start_matches("/apis/").split('/').take(2).collect::<Vec<_>>().join("/");
        object["apiVersion"] = version.into();
        let made = server.create(path, object.clone()).await;
        let one = format!("{path}/{}", made["metadata"]["name"].as_str().unwrap());
        assert_eq!(server.read(path).await["items"].as_array().unwrap().len(), 1, "{path}");
        let (code, changed) = server.patch(&one, "merge-patch+json", &change).await;
        assert_eq!(code, 200, "{changed}");
        assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "{path}");
        let (code, answer) = server.patch(&one, "merge-patch+json", &refused).await;
        assert!(code == 422 && answer["message"].as_str().unwrap().contains(words), "{path}: {answer}");
        // An update says what it was made from.
        object["metadata"]["name"] = made["metadata"]["name"].clone();
        let (code, answer) = server.json("PUT", &one, &object).await;
        assert_eq!(code, 422, "{answer}");
        let (code, answer) = server.json("DELETE", &format!("{path}?labelSelector=a%3Dc"), &Value::Null).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(server.read(&one).await["kind"], object["kind"]);
        let (code, answer) = server.json("DELETE", &one, &Value::Null).await;
        assert_eq!(code, 200, "{answer}");
    }
}

#[tokio::test]
async fn addresses_have_a_form_that_everybody_reads_alike() {
    let mapped = "must not be an IPv4-mapped IPv6 address";
    let service = |more: &str| format!("Service: {{spec: {{ports: [{{port: 80}}], {more}}}}}");
    let policy = |cidr: &str| {
        format!(
            "NetworkPolicy: {{spec: {{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: '{cidr}'}}}}]}}]}}}}"
        )
    };
    let rows = [
        ("Pod spec: {hostAliases: [{ip: 10.0.0.1, hostnames: [a]}]}".to_string(), ""),
        ("Pod spec: {hostAliases: [{ip: 010.0.0.1, hostnames: [a]}]}".into(), "must not have leading 0s"),
        ("Pod spec: {hostAliases: [{ip: '::ffff:10.0.0.1', hostnames: [a]}]}".into(), mapped),
        ("Pod spec: {hostAliases: [{ip: 10.0.0, hostnames: [a]}]}".into(), "must be a valid IP address"),
        (service("externalIPs: ['::ffff:192.0.2.1']"), mapped),
        (policy("10.0.0.0/8"), ""),
        (policy("10.0.0.1/8"), "must not have bits set beyond the prefix length"),
        (policy("10.0.0.00/8"), "must not have leading 0s in IP or prefix length"),
        (policy("::ffff:10.0.0.0/104"), "must not have an IPv4-mapped IPv6 address"),
        (policy("10.0.0.0"), "must be a valid CIDR value"),
    ];
    crate::reports::judged(&rows.each_ref().map(|(row, words)| (row.as_str(), *words))).await;
}
