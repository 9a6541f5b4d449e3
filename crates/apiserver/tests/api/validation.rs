//! What the server refuses, kind by kind: a good object of each, and what is wrong with a changed one.

use apimachinery::patch::merge_patch;
use serde_json::{Value, json};

use crate::server::Server;

/// A kind with a good object, and changes of it (merge patches) with the field and reason of the one cause they have.
struct Kind {
    path: &'static str,
    good: Value,
    bad: Vec<(Value, &'static str)>,
}

fn template(restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i"}]}})
}

fn pods() -> Kind {
    let container = |extra: Value| {
        let mut c = json!({"name": "c", "image": "i"});
        merge_patch(&mut c, &extra);
        json!({"spec": {"containers": [c]}})
    };
    let volume = |source: Value| {
        let mut v = json!({"name": "v"});
        merge_patch(&mut v, &source);
        json!({"spec": {"volumes": [v]}})
    };
    let spec = |extra: Value| json!({"spec": extra});
    let get = |extra: Value| {
        let mut action = json!({"path": "/", "port": 80});
        merge_patch(&mut action, &extra);
        action
    };
    Kind {
        path: "/api/v1/namespaces/default/pods",
        good: json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "good"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        bad: vec![
            (spec(json!({"containers": []})), "spec.containers FieldValueRequired"),
            (spec(json!({"restartPolicy": "Sometimes"})), "spec.restartPolicy FieldValueNotSupported"),
            (spec(json!({"dnsPolicy": "None"})), "spec.dnsConfig.nameservers FieldValueRequired"),
            (spec(json!({"dnsConfig": {"nameservers": ["a"]}})), "spec.dnsConfig.nameservers[0] FieldValueInvalid"),
            (spec(json!({"hostname": "A"})), "spec.hostname FieldValueInvalid"),
            (spec(json!({"activeDeadlineSeconds": 0})), "spec.activeDeadlineSeconds FieldValueInvalid"),
            (
                container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
                "spec.containers[0].lifecycle.preStop.sleep FieldValueInvalid",
            ),
            (
                container(json!({"ports": [{"containerPort": 80, "hostIP": "1.2.3.4}; add table ip x"}]})),
                "spec.containers[0].ports[0].hostIP FieldValueInvalid",
            ),
            (spec(json!({"hostAliases": [{"ip": "x"}]})), "spec.hostAliases[0].ip FieldValueInvalid"),
            (
                spec(json!({"ephemeralContainers": [{"name": "e", "image": "i"}]})),
                "spec.ephemeralContainers FieldValueForbidden",
            ),
            (
                spec(json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]})),
                "spec.tolerations[0].value FieldValueInvalid",
            ),
            (spec(json!({"tolerations": [{"operator": "Equal"}]})), "spec.tolerations[0].operator FieldValueInvalid"),
            (
                spec(
                    json!({"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}]}),
                ),
                "spec.tolerations[0].effect FieldValueInvalid",
            ),
            (
                spec(
                    json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}),
                ),
                "spec.topologySpreadConstraints[0].maxSkew FieldValueInvalid",
            ),
            (
                spec(
                    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "x"}]}),
                ),
                "spec.topologySpreadConstraints[0].whenUnsatisfiable FieldValueNotSupported",
            ),
            (
                spec(
                    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
                ),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms FieldValueRequired",
            ),
            (
                spec(
                    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}}),
                ),
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey FieldValueRequired",
            ),
            (spec(json!({"securityContext": {"runAsUser": -1}})), "spec.securityContext.runAsUser FieldValueInvalid"),
            (
                spec(json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}})),
                "spec.securityContext.seccompProfile.localhostProfile FieldValueRequired",
            ),
            (
                spec(json!({"shareProcessNamespace": true, "hostPID": true})),
                "spec.shareProcessNamespace FieldValueInvalid",
            ),
            (
                spec(
                    json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["a"]}}}]}),
                ),
                "spec.initContainers[0].livenessProbe FieldValueForbidden",
            ),
            (container(json!({"name": "A"})), "spec.containers[0].name FieldValueInvalid"),
            (container(json!({"image": ""})), "spec.containers[0].image FieldValueRequired"),
            (container(json!({"image": " i"})), "spec.containers[0].image FieldValueInvalid"),
            (container(json!({"imagePullPolicy": "x"})), "spec.containers[0].imagePullPolicy FieldValueNotSupported"),
            (
                container(json!({"ports": [{"containerPort": 70000}]})),
                "spec.containers[0].ports[0].containerPort FieldValueInvalid",
            ),
            (
                container(json!({"ports": [{"containerPort": 1, "protocol": "x"}]})),
                "spec.containers[0].ports[0].protocol FieldValueNotSupported",
            ),
            (
                container(json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]})),
                "spec.containers[0].ports[1].hostPort FieldValueDuplicate",
            ),
            (
                container(json!({"ports": [{"containerPort": 1, "hostPort": 5, "hostIP": "}; flush ruleset"}]})),
                "spec.containers[0].ports[0].hostIP FieldValueInvalid",
            ),
            (container(json!({"env": [{"name": "a=b"}]})), "spec.containers[0].env[0].name FieldValueInvalid"),
            (
                container(json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]})),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath FieldValueNotSupported",
            ),
            (container(json!({"envFrom": [{}]})), "spec.containers[0].envFrom[0] FieldValueInvalid"),
            (
                container(json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]})),
                "spec.containers[0].volumeMounts[0].name FieldValueNotFound",
            ),
            (
                container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
                "spec.containers[0].resources.requests FieldValueInvalid",
            ),
            (
                container(json!({"resources": {"requests": {"cpu": "-1"}}})),
                "spec.containers[0].resources.requests[cpu] FieldValueInvalid",
            ),
            (
                container(json!({"livenessProbe": {"httpGet": {"port": 80}, "exec": {"command": ["a"]}}})),
                "spec.containers[0].livenessProbe FieldValueForbidden",
            ),
            (
                container(json!({"livenessProbe": {"httpGet": get(json!({})), "successThreshold": 2}})),
                "spec.containers[0].livenessProbe.successThreshold FieldValueInvalid",
            ),
            (
                container(json!({"readinessProbe": {"httpGet": get(json!({"scheme": "ftp"}))}})),
                "spec.containers[0].readinessProbe.httpGet.scheme FieldValueNotSupported",
            ),
            (
                container(json!({"readinessProbe": {"exec": {"command": ["a"]}, "terminationGracePeriodSeconds": 3}})),
                "spec.containers[0].readinessProbe.terminationGracePeriodSeconds FieldValueInvalid",
            ),
            (
                container(json!({"lifecycle": {"preStop": {}}})),
                "spec.containers[0].lifecycle.preStop FieldValueRequired",
            ),
            (
                container(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})),
                "spec.containers[0].securityContext FieldValueInvalid",
            ),
            (volume(json!({"hostPath": {"path": "/a/../b"}})), "spec.volumes[0].hostPath.path FieldValueInvalid"),
            (
                volume(json!({"hostPath": {"path": "/a", "type": "x"}})),
                "spec.volumes[0].hostPath.type FieldValueNotSupported",
            ),
            (
                volume(json!({"secret": {"secretName": "s", "defaultMode": 512}})),
                "spec.volumes[0].secret.defaultMode FieldValueInvalid",
            ),
            (
                volume(json!({"configMap": {"name": "s", "items": [{"key": "k", "path": "../x"}]}})),
                "spec.volumes[0].configMap.items[0].path FieldValueInvalid",
            ),
            (volume(json!({"emptyDir": {"sizeLimit": "-1"}})), "spec.volumes[0].emptyDir.sizeLimit FieldValueInvalid"),
            (volume(json!({"emptyDir": {}, "hostPath": {"path": "/a"}})), "spec.volumes[0] FieldValueForbidden"),
            (
                volume(
                    json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}),
                ),
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds FieldValueInvalid",
            ),
        ],
    }
}

