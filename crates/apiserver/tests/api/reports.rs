//! What public reports of faults stand for, as rules: siblings of each (docs/conformance/reports.md). A row is an object and what the
//! server makes of it.

use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

/// Where objects of a kind are, and the start that all of them have.
fn place(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "ConfigMap" => ("/api/v1/namespaces/default/configmaps", "v1"),
        "Secret" => ("/api/v1/namespaces/default/secrets", "v1"),
        "Service" => ("/api/v1/namespaces/default/services", "v1"),
        "ServiceAccount" => ("/api/v1/namespaces/default/serviceaccounts", "v1"),
        "ResourceQuota" => ("/api/v1/namespaces/default/resourcequotas", "v1"),
        "LimitRange" => ("/api/v1/namespaces/default/limitranges", "v1"),
        "Pod" => ("/api/v1/namespaces/default/pods", "v1"),
        "Node" => ("/api/v1/nodes", "v1"),
        "PersistentVolume" => ("/api/v1/persistentvolumes", "v1"),
        "PersistentVolumeClaim" => ("/api/v1/namespaces/default/persistentvolumeclaims", "v1"),
        "Deployment" => ("/apis/apps/v1/namespaces/default/deployments", "apps/v1"),
        "StatefulSet" => ("/apis/apps/v1/namespaces/default/statefulsets", "apps/v1"),
        "Job" => ("/apis/batch/v1/namespaces/default/jobs", "batch/v1"),
        "CronJob" => ("/apis/batch/v1/namespaces/default/cronjobs", "batch/v1"),
        "HorizontalPodAutoscaler" => {
            ("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", "autoscaling/v2")
        }
        "NetworkPolicy" => ("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", "networking.k8s.io/v1"),
        "Ingress" => ("/apis/networking.k8s.io/v1/namespaces/default/ingresses", "networking.k8s.io/v1"),
        "Role" => ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", "rbac.authorization.k8s.io/v1"),
        "ClusterRole" => ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "rbac.authorization.k8s.io/v1"),
        "RoleBinding" => {
            ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", "rbac.authorization.k8s.io/v1")
        }
        "ClusterRoleBinding" => {
            ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "rbac.authorization.k8s.io/v1")
        }
        "StorageClass" => ("/apis/storage.k8s.io/v1/storageclasses", "storage.k8s.io/v1"),
        "CSIStorageCapacity" => {
            ("/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities", "storage.k8s.io/v1")
        }
        "RuntimeClass" => ("/apis/node.k8s.io/v1/runtimeclasses", "node.k8s.io/v1"),
        "Lease" => ("/apis/coordination.k8s.io/v1/namespaces/default/leases", "coordination.k8s.io/v1"),
        "EndpointSlice" => ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", "discovery.k8s.io/v1"),
        other => panic!("{other} has no place"),
    }
}

/// Sends what a row says, as a trial: `Kind: rest of the object`, in YAML. A `Pod:` is a container, `Pod spec:` the rest of its spec.
async fn send(server: &Server, row: &str) -> (u16, Value) {
    let (kind, text) = row.split_once(": ").unwrap();
    let rest: Value = apimachinery::yaml::from_str(text).unwrap_or_else(|e| panic!("{row}: {e}"));
    let (kind, rest) = match kind {
        "Pod" => ("Pod", json!({"spec": {"containers": [rest]}})),
        "Pod spec" => ("Pod", json!({ "spec": rest })),
        other => (other, rest),
    };
    let (path, version) = place(kind);
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
    for (key, value) in rest.as_object().unwrap() {
        object[key] = value.clone();
    }
    if kind == "Pod" {
        let containers = object["spec"].as_object_mut().unwrap().entry("containers").or_insert(json!([{}]));
        for container in containers.as_array_mut().into_iter().flatten() {
            for (key, value) in [("name", "c"), ("image", "i:1")] {
                container.as_object_mut().unwrap().entry(key).or_insert(value.into());
            }
        }
    }
    let (code, answer) = server.json("POST", &format!("{path}?dryRun=All"), &object).await;
    (code.as_u16(), answer)
}

/// Every row is accepted, and at a pointer there is a value (JSON; null is nothing).
async fn kept(rows: &[(&str, &str, Value)]) {
    let server = Server::start().await;
    server.create_account().await;
    for (row, pointer, want) in rows {
        let (code, answer) = send(&server, row).await;
        assert_eq!(code, 201, "{row}: {answer}");
        assert_eq!(answer.pointer(pointer).unwrap_or(&Value::Null), want, "{row}: {pointer}");
    }
}

