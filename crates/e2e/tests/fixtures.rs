//! Manifests that several tests share.

/// A StatefulSet `db` of two pods with a volume each at `/data`. `labels` are those of its pods, with `app: db` among them; `more` are further
/// lines of their spec.
pub fn stateful_set(labels: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: db
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {labels}}}
    spec:
      terminationGracePeriodSeconds: 0
{more}      containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '36000'], volumeMounts: [{{name: data, mountPath: /data}}]}}]
  volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}}}]
"
    )
}

/// Lines of a pod's spec that spread the pods of an app over all nodes.
pub fn spread(app: &str) -> String {
    format!(
        "      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: {app}}}}}}}
"
    )
}