fn workloads() -> Vec<Kind> {
    let spec = |extra: Value| json!({"spec": extra});
    let apps = |kind: &str, extra: Value| {
        let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "good"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template("Always")}});
        merge_patch(&mut object, &extra);
        object
    };
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "good"},
        "spec": {"template": template("Never")}});
    vec![
        Kind {
            path: "/apis/apps/v1/namespaces/default/deployments",
            good: apps("Deployment", json!({})),
            bad: vec![
                (spec(json!({"replicas": -1})), "spec.replicas FieldValueInvalid"),
                (
                    spec(json!({"selector": {"matchLabels": {"app": "b"}}})),
                    "spec.template.metadata.labels FieldValueInvalid",
                ),
                (spec(json!({"strategy": {"type": "x"}})), "spec.strategy.type FieldValueNotSupported"),
                (
                    spec(json!({"strategy": {"rollingUpdate": {"maxSurge": "x"}}})),
                    "spec.strategy.rollingUpdate.maxSurge FieldValueInvalid",
                ),
                (
                    spec(json!({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}})),
                    "spec.strategy.rollingUpdate.maxUnavailable FieldValueInvalid",
                ),
                (
                    spec(json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5})),
                    "spec.progressDeadlineSeconds FieldValueInvalid",
                ),
                (
                    spec(json!({"template": {"spec": {"restartPolicy": "Never"}}})),
                    "spec.template.spec.restartPolicy FieldValueNotSupported",
                ),
            ],
        },
        Kind {
            path: "/apis/apps/v1/namespaces/default/statefulsets",
            good: apps("StatefulSet", json!({"spec": {"serviceName": "s"}})),
            bad: vec![
                (spec(json!({"podManagementPolicy": "x"})), "spec.podManagementPolicy FieldValueNotSupported"),
                (
                    spec(json!({"updateStrategy": {"rollingUpdate": {"partition": -1}}})),
                    "spec.updateStrategy.rollingUpdate.partition FieldValueInvalid",
                ),
                (spec(json!({"ordinals": {"start": -1}})), "spec.ordinals.start FieldValueInvalid"),
                (
                    spec(json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "x"}})),
                    "spec.persistentVolumeClaimRetentionPolicy.whenScaled FieldValueNotSupported",
                ),
            ],
        },
        Kind {
            path: "/apis/apps/v1/namespaces/default/daemonsets",
            good: apps("DaemonSet", json!({})),
            bad: vec![
                (spec(json!({"updateStrategy": {"type": "x"}})), "spec.updateStrategy.type FieldValueNotSupported"),
                (
                    spec(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}})),
                    "spec.updateStrategy.rollingUpdate.maxUnavailable FieldValueInvalid",
                ),
                (
                    spec(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}})),
                    "spec.updateStrategy.rollingUpdate.maxSurge FieldValueInvalid",
                ),
            ],
        },
        Kind {
            path: "/api/v1/namespaces/default/replicationcontrollers",
            good: json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "good"},
                "spec": {"template": template("Always")}}),
            bad: vec![
                (spec(json!({"replicas": -1})), "spec.replicas FieldValueInvalid"),
                (spec(json!({"selector": {"app": "b"}})), "spec.template.metadata.labels FieldValueInvalid"),
            ],
        },
        Kind {
            path: "/apis/batch/v1/namespaces/default/jobs",
            good: job.clone(),
            bad: vec![
                (
                    spec(json!({"completionMode": "Indexed", "completions": null, "parallelism": 1})),
                    "spec.completions FieldValueRequired",
                ),
                (spec(json!({"backoffLimitPerIndex": 1})), "spec.backoffLimitPerIndex FieldValueInvalid"),
                (spec(json!({"ttlSecondsAfterFinished": -1})), "spec.ttlSecondsAfterFinished FieldValueInvalid"),
                (spec(json!({"parallelism": -1})), "spec.parallelism FieldValueInvalid"),
                (
                    spec(json!({"template": {"spec": {"restartPolicy": "Always"}}})),
                    "spec.template.spec.restartPolicy FieldValueNotSupported",
                ),
                (
                    spec(json!({"podFailurePolicy": {"rules": [{"action": "x", "onPodConditions": [{"type": "a"}]}]}})),
                    "spec.podFailurePolicy.rules[0].action FieldValueNotSupported",
                ),
                (
                    spec(
                        json!({"completionMode": "Indexed", "completions": 2, "successPolicy": {"rules": [{"succeededIndexes": "3-1"}]}}),
                    ),
                    "spec.successPolicy.rules[0].succeededIndexes FieldValueInvalid",
                ),
            ],
        },
        Kind {
            path: "/apis/batch/v1/namespaces/default/cronjobs",
            good: json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "good"},
                "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job["spec"]}}}),
            bad: vec![
                (spec(json!({"schedule": "x"})), "spec.schedule FieldValueInvalid"),
                (spec(json!({"timeZone": "Mars/Base"})), "spec.timeZone FieldValueInvalid"),
                (spec(json!({"concurrencyPolicy": "x"})), "spec.concurrencyPolicy FieldValueNotSupported"),
                (spec(json!({"startingDeadlineSeconds": -1})), "spec.startingDeadlineSeconds FieldValueInvalid"),
                (
                    spec(json!({"jobTemplate": {"spec": {"completions": -1}}})),
                    "spec.jobTemplate.spec.completions FieldValueInvalid",
                ),
            ],
        },
        Kind {
            path: "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            good: json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "good"},
                "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3}}),
            bad: vec![
                (spec(json!({"maxReplicas": 0})), "spec.maxReplicas FieldValueInvalid"),
                (spec(json!({"minReplicas": 4})), "spec.maxReplicas FieldValueInvalid"),
                (spec(json!({"scaleTargetRef": {"kind": ""}})), "spec.scaleTargetRef.kind FieldValueRequired"),
                (
                    spec(
                        json!({"metrics": [{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value"}}}]}),
                    ),
                    "spec.metrics[0].pods.target FieldValueRequired",
                ),
                (spec(json!({"metrics": [{"type": "x"}]})), "spec.metrics[0].type FieldValueNotSupported"),
                (
                    spec(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 4000}}})),
                    "spec.behavior.scaleDown.stabilizationWindowSeconds FieldValueInvalid",
                ),
            ],
        },
        Kind {
            path: "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            good: json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "good"},
                "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}}),
            bad: vec![
                (spec(json!({"maxUnavailable": 1})), "spec FieldValueInvalid"),
                (spec(json!({"minAvailable": "x"})), "spec.minAvailable FieldValueInvalid"),
                (
                    spec(json!({"unhealthyPodEvictionPolicy": "x"})),
                    "spec.unhealthyPodEvictionPolicy FieldValueNotSupported",
                ),
            ],
        },
    ]
}

