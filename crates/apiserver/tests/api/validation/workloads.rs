//! Kinds that make pods, and their budgets.

use apimachinery::patch::merge_patch;
use serde_json::{Value, json};

use super::{Kind, template};

pub(super) fn workloads() -> Vec<Kind> {
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
