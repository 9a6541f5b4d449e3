//! Pods.

use apimachinery::patch::merge_patch;
use serde_json::{Value, json};

use super::Kind;

pub(super) fn pods() -> Kind {
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