fn network() -> Vec<Kind> {
    let spec = |extra: Value| json!({"spec": extra});
    let path = |extra: Value| {
        let mut path =
            json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}});
        merge_patch(&mut path, &extra);
        json!({"spec": {"rules": [{"http": {"paths": [path]}}]}})
    };
    vec![
        Kind {
            path: "/api/v1/namespaces/default/services",
            good: json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "good"}, "spec": {"ports": [{"port": 80}]}}),
            bad: vec![
                (spec(json!({"ports": []})), "spec.ports FieldValueRequired"),
                (spec(json!({"type": "x"})), "spec.type FieldValueNotSupported"),
                (spec(json!({"type": "ExternalName", "ports": null})), "spec.externalName FieldValueRequired"),
                (
                    spec(
                        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}}}),
                    ),
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds FieldValueInvalid",
                ),
                (
                    spec(json!({"ports": [{"port": 80, "nodePort": 30001}]})),
                    "spec.ports[0].nodePort FieldValueForbidden",
                ),
                (
                    spec(json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]})),
                    "spec.ports[1] FieldValueDuplicate",
                ),
                (spec(json!({"externalIPs": ["x"]})), "spec.externalIPs[0] FieldValueInvalid"),
                (
                    spec(json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]})),
                    "spec.loadBalancerSourceRanges FieldValueForbidden",
                ),
                (
                    spec(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["x"]})),
                    "spec.loadBalancerSourceRanges[0] FieldValueInvalid",
                ),
                (spec(json!({"externalTrafficPolicy": "Local"})), "spec.externalTrafficPolicy FieldValueInvalid"),
                (spec(json!({"internalTrafficPolicy": "x"})), "spec.internalTrafficPolicy FieldValueNotSupported"),
            ],
        },
        Kind {
            path: "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            good: json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "good"},
                "spec": path(json!({}))["spec"]}),
            bad: vec![
                (path(json!({"path": "x"})), "spec.rules[0].http.paths[0].path FieldValueInvalid"),
                (path(json!({"path": "/a//b"})), "spec.rules[0].http.paths[0].path FieldValueInvalid"),
                (path(json!({"pathType": null})), "spec.rules[0].http.paths[0].pathType FieldValueRequired"),
                (path(json!({"backend": {"service": null}})), "spec.rules[0].http.paths[0].backend FieldValueRequired"),
                (
                    path(json!({"backend": {"service": {"port": {"name": "http"}}}})),
                    "spec.rules[0].http.paths[0].backend.service FieldValueInvalid",
                ),
                (spec(json!({"rules": [{"host": "1.2.3.4"}]})), "spec.rules[0].host FieldValueInvalid"),
                (spec(json!({"rules": null})), "spec FieldValueInvalid"),
                (spec(json!({"tls": [{"hosts": ["a*b"]}]})), "spec.tls[0].hosts[0] FieldValueInvalid"),
            ],
        },
        Kind {
            path: "/apis/networking.k8s.io/v1/ingressclasses",
            good: json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "good"},
                "spec": {"controller": "a.io/b"}}),
            bad: vec![(spec(json!({"controller": "x"})), "spec.controller FieldValueInvalid")],
        },
        Kind {
            path: "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            good: json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "good"},
                "spec": {"podSelector": {}}}),
            bad: vec![
                (
                    spec(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "x"}]}})),
                    "spec.podSelector.matchExpressions[0].operator FieldValueInvalid",
                ),
                (
                    spec(json!({"ingress": [{"ports": [{"port": 80, "endPort": 70}]}]})),
                    "spec.ingress[0].ports[0].endPort FieldValueInvalid",
                ),
                (
                    spec(json!({"ingress": [{"ports": [{"port": "http", "endPort": 70}]}]})),
                    "spec.ingress[0].ports[0].endPort FieldValueInvalid",
                ),
                (spec(json!({"ingress": [{"from": [{}]}]})), "spec.ingress[0].from[0] FieldValueRequired"),
                (
                    spec(json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]})),
                    "spec.egress[0].to[0].ipBlock.except[0] FieldValueInvalid",
                ),
                (spec(json!({"policyTypes": ["x"]})), "spec.policyTypes[0] FieldValueNotSupported"),
            ],
        },
        Kind {
            path: "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            good: json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "good"},
                "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.1.1"]}], "ports": []}),
            bad: vec![
                (json!({"addressType": "x"}), "addressType FieldValueNotSupported"),
                (json!({"addressType": "IPv6"}), "endpoints[0].addresses[0] FieldValueInvalid"),
                (json!({"endpoints": [{"addresses": []}]}), "endpoints[0].addresses FieldValueRequired"),
                (
                    json!({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}),
                    "ports[1].name FieldValueDuplicate",
                ),
            ],
        },
        Kind {
            path: "/api/v1/namespaces/default/endpoints",
            good: json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "good"},
                "subsets": [{"addresses": [{"ip": "10.1.1.1"}], "ports": [{"port": 80}]}]}),
            bad: vec![
                (
                    json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]}),
                    "subsets[0].addresses[0].ip FieldValueInvalid",
                ),
                (json!({"subsets": [{}]}), "subsets[0] FieldValueRequired"),
            ],
        },
    ]
}

