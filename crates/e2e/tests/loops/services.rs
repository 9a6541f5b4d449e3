//! Endpoints of services, load balancers, ingresses.

use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, name};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}, annotations: {{{annotations}}}}}, spec: {{containers: \
         [{{name: c, image: one, ports: [{{name: http, containerPort: 8080}}]}}]}}}}"
    )
}

/// `pod ready|serving|terminating …` of each endpoint, in order.
fn endpoints(slices: &[Value]) -> Vec<String> {
    let word = |endpoint: &Value| {
        let holds = |kind: &str| endpoint["conditions"][kind] == true;
        let kinds = ["ready", "serving", "terminating"].into_iter().filter(|k| holds(k));
        format!("{} {}", endpoint["targetRef"]["name"].as_str().unwrap_or(""), kinds.collect::<Vec<_>>().join(" "))
    };
    let mut all: Vec<String> =
        slices.iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten()).map(word).collect();
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn slices_follow_pods_through_their_lives() {
    let cluster = Cluster::start(1).await;
    cluster
        .create("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}")
        .await;
    let slices = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dweb");
    cluster.create(&pod("a", "fake/lingers: '20'")).await;
    cluster.create(&pod("b", "fake/ready: '30'")).await;
    cluster.until_list(&slices, |s| endpoints(s) == ["a ready serving", "b "]).await;
    let found = cluster.until_list(&slices, |s| endpoints(s) == ["a ready serving", "b ready serving"]).await;
    assert_eq!(found[0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(found[0]["endpoints"][0]["nodeName"], "fake-0");
    let legacy = cluster
        .until("/api/v1/namespaces/default/endpoints/web", |e| {
            e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 2)
        })
        .await;
    assert_eq!(legacy["subsets"][0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    cluster.delete(&format!("{PODS}/a"), json!({})).await;
    cluster.until_list(&slices, |s| endpoints(s) == ["a serving terminating", "b ready serving"]).await;
    cluster.until_list(&slices, |s| endpoints(s) == ["b ready serving"]).await;
    // Unready ones too, where the service wants them.
    cluster.create(&pod("c", "fake/ready: never")).await;
    cluster.until_list(&slices, |s| endpoints(s) == ["b ready serving", "c "]).await;
    cluster.patch("/api/v1/namespaces/default/services/web", json!({"spec": {"publishNotReadyAddresses": true}})).await;
    cluster.until_list(&slices, |s| endpoints(s) == ["b ready serving", "c ready"]).await;
    cluster.delete("/api/v1/namespaces/default/services/web", json!({})).await;
    cluster.until_list(&slices, <[Value]>::is_empty).await;
    cluster.until("/api/v1/namespaces/default/endpoints/web", Value::is_null).await;
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_endpoints_are_cut_into_slices() {
    let cluster = Cluster::start(4).await;
    cluster
        .create(
            "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}",
        )
        .await;
    cluster
        .create(
            "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: web}, spec: {replicas: 250, selector: {matchLabels: {app: web}}, \
             template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: one}]}}}}",
        )
        .await;
    let slices = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dweb");
    let size = |s: &Value| s["endpoints"].as_array().map_or(0, Vec::len);
    let found = cluster.until_list(&slices, |s| s.iter().map(size).sum::<usize>() == 250).await;
    assert!(found.len() >= 3 && found.iter().all(|s| size(s) <= 100));
}

#[tokio::test(start_paused = true)]
async fn load_balancers_and_ingresses_get_the_addresses_of_nodes() {
    let cluster = Cluster::start(2).await;
    cluster
        .create("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}}")
        .await;
    cluster.create(&pod("a", "")).await;
    cluster
        .until("/api/v1/namespaces/default/services/web", |s| {
            s["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.200"
        })
        .await;
    cluster
        .create(
            "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {rules: [{http: {paths: [{path: /, pathType: Prefix, \
             backend: {service: {name: web, port: {number: 80}}}}]}}]}}",
        )
        .await;
    // Who makes one may go on to change what he was answered: nobody else writes as long as it isn't left alone.
    let ingress = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/i";
    for turn in 0..3 {
        let version = cluster.get(ingress).await["metadata"]["resourceVersion"].clone();
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        let change =
            serde_json::json!({"metadata": {"resourceVersion": version, "annotations": {"turn": turn.to_string()}}});
        let changed = cluster.try_patch(ingress, &change).await.unwrap();
        assert!(changed["status"]["loadBalancer"]["ingress"].is_null());
    }
    cluster.until(ingress, |i| i["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.200").await;
    // Others may have it: a class of one's own.
    cluster
        .create(
            "{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {type: LoadBalancer, loadBalancerClass: example.com/lb, selector: {app: web}, ports: [{port: 81}]}}",
        )
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let other = cluster.get("/api/v1/namespaces/default/services/other").await;
    assert!(other["status"]["loadBalancer"]["ingress"].is_null());
    assert_eq!((name(&other), condition(&other, "").0.as_str()), ("other", ""));
}

#[tokio::test(start_paused = true)]
async fn labels_of_a_service_stand_on_its_slices_and_endpoints() {
    let cluster = Cluster::start(1).await;
    let service = "/api/v1/namespaces/default/services/web";
    let legacy = "/api/v1/namespaces/default/endpoints/web";
    cluster
        .create(
            "{apiVersion: v1, kind: Service, metadata: {name: web, labels: {team: a, tier: front}}, spec: {clusterIP: None, \
             selector: {app: web}, ports: [{port: 80, targetPort: http}]}}",
        )
        .await;
    cluster.create(&pod("a", "")).await;
    // It has no port of that name: nobody can reach it by the service.
    cluster.create(&pod("b", "").replace("name: http,", "name: other,")).await;
    let slices = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dweb");
    cluster.until_list(&slices, |s| endpoints(s) == ["a ready serving", "b ready serving"]).await;
    let told = cluster.until(legacy, |e| e["subsets"].as_array().is_some_and(|s| s.len() == 1)).await;
    assert_eq!(told["subsets"][0]["addresses"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["subsets"][0]["addresses"][0]["targetRef"]["name"], "a");
    assert_eq!(told["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    cluster.patch(service, json!({"metadata": {"labels": {"team": "b", "tier": null}}})).await;
    let fits = |of: &Value| of["metadata"]["labels"]["team"] == "b" && of["metadata"]["labels"]["tier"].is_null();
    cluster.until_list(&slices, |s| s.len() == 2 && s.iter().all(fits)).await;
    cluster.until(legacy, fits).await;
    // Those that somebody writes by hand carry theirs along, and what is said of them.
    cluster.create("{apiVersion: v1, kind: Service, metadata: {name: own}, spec: {ports: [{port: 80}]}}").await;
    cluster
        .create(
            "{apiVersion: v1, kind: Endpoints, metadata: {name: own, labels: {team: a}, annotations: {note: one}}, \
             subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{port: 80}]}]}",
        )
        .await;
    let mirrored = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Down");
    let of = |s: &[Value], team: &str, note: &str| {
        s.len() == 1 && s[0]["metadata"]["labels"]["team"] == team && s[0]["metadata"]["annotations"]["note"] == note
    };
    cluster.until_list(&mirrored, |s| of(s, "a", "one")).await;
    let change = json!({"metadata": {"labels": {"team": "b"}, "annotations": {"note": "two"}}});
    cluster.patch("/api/v1/namespaces/default/endpoints/own", change).await;
    cluster.until_list(&mirrored, |s| of(s, "b", "two")).await;
}
