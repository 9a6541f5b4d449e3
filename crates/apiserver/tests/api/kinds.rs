//! Rules of single kinds, each as upstream's validation and admission have it: rows as in reports.rs, and what an update may change.

use serde_json::{Value, json};

use crate::reports::judged;
use crate::server::Server;

#[tokio::test]
async fn resources_have_the_names_that_containers_quotas_and_ranges_know() {
    judged(&[
        (
            "Pod: {resources: {limits: {memroy: 1Gi}}}",
            "must be a standard resource type or fully qualified, \
             spec.containers[0].resources.limits[memroy]: Invalid value: \"memroy\": must be a standard resource for containers",
        ),
        (
            "Pod: {resources: {requests: {pods: '1'}}}",
            "Invalid value: \"pods\": must be a standard resource for containers",
        ),
        ("Pod: {resources: {limits: {hugepages-2Mi: 4Mi, memory: 1Gi}}}", ""),
        ("Pod: {resources: {limits: {hugepages-2Mi: 3Mi, memory: 1Gi}}}", "must be a multiple of the size of a page"),
        ("Pod: {resources: {limits: {nvidia.com/gpu: '1'}}}", ""),
        ("Pod: {resources: {limits: {nvidia.com/gpu: 500m}}}", "limits[nvidia.com/gpu]: Invalid value: \"500m\": must be an integer"),
        ("Pod: {resources: {limits: {requests.nvidia.com/gpu: '1'}}}", "doesn't follow extended resource name standard"),
        ("ResourceQuota: {spec: {hard: {cpus: '1'}}}", "spec.hard[cpus]: Invalid value: \"cpus\": must be a standard resource type"),
        ("ResourceQuota: {spec: {hard: {storage: 1Gi}}}", "must be a standard resource for quotas"),
        ("ResourceQuota: {spec: {hard: {requests.storage: 1Gi, requests.nvidia.com/gpu: '4'}}}", ""),
        ("ResourceQuota: {spec: {hard: {pods: 1500m}}}", "spec.hard[pods]: Invalid value: \"1500m\": must be an integer"),
        ("ResourceQuota: {spec: {hard: {count/widgets.example.com: '1'}}}", ""),
        (
            "ResourceQuota: {spec: {hard: {pods: '1'}, scopes: [BestEffort, NotBestEffort]}}",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        ("LimitRange: {spec: {limits: [{type: Container, maxLimitRequestRatio: {cpu: 500m}}]}}", "ratio 500m is less than 1"),
        (
            "LimitRange: {spec: {limits: [{type: Container, min: {cpu: '1'}, max: {cpu: '2'}, maxLimitRequestRatio: {cpu: '3'}}]}}",
            "ratio 3 is greater than max/min = 2.000000",
        ),
        ("LimitRange: {spec: {limits: [{type: PersistentVolumeClaim}]}}", "either minimum or maximum storage value is required"),
        ("LimitRange: {spec: {limits: [{type: PersistentVolumeClaim, max: {storage: 1Gi}}]}}", ""),
    ])
    .await;
}

#[tokio::test]
async fn jobs_say_nothing_that_contradicts_itself() {
    let job = |spec: &str, pod: &str| {
        format!(
            "Job: {{spec: {{{spec}, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]{pod}}}}}}}}}"
        )
    };
    let rule = |rule: &str| job(&format!("podFailurePolicy: {{rules: [{rule}]}}"), "");
    let cron = |spec: &str| {
        format!(
            "CronJob: {{spec: {{schedule: '@daily', jobTemplate: {{spec: {{{spec}, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}}}}}"
        )
    };
    let long = format!("metadata: {{name: {}}}, ", "x".repeat(62));
    let rows = [
        (job("selector: {matchLabels: {a: b}}", ""), "`selector` not auto-generated"),
        (job("selector: {matchLabels: {job-name: x}}", ""), ""),
        (job("manualSelector: true", ""), "spec.selector"),
        (
            "Job: {spec: {template: {metadata: {labels: {job-name: other}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}".into(),
            "spec.template.metadata.labels[job-name]: Invalid value",
        ),
        (job("managedBy: nobody", ""), "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        (job("managedBy: kueue.x-k8s.io/multikueue", ""), ""),
        (rule("{action: FailJob, onExitCodes: {operator: In, values: [0]}}"), "must not be 0 for the In operator"),
        (rule("{action: FailJob, onExitCodes: {operator: In, values: [2, 1]}}"), "must be ordered"),
        (rule("{action: FailJob, onExitCodes: {operator: In, values: [1, 1]}}"), "Duplicate value"),
        (rule("{action: FailJob, onExitCodes: {operator: In, values: []}}"), "at least one value is required"),
        (
            rule("{action: FailJob, onExitCodes: {containerName: d, operator: In, values: [1]}}"),
            "must be one of the container or initContainer names in the pod template",
        ),
        (rule("{action: FailJob, onExitCodes: {containerName: c, operator: NotIn, values: [0, 1]}}"), ""),
        (
            job("completionMode: Indexed, completions: 3, backoffLimitPerIndex: 1, maxFailedIndexes: 4", ""),
            "must be less than or equal to completions",
        ),
        (cron("selector: {matchLabels: {a: b}}"), "`selector` will be auto-generated"),
        (cron("manualSelector: true"), "spec.jobTemplate.spec.manualSelector: Unsupported value"),
        (
            format!("Job: {{{long}spec: {{completionMode: Indexed, completions: 5, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"),
            "will not able to create pod with invalid DNS label",
        ),
    ];
    judged(&rows.each_ref().map(|(row, words)| (row.as_str(), *words))).await;
}

#[tokio::test]
async fn pods_say_nothing_that_contradicts_itself() {
    let projected =
        |sources: &str| format!("Pod spec: {{volumes: [{{name: v, projected: {{sources: [{sources}]}}}}]}}");
    let spread = |more: &str| {
        format!(
            "Pod spec: {{topologySpreadConstraints: [{{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, {more}}}]}}"
        )
    };
    let term = |more: &str| {
        format!(
            "Pod spec: {{affinity: {{podAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: z, {more}}}]}}}}}}"
        )
    };
    let volume = |more: &str| {
        format!("PersistentVolume: {{spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], {more}}}}}")
    };
    let two = "[{containerPort: 1, hostPort: 8080}, {containerPort: 2, hostPort: 8080}]";
    let sidecar = "{name: a, image: i, restartPolicy: Always, ports: [{containerPort: 1, hostPort: 8080}]}";
    let rows = [
        (format!("Pod: {{ports: {two}}}"), "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\""),
        (
            format!("Pod spec: {{initContainers: [{{name: a, image: i, ports: {two}}}]}}"),
            "spec.initContainers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\"",
        ),
        // Each runs before the next, so they may have the same.
        (format!("Pod spec: {{initContainers: [{sidecar}], containers: [{{ports: [{{containerPort: 1, hostPort: 8080}}]}}]}}"), ""),
        ("Pod: {lifecycle: {stopSignal: SIGTERM}}".into(), "may not be set for containers with empty `spec.os.name`"),
        ("Pod spec: {os: {name: linux}, containers: [{lifecycle: {stopSignal: SIGTERM}}]}".into(), ""),
        ("Pod: {image: ' i'}".into(), "must not have leading or trailing whitespace"),
        (
            projected("{configMap: {name: m, items: [{key: a, path: p}]}}, {secret: {name: s, items: [{key: b, path: p}]}}"),
            "conflicting duplicate paths",
        ),
        (projected("{serviceAccountToken: {path: p}}, {configMap: {name: m, items: [{key: a, path: q}]}}"), ""),
        (
            "Pod spec: {volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 1Gi}}}}}}]}".into(),
            "volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
        ),
        (spread("matchLabelKeys: [a]"), "must not be specified when labelSelector is not set"),
        (spread("labelSelector: {matchLabels: {a: b}}, matchLabelKeys: ['a b']"), "matchLabelKeys[0]: Invalid value"),
        (term("labelSelector: {}, matchLabelKeys: [a], mismatchLabelKeys: [a]"), "exists in both matchLabelKeys and mismatchLabelKeys"),
        (volume("awsElasticBlockStore: {volumeID: v}"), ""),
        (volume("hostPath: {path: /x}, nfs: {server: s, path: /x}"), "may not specify more than 1 volume type"),
    ];
    judged(&rows.each_ref().map(|(row, words)| (row.as_str(), *words))).await;
}

/// Merges a patch into an object, and answers with the code and what the server says.
async fn patch(server: &Server, path: &str, patch: &Value) -> (u16, Value) {
    let (code, answer) = server.json("PATCH", path, patch).await;
    (code.as_u16(), answer)
}

#[tokio::test]
async fn a_job_that_waits_can_be_told_where_its_pods_go() {
    let server = Server::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    let job = |name: &str, suspend: bool| json!({"metadata": {"name": name}, "spec": {"suspend": suspend, "template": {"spec": pod}}});
    for (name, suspend) in [("waits", true), ("runs", false), ("stopped", true)] {
        server.create(jobs, job(name, suspend)).await;
    }
    let started = json!({"status": {"startTime": "2026-01-01T00:00:00Z"}});
    assert_eq!(patch(&server, &format!("{jobs}/stopped/status"), &started).await.0, 200);
    let template = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let places = [
        template(json!({"nodeSelector": {"zone": "a"}})),
        template(json!({"tolerations": [{"operator": "Exists"}]})),
        template(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}})),
        template(json!({"schedulingGates": [{"name": "x.io/g"}]})),
        template(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]})),
        json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}}}),
    ];
    for change in &places {
        let (code, answer) = patch(&server, &format!("{jobs}/waits"), change).await;
        assert_eq!(code, 200, "{change}: {answer}");
        for name in ["runs", "stopped"] {
            let (code, answer) = patch(&server, &format!("{jobs}/{name}"), change).await;
            let message = answer["message"].as_str().unwrap_or("");
            assert!(code == 422 && message.contains("spec.template: Invalid value"), "{name} {change}: {answer}");
            assert!(message.contains("field is immutable"), "{message}");
        }
    }
    let image = template(json!({"containers": [{"name": "c", "image": "other"}]}));
    assert_eq!(patch(&server, &format!("{jobs}/waits"), &image).await.0, 422);
}

