//! What the server refuses of statuses, kind by kind, and what of the metadata that all kinds share.

use apimachinery::patch::merge_patch;
use serde_json::{Value, json};

use crate::server::Server;

mod jobs;

const NAMESPACED: &str = "namespaces/default";

/// An object, with what its status is at first, and changes of the status with the cause that each has (`""` for none).
struct Kind {
    path: String,
    object: Value,
    status: Value,
    changes: Vec<(Value, &'static str)>,
}

fn kind(root: &str, plural: &str, object: &str, status: Value, changes: Vec<(Value, &'static str)>) -> Kind {
    let object = read(object);
    Kind { path: format!("{root}/{NAMESPACED}/{plural}"), object, status, changes }
}

fn read(text: &str) -> Value {
    apimachinery::yaml::from_str(text).unwrap()
}

const TEMPLATE: &str = "{metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}";

fn workloads() -> Vec<Kind> {
    let of = |kind: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: {kind}, metadata: {{name: x}}, spec: {{selector: {{matchLabels: {{a: b}}}}, template: {TEMPLATE}}}}}"
        )
    };
    vec![
        kind(
            "/apis/apps/v1",
            "deployments",
            &of("Deployment"),
            json!({"replicas": 2, "collisionCount": 3}),
            vec![
                (json!({"readyReplicas": 2, "availableReplicas": 1, "unavailableReplicas": 1}), ""),
                (
                    json!({"unavailableReplicas": -1}),
                    "status.unavailableReplicas FieldValueInvalid must be greater than or equal to 0",
                ),
                (
                    json!({"readyReplicas": 3}),
                    "status.readyReplicas FieldValueInvalid cannot be greater than status.replicas",
                ),
                (
                    json!({"updatedReplicas": 3}),
                    "status.updatedReplicas FieldValueInvalid cannot be greater than status.replicas",
                ),
                (
                    json!({"availableReplicas": 1}),
                    "status.availableReplicas FieldValueInvalid cannot be greater than readyReplicas",
                ),
                (json!({"collisionCount": 2}), "status.collisionCount FieldValueInvalid cannot be decremented"),
                (json!({"collisionCount": null}), "status.collisionCount FieldValueInvalid cannot be decremented"),
            ],
        ),
        kind(
            "/apis/apps/v1",
            "replicasets",
            &of("ReplicaSet"),
            json!({"replicas": 1}),
            vec![
                (json!({"readyReplicas": 1, "availableReplicas": 1}), ""),
                (
                    json!({"fullyLabeledReplicas": 2}),
                    "status.fullyLabeledReplicas FieldValueInvalid cannot be greater than status.replicas",
                ),
                (
                    json!({"observedGeneration": -1}),
                    "status.observedGeneration FieldValueInvalid must be greater than or equal to 0",
                ),
            ],
        ),
        kind(
            "/apis/apps/v1",
            "statefulsets",
            &of("StatefulSet"),
            json!({"replicas": 1}),
            vec![
                (json!({"currentReplicas": 1, "readyReplicas": 1}), ""),
                (
                    json!({"currentReplicas": 2}),
                    "status.currentReplicas FieldValueInvalid cannot be greater than status.replicas",
                ),
            ],
        ),
        kind(
            "/apis/apps/v1",
            "daemonsets",
            &of("DaemonSet"),
            json!({}),
            vec![
                (json!({"numberReady": 5}), ""),
                (
                    json!({"numberAvailable": -1}),
                    "status.numberAvailable FieldValueInvalid must be greater than or equal to 0",
                ),
            ],
        ),
        kind(
            "/api/v1",
            "replicationcontrollers",
            &format!(
                "{{apiVersion: v1, kind: ReplicationController, metadata: {{name: x}}, spec: {{template: {TEMPLATE}}}}}"
            ),
            json!({"replicas": 1}),
            vec![(
                json!({"readyReplicas": 2}),
                "status.readyReplicas FieldValueInvalid cannot be greater than status.replicas",
            )],
        ),
    ]
}

