//! Kinds of the cluster as a whole.

use apimachinery::patch::merge_patch;
use serde_json::{Value, json};

use super::Kind;

pub(super) fn cluster() -> Vec<Kind> {
    let spec = |extra: Value| json!({"spec": extra});
    let selects = |scopes: Value| json!({"spec": {"scopeSelector": {"matchExpressions": scopes}}});
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
                (spec(json!({"scopes": ["x"]})), "spec.scopes FieldValueInvalid"),
                (
                    spec(json!({"hard": {"configmaps": "1"}, "scopes": ["Terminating"]})),
                    "spec.scopes FieldValueInvalid",
                ),
                (
                    selects(json!([{"scopeName": "x", "operator": "Exists"}])),
                    "spec.scopeSelector.matchExpressions.scopeName FieldValueInvalid",
                ),
                (
                    selects(json!([{"scopeName": "BestEffort", "operator": "DoesNotExist"}])),
                    "spec.scopeSelector.matchExpressions.operator FieldValueInvalid",
                ),
                (
                    selects(json!([{"scopeName": "PriorityClass", "operator": "In"}])),
                    "spec.scopeSelector.matchExpressions.values FieldValueRequired",
                ),
                (
                    selects(json!([{"scopeName": "VolumeAttributesClass", "operator": "Exists"}])),
                    "spec.scopeSelector.matchExpressions FieldValueInvalid",
                ),
                (
                    selects(
                        json!([{"scopeName": "Terminating", "operator": "Exists"}, {"scopeName": "NotTerminating", "operator": "Exists"}]),
                    ),
                    "spec.scopeSelector.matchExpressions FieldValueInvalid",
                ),
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
