//! Admission policies and match conditions on a server without a node.

use testkit::Cluster;

const POLICIES: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: replicas}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  matchConditions: [{name: not-exempt, expression: \"!has(object.metadata.labels) || !('exempt' in object.metadata.labels)\"}]
  variables:
  - {name: most, expression: int(params.data.most)}
  - {name: unused, expression: params.data.missing}
  validations:
  - expression: object.spec.replicas <= variables.most
    messageExpression: \"'at most %d replicas, not %d'.format([variables.most, object.spec.replicas])\"
    reason: Forbidden
  - {expression: request.userInfo.username != 'nobody', message: nobody may not}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: limits}
data: {most: '3'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: replicas-here}
spec:
  policyName: replicas
  validationActions: [Deny]
  paramRef: {name: limits, namespace: default, parameterNotFoundAction: Deny}
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: names}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: ['*'], resources: [configmaps]}]
  validations:
  - expression: \"oldObject == null || object != null || !oldObject.metadata.name.startsWith('kept')\"
  - {expression: \"object == null || !object.metadata.name.endsWith('old')\", message: old names are going away}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: names}
spec: {policyName: names, validationActions: [Warn]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: marks}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: \"Object{metadata: Object.metadata{labels: {'marked': request.operation}}, spec: Object.spec{revisionHistoryLimit: 4}}\"
  - patchType: JSONPatch
    jsonPatch:
      expression: \"[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'by': request.userInfo.username}}]\"
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: marks}
spec: {policyName: marks}
";

fn deployment(name: &str, replicas: u32, labels: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: x}}}}\n  template:\n    metadata: {{labels: {{app: x}}}}\n    spec: {{containers: [{{name: c, image: x}}]}}\n"
    )
}

#[test]
fn admission_policies_mutate_refuse_and_warn() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&["--disable-agent"])? else { return Ok(()) };
    cluster.apply(POLICIES)?;
    let apply = |yaml: &str| cluster.kubectl_with(&["apply", "-f", "-"], yaml);
    let refused = |yaml: &str, words: &str| {
        let output = apply(yaml);
        assert!(output.code != 0 && output.stderr.contains(words), "{words:?}: {output:?}");
    };
    let of = "ValidatingAdmissionPolicy 'replicas' with binding 'replicas-here' denied request: ";
    refused(&deployment("a", 5, ""), &format!("deployments.apps \"a\" is forbidden: {of}at most 3 replicas, not 5"));
    assert_eq!(apply(&deployment("a", 3, "")).code, 0);
    let made = cluster.get("deployment", "a")?;
    assert_eq!(made["metadata"]["labels"]["marked"], "CREATE");
    assert_eq!(made["spec"]["revisionHistoryLimit"], 4);
    assert!(made["metadata"]["annotations"]["by"].is_string(), "{made}");
    refused(&deployment("a", 4, ""), "at most 3 replicas, not 4");
    // Conditions, selectors of bindings, and changed parameters.
    assert_eq!(apply(&deployment("b", 5, "exempt: 'true'")).code, 0);
    cluster.ok(&["create", "namespace", "free"])?;
    assert_eq!(cluster.kubectl_with(&["-n", "free", "apply", "-f", "-"], &deployment("a", 5, "")).code, 0);
    cluster.ok(&["patch", "configmap", "limits", "--type=merge", "-p", "{\"data\":{\"most\":\"9\"}}"])?;
    assert_eq!(apply(&deployment("a", 5, "")).code, 0);
    // Without its parameters, a policy that wants them refuses.
    cluster.ok(&["delete", "configmap", "limits"])?;
    refused(&deployment("c", 1, ""), "no params found for policy binding with `Deny` parameterNotFoundAction");

    let warned = cluster.kubectl(&["create", "configmap", "very-old"]);
    let told = "Warning: Validation failed for ValidatingAdmissionPolicy 'names' with binding 'names': old names are";
    assert!(warned.code == 0 && warned.stderr.contains(told), "{warned:?}");
    // Server-side apply hears of warnings as well.
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: as-old}\n";
    let warned = cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], map);
    assert!(warned.code == 0 && warned.stderr.contains("old names are going away"), "{warned:?}");

    let wrong = POLICIES.replace("object.spec.replicas <= variables.most", "objekt.spec.replicas <= variables.most");
    refused(&wrong, "spec.validations[0].expression: Invalid value");
    Ok(())
}