fn pods_and_budgets() -> Vec<Kind> {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {restartPolicy: OnFailure, containers: [{name: c, image: i}, {name: d, image: i}]}}";
    let ended = |name: &str, code: u32| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}});
    let runs = |name: &str| json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}});
    vec![
        kind(
            "/api/v1",
            "pods",
            pod,
            json!({"containerStatuses": [ended("c", 0), ended("d", 1)]}),
            vec![
                (json!({"containerStatuses": [ended("c", 0), runs("d")]}), ""),
                (json!({"qosClass": null}), ""),
                (json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), ""),
                (json!({"conditions": [{"type": "example.com/Own", "status": "True"}]}), ""),
                (
                    json!({"containerStatuses": [runs("c")]}),
                    "status.containerStatuses[0].state FieldValueForbidden may not be transitioned to non-terminated state",
                ),
                (json!({"qosClass": "Guaranteed"}), "status.qosClass FieldValueInvalid field is immutable"),
                (json!({"nominatedNodeName": "A b"}), "status.nominatedNodeName FieldValueInvalid"),
                (
                    json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
                    "status.podIPs FieldValueInvalid may specify no more than one IP for each IP family",
                ),
                (
                    json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "x"}]}),
                    "status.podIPs[0].ip FieldValueInvalid must be a valid IP address",
                ),
                (
                    json!({"conditions": [{"type": "no type", "status": "True"}]}),
                    "status.conditions[0].type FieldValueInvalid",
                ),
            ],
        ),
        kind(
            "/apis/autoscaling/v2",
            "horizontalpodautoscalers",
            "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: x}, spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: d}}}",
            json!({}),
            vec![(
                json!({"currentReplicas": -1, "desiredReplicas": 1}),
                "status.currentReplicas FieldValueInvalid must be greater than or equal to 0",
            )],
        ),
        kind(
            "/apis/policy/v1",
            "poddisruptionbudgets",
            "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: x}, spec: {minAvailable: 1}}",
            json!({"currentHealthy": 1, "desiredHealthy": 1, "disruptionsAllowed": 0, "expectedPods": 1}),
            vec![(
                json!({"disruptionsAllowed": -1}),
                "status.disruptionsAllowed FieldValueInvalid must be greater than or equal to 0",
            )],
        ),
    ]
}

fn addresses_and_nodes() -> Vec<Kind> {
    vec![
        kind(
            "/apis/networking.k8s.io/v1",
            "ingresses",
            "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}",
            json!({}),
            vec![
                (json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"hostname": "a.b"}]}}), ""),
                (
                    json!({"loadBalancer": {"ingress": [{"ip": "a.b"}]}}),
                    "status.loadBalancer.ingress[0].ip FieldValueInvalid must be a valid IP address",
                ),
                (
                    json!({"loadBalancer": {"ingress": [{"hostname": "10.0.0.1"}]}}),
                    "status.loadBalancer.ingress[0].hostname FieldValueInvalid must be a DNS name, not an IP address",
                ),
            ],
        ),
        kind(
            "/api/v1",
            "services",
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 80}]}}",
            json!({}),
            vec![(
                json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}),
                "status.loadBalancer.ingress FieldValueForbidden may only be used when `spec.type` is \"LoadBalancer\"",
            )],
        ),
        kind(
            "/api/v1",
            "persistentvolumeclaims",
            "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
            json!({}),
            vec![
                (json!({"allocatedResourceStatuses": {"storage": "NodeResizePending"}}), ""),
                (json!({"capacity": {"storage": "-1"}}), "status.capacity[storage] FieldValueInvalid"),
                (
                    json!({"allocatedResourceStatuses": {"storage": "Soon"}}),
                    "status.allocatedResourceStatuses[storage] FieldValueNotSupported",
                ),
            ],
        ),
        kind(
            "/api/v1",
            "resourcequotas",
            "{apiVersion: v1, kind: ResourceQuota, metadata: {name: x}, spec: {hard: {pods: 1}}}",
            json!({}),
            vec![
                (json!({"hard": {"pods": "1"}, "used": {"pods": "0"}}), ""),
                (json!({"used": {"pods": "-1"}}), "status.used[pods] FieldValueInvalid"),
                (json!({"used": {"pods": "1500m"}}), "status.used[pods] FieldValueInvalid must be an integer"),
            ],
        ),
        Kind {
            path: "/api/v1/namespaces".into(),
            object: read("{apiVersion: v1, kind: Namespace, metadata: {name: x}}"),
            status: json!({}),
            changes: vec![(
                json!({"phase": "Terminating"}),
                "status.Phase FieldValueInvalid may only be 'Active' if `deletionTimestamp` is empty",
            )],
        },
        Kind {
            path: "/api/v1/nodes".into(),
            object: read("{apiVersion: v1, kind: Node, metadata: {name: x}}"),
            status: json!({}),
            changes: vec![
                (
                    json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "10.0.0.1"}]}),
                    "",
                ),
                (
                    json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "10.0.0.1"}]}),
                    "status.addresses[1] FieldValueDuplicate",
                ),
                (json!({"capacity": {"cpu": "-1"}}), "status.capacity[cpu] FieldValueInvalid"),
            ],
        },
    ]
}