#[tokio::test]
async fn of_claims_and_volumes_only_what_can_change_changes() {
    let server = Server::start().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s",
        "volumeAttributesClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}});
    server.create(claims, claim).await;
    let one = format!("{claims}/c");
    let asks = |storage: &str| json!({"spec": {"resources": {"requests": {"storage": storage}}}});
    let refused = async |path: &str, change: &Value, words: &str| {
        let (code, answer) = patch(&server, path, change).await;
        assert!(code == 422 && answer["message"].as_str().unwrap().contains(words), "{change}: {code} {answer}");
    };
    let fixed =
        "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    refused(&one, &asks("3Gi"), fixed).await;
    refused(&one, &json!({"spec": {"volumeAttributesClassName": "slow"}}), fixed).await;
    assert_eq!(patch(&server, &one, &json!({"spec": {"volumeName": "v"}})).await.0, 200);
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}});
    assert_eq!(patch(&server, &format!("{one}/status"), &bound).await.0, 200);
    refused(&one, &json!({"spec": {"volumeName": "w"}}), fixed).await;
    refused(
        &one,
        &json!({"spec": {"volumeAttributesClassName": null}}),
        "update from non-nil value to nil is forbidden",
    )
    .await;
    assert_eq!(patch(&server, &one, &json!({"spec": {"volumeAttributesClassName": "slow"}})).await.0, 200);
    server
        .create(
            "/apis/storage.k8s.io/v1/storageclasses",
            json!({"metadata": {"name": "s"}, "provisioner": "p", "allowVolumeExpansion": true}),
        )
        .await;
    assert_eq!(patch(&server, &one, &asks("5Gi")).await.0, 200);
    // What couldn't be met is taken back, but not to what there is already.
    assert_eq!(patch(&server, &one, &asks("3Gi")).await.0, 200);
    refused(&one, &asks("2Gi"), "field can not be less than status.capacity").await;

    let volumes = "/api/v1/persistentvolumes";
    let at = |zone: &str| {
        json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}}})
    };
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    server.create(volumes, volume).await;
    let one = format!("{volumes}/v");
    assert_eq!(patch(&server, &one, &at("a")).await.0, 200);
    refused(&one, &at("b"), "spec.nodeAffinity: Invalid value").await;
    refused(&one, &json!({"spec": {"hostPath": {"path": "/y"}}}), "spec.persistentvolumesource is immutable").await;
}