/// Every row is refused with words that are given, or accepted where they are empty.
pub async fn judged(rows: &[(&str, &str)]) {
    let server = Server::start().await;
    server.create_account().await;
    for (row, words) in rows {
        let (code, answer) = send(&server, row).await;
        let message = answer["message"].as_str().unwrap_or("");
        let right = if words.is_empty() { code == 201 } else { code == 422 && message.contains(words) };
        assert!(right, "{row}: {code} {answer}");
    }
}

const TEMPLATE: &str = "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:1'}]}}";

#[tokio::test]
async fn null_is_the_zero_value_in_every_kind() {
    let deployment = format!(
        "Deployment: {{spec: {{replicas: null, strategy: null, minReadySeconds: null, selector: {{matchLabels: {{a: b}}}}, {TEMPLATE}}}}}"
    );
    kept(&[
        ("ConfigMap: {data: {a: null}, binaryData: {b: null}}", "/data/a", json!("")),
        ("ConfigMap: {data: {a: null}, binaryData: {b: null}}", "/binaryData/b", json!("")),
        ("Secret: {data: {a: null}, stringData: {b: null}}", "/data", json!({"a": "", "b": ""})),
        ("ConfigMap: {metadata: {name: x, labels: {a: null}, finalizers: null}}", "/metadata/labels/a", json!("")),
        ("Pod: {args: [null, a], command: null}", "/spec/containers/0/args", json!(["", "a"])),
        ("Pod: {resources: {limits: {cpu: null}}}", "/spec/containers/0/resources/limits/cpu", json!("0")),
        ("Pod: {livenessProbe: null}", "/spec/containers/0/livenessProbe", Value::Null),
        ("Pod: {env: [{name: A, value: null}]}", "/spec/containers/0/env", json!([{"name": "A"}])),
        ("Pod spec: {nodeSelector: {a: null}}", "/spec/nodeSelector/a", json!("")),
        ("Pod spec: {imagePullSecrets: [null]}", "/spec/imagePullSecrets", json!([{}])),
        ("Pod spec: {dnsPolicy: null}", "/spec/dnsPolicy", json!("ClusterFirst")),
        ("Pod spec: {volumes: [{name: v, emptyDir: null}]}", "/spec/volumes/0/emptyDir", json!({})),
        ("Service: {spec: {ports: [{port: 80, targetPort: null}]}}", "/spec/ports/0/targetPort", json!(80)),
        ("Service: {spec: {ports: [{port: 80}], selector: {a: null}}}", "/spec/selector/a", json!("")),
        ("ServiceAccount: {secrets: [null]}", "/secrets", json!([{}])),
        ("NetworkPolicy: {spec: {podSelector: null, ingress: [null]}}", "/spec/ingress", json!([{}])),
        ("ResourceQuota: {spec: {hard: {pods: null}}}", "/spec/hard/pods", json!("0")),
        ("Role: {rules: null}", "/rules", Value::Null),
        ("StorageClass: {provisioner: p, parameters: {a: null}}", "/parameters/a", json!("")),
        ("Lease: {spec: {renewTime: null}}", "/spec/renewTime", Value::Null),
        (deployment.as_str(), "/spec/replicas", json!(1)),
        (deployment.as_str(), "/spec/strategy/type", json!("RollingUpdate")),
    ])
    .await;
    judged(&[
        ("ConfigMap: {metadata: {name: x, finalizers: [null]}}", "metadata.finalizers: Invalid value"),
        ("ConfigMap: {metadata: {name: x, ownerReferences: [null]}}", "metadata.ownerReferences.apiVersion"),
        ("Pod: {env: [null]}", "spec.containers[0].env[0].name: Required value"),
        ("Pod spec: {tolerations: [null]}", "spec.tolerations[0]"),
        ("Pod spec: {volumes: [null]}", "spec.volumes[0].name: Required value"),
        ("Pod spec: {initContainers: [null]}", "spec.initContainers[0].name: Required value"),
        ("Service: {spec: {ports: [null]}}", "spec.ports[0].port: Invalid value"),
        ("Role: {rules: [null]}", "rules[0].verbs: Required value"),
    ])
    .await;
}