fn cluster() -> Vec<Kind> {
    let spec = |extra: Value| json!({"spec": extra});
    vec![
        Kind {
            path: "/api/v1/nodes",
            good: json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "good"}}),
            bad: vec![
                (
                    spec(json!({"taints": [{"key": "a", "effect": "x"}]})),
                    "spec.taints[0].effect FieldValueNotSupported",
                ),
                (
                    spec(
                        json!({"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}),
                    ),
                    "spec.taints[1] FieldValueDuplicate",
                ),
            ],
        },
        Kind {
            path: "/api/v1/namespaces/default/resourcequotas",
            good: json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "good"}, "spec": {"hard": {"pods": "1"}}}),
            bad: vec![
                (spec(json!({"hard": {"pods": "-1"}})), "spec.hard[pods] FieldValueInvalid"),
                (spec(json!({"scopes": ["x"]})), "spec.scopes[0] FieldValueNotSupported"),
                (spec(json!({"scopes": ["BestEffort", "NotBestEffort"]})), "spec.scopes FieldValueInvalid"),
            ],
        },
        Kind {
            path: "/api/v1/namespaces/default/limitranges",
            good: json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "good"},
                "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
            bad: vec![
                (
                    spec(json!({"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]})),
                    "spec.limits[0].min[cpu] FieldValueInvalid",
                ),
                (
                    spec(json!({"limits": [{"type": "Pod", "default": {"cpu": "1"}}]})),
                    "spec.limits[0].default FieldValueForbidden",
                ),
                (
                    spec(json!({"limits": [{"type": "Pod"}, {"type": "Pod"}]})),
                    "spec.limits[1].type FieldValueDuplicate",
                ),
            ],
        },
        Kind {
            path: "/apis/scheduling.k8s.io/v1/priorityclasses",
            good: json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "good"}, "value": 5}),
            bad: vec![
                (json!({"value": 2_000_000_000}), "value FieldValueForbidden"),
                (json!({"metadata": {"name": "system-mine"}}), "metadata.name FieldValueForbidden"),
                (json!({"preemptionPolicy": "x"}), "preemptionPolicy FieldValueNotSupported"),
            ],
        },
        Kind {
            path: "/apis/node.k8s.io/v1/runtimeclasses",
            good: json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "good"}, "handler": "runc"}),
            bad: vec![(json!({"handler": "A"}), "handler FieldValueInvalid")],
        },
        Kind {
            path: "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            good: json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "good"}, "spec": {}}),
            bad: vec![(spec(json!({"leaseDurationSeconds": 0})), "spec.leaseDurationSeconds FieldValueInvalid")],
        },
        Kind {
            path: "/api/v1/namespaces/default/events",
            good: json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "good"}, "involvedObject": {"namespace": "default"}}),
            bad: vec![(json!({"involvedObject": {"namespace": "x"}}), "involvedObject.namespace FieldValueInvalid")],
        },
        Kind {
            path: "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            good: json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "good"},
                "spec": {"priorityLevelConfiguration": {"name": "exempt"}}}),
            bad: vec![
                (spec(json!({"matchingPrecedence": 1})), "spec.matchingPrecedence FieldValueInvalid"),
                (spec(json!({"matchingPrecedence": 10_001})), "spec.matchingPrecedence FieldValueInvalid"),
                (
                    spec(json!({"priorityLevelConfiguration": {"name": ""}})),
                    "spec.priorityLevelConfiguration.name FieldValueRequired",
                ),
                (
                    spec(json!({"distinguisherMethod": {"type": "x"}})),
                    "spec.distinguisherMethod.type FieldValueNotSupported",
                ),
            ],
        },
        Kind {
            path: "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            good: json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
                "metadata": {"name": "good"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
            bad: vec![
                (spec(json!({"limited": null})), "spec.limited FieldValueRequired"),
                (
                    spec(json!({"limited": {"limitResponse": {"type": "Queue"}}})),
                    "spec.limited.limitResponse.queuing FieldValueRequired",
                ),
                (
                    spec(
                        json!({"limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 2, "handSize": 3}}}}),
                    ),
                    "spec.limited.limitResponse.queuing.handSize FieldValueInvalid",
                ),
                (spec(json!({"limited": {"lendablePercent": 101}})), "spec.limited.lendablePercent FieldValueInvalid"),
            ],
        },
        Kind {
            path: "/apis/apiregistration.k8s.io/v1/apiservices",
            good: json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.good.io"},
                "spec": {"group": "good.io", "version": "v1", "groupPriorityMinimum": 10, "versionPriority": 10}}),
            bad: vec![
                (json!({"metadata": {"name": "v2.good.io"}}), "metadata.name FieldValueInvalid"),
                (spec(json!({"versionPriority": 0})), "spec.versionPriority FieldValueInvalid"),
                (spec(json!({"service": {"namespace": "a"}})), "spec.service.name FieldValueRequired"),
            ],
        },
        Kind {
            path: "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            good: json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": "good"}, "webhooks": []}),
            bad: {
                let hook = |extra: Value| {
                    let mut hook = json!({"name": "a.b.c", "clientConfig": {"url": "https://x"}, "sideEffects": "None",
                        "admissionReviewVersions": ["v1"]});
                    merge_patch(&mut hook, &extra);
                    json!({"webhooks": [hook]})
                };
                vec![
                    (hook(json!({"name": "a"})), "webhooks[0].name FieldValueInvalid"),
                    (hook(json!({"clientConfig": {"url": null}})), "webhooks[0].clientConfig FieldValueRequired"),
                    (
                        hook(json!({"clientConfig": {"url": "http://x"}})),
                        "webhooks[0].clientConfig.url FieldValueInvalid",
                    ),
                    (hook(json!({"sideEffects": "Some"})), "webhooks[0].sideEffects FieldValueNotSupported"),
                    (hook(json!({"timeoutSeconds": 31})), "webhooks[0].timeoutSeconds FieldValueInvalid"),
                    (
                        hook(
                            json!({"rules": [{"operations": ["x"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}),
                        ),
                        "webhooks[0].rules[0].operations[0] FieldValueNotSupported",
                    ),
                ]
            },
        },
        Kind {
            path: "/apis/storage.k8s.io/v1/storageclasses",
            good: json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "good"}, "provisioner": "a.io/b"}),
            bad: vec![
                (json!({"reclaimPolicy": "x"}), "reclaimPolicy FieldValueNotSupported"),
                (json!({"volumeBindingMode": "x"}), "volumeBindingMode FieldValueNotSupported"),
            ],
        },
        Kind {
            path: "/api/v1/namespaces/default/persistentvolumeclaims",
            good: json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "good"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
            bad: vec![
                (spec(json!({"accessModes": []})), "spec.accessModes FieldValueRequired"),
                (
                    spec(json!({"resources": {"requests": {"storage": "0"}}})),
                    "spec.resources[storage] FieldValueInvalid",
                ),
            ],
        },
        Kind {
            path: "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            good: json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "good"}, "rules": []}),
            bad: vec![(
                json!({"rules": [{"resources": ["pods"], "apiGroups": [""]}]}),
                "rules[0].verbs FieldValueRequired",
            )],
        },
    ]
}

