//! Migrations of storage (KEP-4192), requests of certificates that nobody needs any more (KEP-4317), and the bundle of the API's authority.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, condition};

const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1/storageversionmigrations";
const BOATS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/boats.example.com";

fn versions(stored: &str) -> Value {
    let one = |name: &str| {
        json!({"name": name, "served": true, "storage": name == stored,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    json!([one("v1"), one("v2")])
}

fn migration(name: &str, group: &str, resource: &str) -> Value {
    json!({"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration", "metadata": {"name": name},
        "spec": {"resource": {"group": group, "resource": resource}}})
}

#[tokio::test(start_paused = true)]
async fn objects_are_written_once_more_in_the_version_that_they_are_kept_in() {
    let cluster = Cluster::start(0).await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"}, "versions": versions("v1")}});
    cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let boats = "/apis/example.com/v1/namespaces/default/boats";
    let boat =
        |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": name}, "sails": 2});
    let before = cluster.post(boats, boat("old")).await;
    cluster.patch(BOATS, json!({"spec": {"versions": versions("v2")}})).await;
    assert_eq!(cluster.get(BOATS).await["status"]["storedVersions"], json!(["v1", "v2"]));
    let new = cluster.post(boats, boat("new")).await;
    cluster.post(MIGRATIONS, migration("all-boats", "example.com", "boats")).await;
    let place = format!("{MIGRATIONS}/all-boats");
    let ended = cluster.until(&place, |m| condition(m, "Running").0 == "False").await;
    assert_eq!(condition(&ended, "Succeeded").0, "True", "{ended}");
    assert_eq!(cluster.get(BOATS).await["status"]["storedVersions"], json!(["v2"]), "v1 may go now");
    assert_eq!(condition(&cluster.get(BOATS).await, "StorageMigrating").0, "False");
    let (old_now, new_now) = (cluster.get(&format!("{boats}/old")).await, cluster.get(&format!("{boats}/new")).await);
    assert_ne!(
        old_now["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"],
        "what was kept as v1 was written"
    );
    assert_eq!(
        new_now["metadata"]["resourceVersion"], new["metadata"]["resourceVersion"],
        "what is kept as v2 already wasn't"
    );
    assert_eq!(old_now["sails"], 2);
    cluster.patch(BOATS, json!({"spec": {"versions": [versions("v2")[1]]}})).await;
    assert_eq!(cluster.get(&format!("{}/old", boats.replace("v1", "v2"))).await["sails"], 2);
    // A second one of the same resource has its turn, and one of a resource that isn't there fails.
    cluster.post(MIGRATIONS, migration("again", "example.com", "boats")).await;
    cluster.until(&format!("{MIGRATIONS}/again"), |m| condition(m, "Succeeded").0 == "True").await;
    cluster.post(MIGRATIONS, migration("deployments", "apps", "deployments")).await;
    cluster.until(&format!("{MIGRATIONS}/deployments"), |m| condition(m, "Succeeded").0 == "True").await;
    for (name, group, resource, why) in [
        ("none", "example.com", "ships", "resource does not exist in discovery"),
        ("review", "authentication.k8s.io", "tokenreviews", "does not support discovery operations"),
    ] {
        cluster.post(MIGRATIONS, migration(name, group, resource)).await;
        let failed = cluster.until(&format!("{MIGRATIONS}/{name}"), |m| condition(m, "Failed").0 == "True").await;
        assert!(failed["status"]["conditions"].to_string().contains(why), "{failed}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_pods_certificates_go_after_a_quarter_of_an_hour() {
    use base64::Engine as _;
    let cluster = Cluster::start(0).await;
    let path = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    let stub = pki::new_key_and_request(pki::KeyType::Ed25519).unwrap().request;
    let stub = base64::engine::general_purpose::STANDARD.encode(stub);
    cluster
        .post(path, json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "metadata": {"name": "r"},
            "spec": {"signerName": "example.com/s", "podName": "p", "podUID": "1", "serviceAccountName": "a", "serviceAccountUID": "2",
                "nodeName": "n", "nodeUID": "3", "stubPKCS10Request": stub}}))
        .await;
    tokio::time::sleep(Duration::from_secs(14 * 60)).await;
    assert_eq!(cluster.list(path).await.len(), 1);
    cluster.until_list(path, |requests| requests.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn the_authority_of_the_api_is_a_bundle_that_comes_back() {
    let cluster = Cluster::start(0).await;
    let path = "/apis/certificates.k8s.io/v1/clustertrustbundles";
    let is_there = |bundles: &[Value]| bundles.len() == 1;
    let bundle = cluster.until_list(path, is_there).await.remove(0);
    let name = bundle["metadata"]["name"].as_str().unwrap().to_string();
    assert!(name.starts_with("kubernetes.io:kube-apiserver-serving:"), "{name}");
    assert_eq!(bundle["spec"]["signerName"], "kubernetes.io/kube-apiserver-serving");
    cluster.delete(&format!("{path}/{name}"), json!({})).await;
    let again = cluster
        .until_list(path, |bundles| is_there(bundles) && bundles[0]["metadata"]["uid"] != bundle["metadata"]["uid"])
        .await;
    assert_eq!(again[0]["spec"], bundle["spec"]);
}