#[tokio::test]
async fn amounts_have_one_form_in_every_field() {
    let hpa = "HorizontalPodAutoscaler: {spec: {scaleTargetRef: {kind: Deployment, name: a, apiVersion: apps/v1}, maxReplicas: 3, \
               metrics: [{type: External, external: {metric: {name: m}, target: {type: AverageValue, averageValue: '1.5'}}}]}}";
    let claim =
        "PersistentVolumeClaim: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1024Mi}}}}";
    let volume =
        "PersistentVolume: {spec: {capacity: {storage: 1.5Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}}";
    let downward = "Pod spec: {volumes: [{name: v, downwardAPI: {items: [{path: a, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: '0.001'}}]}}]}";
    kept(&[
        ("Pod: {resources: {limits: {memory: 1024Ki}}}", "/spec/containers/0/resources/limits/memory", json!("1Mi")),
        ("Pod: {resources: {limits: {cpu: 0.1}}}", "/spec/containers/0/resources/limits/cpu", json!("100m")),
        // Pods have no less than a thousandth of anything.
        ("Pod: {resources: {limits: {cpu: 1u}}}", "/spec/containers/0/resources/limits/cpu", json!("1m")),
        ("Pod: {resources: {limits: {memory: '1 '}}}", "/spec/containers/0/resources/limits/memory", json!("1")),
        (
            "Pod: {resources: {limits: {memory: 0.1Gi}}}",
            "/spec/containers/0/resources/limits/memory",
            json!("107374182400m"),
        ),
        // What upstream's reader takes for its own writing it keeps.
        ("Pod: {resources: {limits: {memory: '1E3'}}}", "/spec/containers/0/resources/limits/memory", json!("1E3")),
        ("Pod spec: {resources: {limits: {cpu: 1000m}}}", "/spec/resources/limits/cpu", json!("1")),
        (
            "Pod spec: {volumes: [{name: v, emptyDir: {sizeLimit: 0.5Gi}}]}",
            "/spec/volumes/0/emptyDir/sizeLimit",
            json!("512Mi"),
        ),
        (downward, "/spec/volumes/0/downwardAPI/items/0/resourceFieldRef/divisor", json!("1m")),
        (hpa, "/spec/metrics/0/external/target/averageValue", json!("1500m")),
        (claim, "/spec/resources/requests/storage", json!("1Gi")),
        (volume, "/spec/capacity/storage", json!("1536Mi")),
        ("ResourceQuota: {spec: {hard: {requests.storage: 1024Gi}}}", "/spec/hard/requests.storage", json!("1Ti")),
        (
            "LimitRange: {spec: {limits: [{type: Container, default: {cpu: 0.5}}]}}",
            "/spec/limits/0/default/cpu",
            json!("500m"),
        ),
        (
            "RuntimeClass: {handler: runc, overhead: {podFixed: {memory: 1024Ki}}}",
            "/overhead/podFixed/memory",
            json!("1Mi"),
        ),
        ("CSIStorageCapacity: {storageClassName: s, capacity: 1024Gi}", "/capacity", json!("1Ti")),
        // A node says how it is when it registers.
        ("Node: {status: {capacity: {cpu: 4000m}}}", "/status/capacity/cpu", json!("4")),
    ])
    .await;
}