#[tokio::test]
async fn pods_without_a_class_have_one_priority() {
    let server = Server::start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str, default: bool| json!({"metadata": {"name": name}, "value": 5, "globalDefault": default});
    server.create(classes, class("first", true)).await;
    let (code, status) = server.json("POST", classes, &class("second", true)).await;
    let why = "PriorityClass first is already marked as default. Only one default can exist";
    assert!(code == 403 && status["message"].as_str().unwrap().contains(why), "{status}");
    server.create(classes, class("second", false)).await;
    let (code, first) = patch(&server, &format!("{classes}/first"), &json!({"description": "d"})).await;
    assert_eq!(code, 200, "{first}");
}

#[tokio::test]
async fn a_pod_is_told_from_its_kind_by_what_its_own_labels_say() {
    let server = Server::start().await;
    server.create_account().await;
    let term =
        json!({"topologyKey": "z", "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["hash", "none"]});
    let apart = json!({"topologyKey": "z", "labelSelector": {}, "mismatchLabelKeys": ["tenant"]});
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "a", "hash": "h1", "tenant": "t"}}, "spec": {
    "containers": [{"name": "c", "image": "i"}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["hash"]}],
    "affinity": {
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": apart}]},
    }}});
    let (code, made) = server.json("POST", "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(code, 201, "{made}");
    let hash = json!([{"key": "hash", "operator": "In", "values": ["h1"]}]);
    let spec = &made["spec"];
    assert_eq!(spec["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"], hash);
    let near = &spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(near["labelSelector"], json!({"matchLabels": {"app": "a"}, "matchExpressions": hash}));
    let apart = &spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    let tenant = json!([{"key": "tenant", "operator": "NotIn", "values": ["t"]}]);
    assert_eq!(apart["podAffinityTerm"]["labelSelector"]["matchExpressions"], tenant);

    // And it learns where it came to be.
    server
        .create(
            "/api/v1/nodes",
            json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z1", "other": "o"}}}),
        )
        .await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let (code, answer) = server.json("POST", "/api/v1/namespaces/default/pods/p/binding", &binding).await;
    assert_eq!(code, 201, "{answer}");
    let (_, bound) = server.json("GET", "/api/v1/namespaces/default/pods/p", &Value::Null).await;
    assert_eq!(bound["metadata"]["labels"]["topology.kubernetes.io/zone"], "z1");
    assert!(bound["metadata"]["labels"]["other"].is_null(), "{bound}");
}