#[tokio::test]
async fn each_kind_is_checked_field_by_field() {
    let server = Server::start().await;
    server.create_account().await;
    let kinds = std::iter::once(pods()).chain(workloads()).chain(network()).chain(cluster());
    let mut wrong = Vec::new();
    for kind in kinds {
        let (code, answer) = server.json("POST", &format!("{}?dryRun=All", kind.path), &kind.good).await;
        if code != 201 {
            wrong.push(format!("{}: the good one is refused: {answer}", kind.path));
        }
        for (change, want) in kind.bad {
            let mut object = kind.good.clone();
            merge_patch(&mut object, &change);
            let (code, answer) = server.json("POST", kind.path, &object).await;
            let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
            let found: Vec<String> = causes
                .iter()
                .map(|c| format!("{} {}", c["field"].as_str().unwrap(), c["reason"].as_str().unwrap()))
                .collect();
            if code != 422 || found != [want] {
                wrong.push(format!(
                    "{}: {change}: wanted {want}, got {code} {found:?} {}",
                    kind.path, answer["message"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn what_is_fixed_at_creation_stays() {
    let server = Server::start().await;
    let spec = |extra: Value| json!({"spec": extra});
    let kinds: Vec<Kind> = workloads().into_iter().chain(network()).chain(cluster()).collect();
    let cases: [(&str, Value, &str); 7] = [
        (
            "/apis/apps/v1/namespaces/default/deployments",
            spec(json!({"selector": {"matchLabels": {"b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}})),
            "spec.selector",
        ),
        ("/apis/apps/v1/namespaces/default/statefulsets", spec(json!({"serviceName": "other"})), "spec"),
        (
            "/apis/batch/v1/namespaces/default/jobs",
            spec(json!({"template": {"spec": {"hostNetwork": true}}})),
            "spec.template",
        ),
        ("/apis/batch/v1/namespaces/default/jobs", spec(json!({"completions": 7})), "spec.completions"),
        ("/apis/networking.k8s.io/v1/ingressclasses", spec(json!({"controller": "c.io/d"})), "spec.controller"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"value": 6}), "value"),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "other"}), "handler"),
    ];
    for (path, change, want) in cases {
        let good = &kinds.iter().find(|k| k.path == path).unwrap().good;
        let (code, answer) = server.json("POST", path, good).await;
        assert!(code == 201 || code == 409, "{path}: {answer}");
        let name = good["metadata"]["name"].as_str().unwrap();
        let (code, answer) = server.json("PATCH", &format!("{path}/{name}"), &change).await;
        let fields: Vec<&str> =
            answer["details"]["causes"].as_array().into_iter().flatten().filter_map(|c| c["field"].as_str()).collect();
        assert_eq!((code.as_u16(), fields.as_slice()), (422, &[want][..]), "{path} {change}: {answer}");
    }
}

#[tokio::test]
async fn of_a_pods_spec_little_may_change() {
    let server = Server::start().await;
    server.create_account().await;
    let pods = "/api/v1/namespaces/default/pods";
    let make = |name: &str, extra: Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        merge_patch(&mut pod, &json!({"spec": extra}));
        pod
    };
    let seconds = |n: u32| json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": n}]);
    server.create(pods, make("free", json!({"activeDeadlineSeconds": 60, "tolerations": seconds(5)}))).await;
    let term = |values: &[&str]| {
        let wishes: Vec<Value> =
            values.iter().map(|v| json!({"key": "zone", "operator": "In", "values": [v]})).collect();
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": wishes}]}}})
    };
    let gated = json!({"schedulingGates": [{"name": "a.b/c"}, {"name": "a.b/d"}], "nodeSelector": {"a": "b"}, "affinity": term(&["x"])});
    server.create(pods, make("gated", gated)).await;
    const TERMS: &str =
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]";
    // Each change is tried after those before it: what is allowed stays.
    let cases: [(&str, Value, &[&str]); 16] = [
        ("free", json!({"nodeName": "n"}), &["spec"]),
        ("free", json!({"terminationGracePeriodSeconds": 1}), &["spec"]),
        ("free", json!({"nodeSelector": {"a": "b"}}), &["spec"]),
        ("free", json!({"activeDeadlineSeconds": 61}), &["spec.activeDeadlineSeconds"]),
        ("free", json!({"activeDeadlineSeconds": null}), &["spec.activeDeadlineSeconds"]),
        ("free", json!({"activeDeadlineSeconds": 59}), &[]),
        ("free", json!({"tolerations": []}), &["spec.tolerations"]),
        ("free", json!({"tolerations": seconds(9)}), &[]),
        ("free", json!({"schedulingGates": [{"name": "new"}]}), &["spec.schedulingGates"]),
        ("gated", json!({"nodeSelector": {"a": "c"}}), &["spec.nodeSelector"]),
        ("gated", json!({"nodeSelector": {"c": "d"}}), &[]),
        ("gated", json!({"affinity": term(&["y"])}), &[TERMS]),
        ("gated", json!({"affinity": term(&["x", "y"])}), &[]),
        ("gated", json!({"schedulingGates": [{"name": "a.b/d"}]}), &[]),
        ("gated", json!({"schedulingGates": []}), &[]),
        ("gated", json!({"nodeSelector": {"e": "f"}}), &["spec"]),
    ];
    let bind = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "gated"}, "target": {"name": "n"}});
    let (code, answer) = server.json("POST", &format!("{pods}/gated/binding"), &bind).await;
    assert_eq!(code, 409, "{answer}");
    for (name, change, want) in cases {
        let (code, answer) = server.json("PATCH", &format!("{pods}/{name}"), &json!({"spec": change})).await;
        let fields: Vec<&str> =
            answer["details"]["causes"].as_array().into_iter().flatten().filter_map(|c| c["field"].as_str()).collect();
        assert_eq!((code == 200, fields.as_slice()), (want.is_empty(), want), "{name} {change}: {answer}");
    }
    let (code, answer) = server.json("POST", &format!("{pods}/gated/binding"), &bind).await;
    assert_eq!(code, 201, "{answer}");
    let made = make("placed", json!({"schedulingGates": [{"name": "a.b/c"}], "nodeName": "n"}));
    let (code, answer) = server.json("POST", pods, &made).await;
    assert_eq!((code.as_u16(), &answer["details"]["causes"][0]["field"]), (422, &json!("spec.nodeName")), "{answer}");
}