#[tokio::test]
async fn what_a_pointer_says_counts_also_if_it_is_empty() {
    let service = |more: &str| format!("Service: {{spec: {{ports: [{{port: 80}}], {more}}}}}");
    let job = |more: &str| {
        format!(
            "Job: {{spec: {{{more}, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"
        )
    };
    let backend = "defaultBackend: {service: {name: s, port: {number: 80}}}";
    let claim = |more: &str| {
        format!(
            "PersistentVolumeClaim: {{spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}, {more}}}}}"
        )
    };
    let slice =
        |more: &str| format!("EndpointSlice: {{addressType: IPv4, endpoints: [{{addresses: [10.9.9.9], {more}}}]}}");
    let cron = "CronJob: {spec: {schedule: '@daily', timeZone: '', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}}";
    let rows = [
        (service("ipFamilyPolicy: ''"), "spec.ipFamilyPolicy"),
        (service("internalTrafficPolicy: ''"), "spec.internalTrafficPolicy"),
        (service("trafficDistribution: ''"), "spec.trafficDistribution"),
        (service("type: LoadBalancer, loadBalancerClass: ''"), "spec.loadBalancerClass"),
        ("Service: {spec: {ports: [{port: 80, appProtocol: ''}]}}".into(), "spec.ports[0].appProtocol"),
        (format!("Ingress: {{spec: {{ingressClassName: '', {backend}}}}}"), "spec.ingressClassName"),
        ("Pod spec: {runtimeClassName: ''}".into(), "spec.runtimeClassName"),
        ("Pod spec: {hostnameOverride: ''}".into(), "spec.hostnameOverride"),
        ("Pod: {securityContext: {procMount: ''}}".into(), "procMount"),
        (job("completionMode: ''"), "spec.completionMode"),
        (job("podReplacementPolicy: ''"), "spec.podReplacementPolicy"),
        (cron.into(), "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"),
        (
            cron.replace("timeZone: ''", "timeZone: Local"),
            "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ),
        (
            cron.replace("timeZone: ''", "timeZone: Mars/Base").replace("@daily", "TZ=UTC @daily"),
            "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base",
        ),
        (
            cron.replace("timeZone: ''", "suspend: true").replace("@daily", "TZ=UTC @daily"),
            "spec.schedule: Invalid value: \"TZ=UTC @daily\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        (claim("volumeMode: ''"), "spec.volumeMode"),
        (slice("hostname: ''"), "endpoints[0].hostname"),
        (slice("nodeName: ''"), "endpoints[0].nodeName"),
        ("Lease: {spec: {holderIdentity: ''}}".into(), "spec.holderIdentity"),
        // An empty text is one that may be meant here.
        (claim("storageClassName: ''"), ""),
        (claim("volumeAttributesClassName: ''"), ""),
        ("Pod spec: {volumes: [{name: v, hostPath: {path: /x, type: ''}}]}".into(), ""),
        ("Pod spec: {serviceAccountName: '', hostname: '', schedulerName: ''}".into(), ""),
    ];
    judged(&rows.each_ref().map(|(row, words)| (row.as_str(), *words))).await;
}

#[tokio::test]
async fn roles_and_bindings_are_about_what_they_can_be_about() {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let binding = |kind: &str, subject: &str, (group, role): (&str, &str)| {
        format!("{kind}: {{subjects: [{{{subject}}}], roleRef: {{apiGroup: {group}, kind: {role}, name: r}}}}")
    };
    let here = |subject: &str| binding("RoleBinding", subject, (RBAC, "Role"));
    let rows = [
        (here("kind: ServiceAccount, name: a"), ""),
        (here("kind: ServiceAccount, name: a, apiGroup: x"), "subjects[0].apiGroup: Unsupported value"),
        (here("kind: ServiceAccount, name: A_B"), "subjects[0].name: Invalid value"),
        (here("kind: User, name: 'any one'"), ""),
        (here("kind: User, name: u, apiGroup: x"), "subjects[0].apiGroup: Unsupported value: \"x\""),
        (here("kind: Group, name: ''"), "subjects[0].name: Required value"),
        (here("kind: Robot, name: r"), "subjects[0].kind: Unsupported value"),
        (
            binding("ClusterRoleBinding", "kind: ServiceAccount, name: a", (RBAC, "ClusterRole")),
            "subjects[0].namespace: Required value",
        ),
        (binding("ClusterRoleBinding", "kind: User, name: u", (RBAC, "Role")), "roleRef.kind: Unsupported value"),
        (binding("RoleBinding", "kind: User, name: u", ("x", "Role")), "roleRef.apiGroup: Unsupported value"),
        ("Role: {rules: [{resources: [pods], verbs: [get]}]}".into(), "rules[0].apiGroups: Required value"),
        ("Role: {rules: [{nonResourceURLs: [/x], verbs: [get]}]}".into(), "rules[0].nonResourceURLs"),
        ("ClusterRole: {rules: [{nonResourceURLs: [/x], verbs: [get]}]}".into(), ""),
        (
            "ClusterRole: {rules: [{nonResourceURLs: [/x], apiGroups: [''], resources: [pods], verbs: [get]}]}".into(),
            "rules cannot apply to both regular resources and non-resource URLs",
        ),
    ];
    judged(&rows.each_ref().map(|(row, words)| (row.as_str(), *words))).await;
}

#[tokio::test]
async fn objects_are_checked_by_the_rules_of_their_version() {
    let scaler = |metrics: &str| {
        format!(
            "HorizontalPodAutoscaler: {{spec: {{scaleTargetRef: {{kind: Deployment, name: a}}, minReplicas: 0, maxReplicas: 3, metrics: [{metrics}]}}}}"
        )
    };
    let cpu = scaler("{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}");
    let queue =
        scaler("{type: External, external: {metric: {name: m}, target: {type: AverageValue, averageValue: '1'}}}");
    judged(&[
        // Names of services may begin with a digit (v1.37), and have no dots still.
        ("Service: {metadata: {name: 1st}, spec: {ports: [{port: 80}]}}", ""),
        ("Service: {metadata: {name: a.b}, spec: {ports: [{port: 80}]}}", "metadata.name"),
        ("Ingress: {spec: {defaultBackend: {service: {name: 1st, port: {number: 80}}}}}", ""),
        // Domains to search in may have underscores, and may be the root (v1.34).
        ("Pod spec: {dnsConfig: {searches: ['.', _sip._tcp.x, a_b.c, d.]}}", ""),
        ("Pod spec: {dnsConfig: {searches: ['a b']}}", "spec.dnsConfig.searches[0]: Invalid value"),
        (&cpu, "must specify at least one Object or External metric to support scaling to zero replicas"),
        (&queue, ""),
        (
            "PersistentVolumeClaim: {spec: {accessModes: [ReadWriteOncePod, ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
            "may not use ReadWriteOncePod with other access modes",
        ),
        ("ResourceQuota: {spec: {hard: {services: '1'}, scopes: [BestEffort]}}", "unsupported scope applied to resource"),
        ("ResourceQuota: {spec: {hard: {pods: '1'}, scopes: [BestEffort]}}", ""),
        ("ResourceQuota: {spec: {hard: {requests.cpu: '1'}, scopes: [Terminating]}}", ""),
        ("Secret: {type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: x}}", "<secret contents redacted>"),
        ("Secret: {type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{}'}}", ""),
        ("Secret: {type: kubernetes.io/basic-auth, stringData: {other: x}}", "data[username]: Required value"),
        ("Secret: {type: kubernetes.io/basic-auth, stringData: {password: x}}", ""),
        ("Secret: {type: kubernetes.io/ssh-auth, stringData: {ssh-privatekey: ''}}", "data[ssh-privatekey]: Required value"),
        ("ConfigMap: {data: {a: x}, binaryData: {a: eA==}}", "binaryData[a]: Invalid value: \"a\": duplicate of key present in data"),
    ])
    .await;
}

#[tokio::test]
async fn sizes_of_secrets_are_those_of_what_they_hold() {
    use base64::Engine as _;
    let server = Server::start().await;
    let secret = |bytes: usize| {
        let text = base64::engine::general_purpose::STANDARD.encode(vec![7u8; bytes]);
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": text}})
    };
    let path = "/api/v1/namespaces/default/secrets?dryRun=All";
    assert_eq!(server.json("POST", path, &secret(1 << 20)).await.0, 201);
    let (code, status) = server.json("POST", path, &secret((1 << 20) + 3)).await;
    assert!(code == 422 && status["message"].as_str().unwrap().contains("1048576 bytes"), "{status}");
}

#[tokio::test]
async fn the_last_of_everything_can_be_applied_no_more() {
    let server = Server::start().await;
    let apply = async |path: &str, object: &Value| {
        let uri = format!("{path}/x?fieldManager=m");
        let request = Request::patch(uri).header("content-type", "application/apply-patch+yaml");
        let (code, _, bytes) = read(server.send(request.body(object.to_string().into()).unwrap()).await).await;
        (code.as_u16(), serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let kinds = [
        ("ConfigMap", json!({"data": {"k": "v"}})),
        ("Secret", json!({"stringData": {"k": "v"}})),
        ("Service", json!({"spec": {"ports": [{"port": 80}]}})),
        ("ServiceAccount", json!({})),
        ("ClusterRole", json!({"rules": []})),
        ("Lease", json!({})),
        ("StorageClass", json!({"provisioner": "p"})),
    ];
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"}]);
    let parts = [
        ("labels", json!({"a": "b"})),
        ("annotations", json!({"a": "b"})),
        ("finalizers", json!(["x.io/f"])),
        ("ownerReferences", owner),
    ];
    for (kind, content) in &kinds {
        let (path, version) = place(kind);
        let object = |metadata: Value| {
            let mut object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
            apimachinery::patch::merge_patch(&mut object, content);
            object
        };
        for (part, value) in &parts {
            let (code, made) = apply(path, &object(json!({"name": "x", *part: value}))).await;
            assert!(code < 300 && made["metadata"][part] == *value, "{kind} {part}: {made}");
            let (code, left) = apply(path, &object(json!({"name": "x"}))).await;
            assert!(code == 200 && left["metadata"][part].is_null(), "{kind} {part}: {left}");
            assert_eq!(left["metadata"]["name"], "x");
        }
    }
}