#[tokio::test]
async fn statuses_are_refused_for_what_upstream_refuses() {
    let server = Server::start().await;
    server.create_account().await;
    for kind in workloads().into_iter().chain(pods_and_budgets()).chain(addresses_and_nodes()).chain(jobs::kinds()) {
        server.create(&kind.path, kind.object.clone()).await;
        let path = format!("{}/{}/status", kind.path, kind.object["metadata"]["name"].as_str().unwrap());
        let (code, answer) = server.json("PATCH", &path, &json!({"status": kind.status})).await;
        assert_eq!(code, 200, "{path}: {answer}");
        for (change, want) in kind.changes {
            let (code, answer) =
                server.json("PATCH", &format!("{path}?dryRun=All"), &json!({ "status": change })).await;
            let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
            let (place, words) = want.match_indices(' ').nth(1).map_or((want, ""), |(at, _)| want.split_at(at));
            let text = |cause: &Value, key: &str| cause[key].as_str().unwrap().to_string();
            let fits = |c: &Value| {
                format!("{} {}", text(c, "field"), text(c, "reason")) == place
                    && text(c, "message").contains(words.trim())
            };
            match want {
                "" => assert_eq!(code, 200, "{path} {change}: {answer}"),
                _ => assert!(causes.len() == 1 && causes.iter().all(fits), "{path} {change}: {want}: {code} {answer}"),
            }
        }
    }
}

#[tokio::test]
async fn what_a_spec_may_not_say_any_more_stops_no_status() {
    let server = Server::start().await;
    server.create_account().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = read("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: i}]}}");
    let made = server.create(pods, pod).await;
    // What else is sent with a status counts for nothing.
    let mut sent = made.clone();
    merge_patch(&mut sent, &json!({"spec": {"nodeName": "no name", "containers": []}, "status": {"phase": "Running"}}));
    let (code, answer) = server.json("PUT", &format!("{pods}/x/status"), &sent).await;
    assert_eq!(
        (code.as_u16(), &answer["status"]["phase"], &answer["spec"]),
        (200, &json!("Running"), &made["spec"]),
        "{answer}"
    );
}

#[tokio::test]
async fn owners_finalizers_and_beginnings_of_names_are_checked() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let owner = |name: &str, controls: bool| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": controls});
    for (metadata, want) in [
        (json!({"name": "a", "ownerReferences": [owner("p", true), owner("q", false)]}), ""),
        (json!({"generateName": "b-"}), ""),
        (
            json!({"name": "c", "ownerReferences": [owner("p", true), owner("q", true)]}),
            "metadata.ownerReferences: Only one reference can have Controller set to true. Found \"true\" in references for Pod/p and Pod/q",
        ),
        (
            json!({"name": "c", "ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}]}),
            "metadata.ownerReferences: /v1, Kind=Event is disallowed from being an owner",
        ),
        (
            json!({"name": "c", "ownerReferences": [{"kind": "Pod", "name": "p", "uid": "u"}]}),
            "metadata.ownerReferences.apiVersion: version must not be empty",
        ),
        (
            json!({"name": "c", "finalizers": ["orphan", "foregroundDeletion"]}),
            "metadata.finalizers: finalizer orphan and foregroundDeletion cannot be both set",
        ),
        (
            json!({"name": "c", "finalizers": ["mine"]}),
            "metadata.finalizers[0]: name is neither a standard finalizer name nor is it fully qualified",
        ),
        (json!({"generateName": "B-"}), "metadata.generateName: "),
        (json!({"generateName": "-"}), "metadata.generateName: "),
    ] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        let (code, answer) = server.json("POST", maps, &object).await;
        let (field, words) = want.split_once(": ").unwrap_or_default();
        let fits = |c: &Value| c["field"] == field && c["message"].as_str().unwrap().ends_with(words);
        match want {
            "" => assert_eq!(code, 201, "{metadata}: {answer}"),
            _ => assert!(
                answer["details"]["causes"].as_array().is_some_and(|all| all.iter().any(fits)),
                "{metadata}: {answer}"
            ),
        }
    }
}
