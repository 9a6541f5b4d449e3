//! What `kubectl describe` tells of each kind: its state, and the events that upstream shows.

use testkit::Cluster;

const ALL: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600'], volumeMounts: [{name: data, mountPath: /data}]}]}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    spec: {restartPolicy: Never, containers: [{name: c, image: 'busybox:1.28', command: ['true']}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: cron}
spec:
  schedule: '* * * * *'
  suspend: true
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'busybox:1.28', command: ['true']}]}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 2
  metrics: [{type: External, external: {metric: {name: queue}, target: {type: Value, value: '1'}}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: idle}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: 'busybox:1.28', command: [sleep, '3600'], livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: unplaced}
spec: {nodeSelector: {no: such}, containers: [{name: c, image: 'busybox:1.28'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unpulled}
spec: {containers: [{name: c, image: '127.0.0.1:1/no/such:1'}]}
";

#[test]
fn describe_shows_the_events_of_each_kind() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    cluster.apply(ALL)?;
    cluster.ok(&["create", "job", "by-hand", "--from=cronjob/cron"])?;
    for (what, wanted) in [
        (
            "deployment/web",
            &[
                "Replicas:",
                "1 desired | 1 updated | 1 total | 1 available",
                "NewReplicaSet:",
                "ScalingReplicaSet",
                "deployment-controller",
                "Scaled up replica set web-",
            ][..],
        ),
        (
            "replicaset -l app=web",
            &["Controlled By:", "SuccessfulCreate", "replicaset-controller", "Created pod: web-"],
        ),
        (
            "statefulset/db",
            &[
                "Pods Status:",
                "SuccessfulCreate",
                "statefulset-controller",
                "create Claim data-db-0 Pod db-0 in StatefulSet db success",
                "create Pod db-0 in StatefulSet db successful",
            ],
        ),
        (
            "daemonset/logs",
            &["Desired Number of Nodes Scheduled: 1", "SuccessfulCreate", "daemonset-controller", "Created pod: logs-"],
        ),
        (
            "job/once",
            &[
                "Pods Statuses:",
                "SuccessfulCreate",
                "job-controller",
                "Created pod: once-",
                "Completed",
                "Job completed",
            ],
        ),
        ("cronjob/cron", &["Schedule:", "UnexpectedJob", "cronjob-controller"]),
        ("hpa/web", &["Deployment pods:", "FailedGetExternalMetric", "horizontal-pod-autoscaler"]),
        ("pdb/web", &["Allowed disruptions:", "Current:", "Desired:"]),
        (
            "pvc/idle",
            &[
                "WaitForFirstConsumer",
                "persistentvolume-controller",
                "waiting for first consumer to be created before binding",
            ],
        ),
        ("pvc/data-db-0", &["Bound", "Used By:", "db-0", "ProvisioningSucceeded"]),
        (
            "pod/sick",
            &["Unhealthy", "Liveness probe failed", "Killing", "Container c failed liveness probe, will be restarted"],
        ),
        (
            "pod/unplaced",
            &[
                "FailedScheduling",
                "default-scheduler",
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            ],
        ),
        ("pod/unpulled", &["Pulling", "Failed to pull image", "ErrImagePull", "BackOff"]),
        (
            "pod/db-0",
            &[
                "Scheduled",
                "Successfully assigned default/db-0 to server-1",
                "Pulled",
                "Created",
                "Started",
                "ClaimName:",
            ],
        ),
        (
            "node/server-1",
            &["Allocated resources:", "Starting", "RegisteredNode", "NodeReady", "NodeHasSufficientMemory", "kubelet"],
        ),
        ("service/web", &["Endpoints:", "IP Families:"]),
        ("namespace/default", &["Status:", "Active"]),
    ] {
        let mut arguments = vec!["describe"];
        arguments.extend(what.split(' '));
        cluster.eventually(&format!("describe of {what} tells all of {wanted:?}"), || {
            let text = cluster.ok(&arguments)?;
            let missing: Vec<&&str> = wanted.iter().filter(|w| !text.contains(**w)).collect();
            anyhow::ensure!(missing.is_empty(), "{missing:?} not in:\n{text}");
            Ok(true)
        })?;
    }
    Ok(())
}
