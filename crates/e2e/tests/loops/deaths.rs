//! Controllers that die in the midst of whatever they do: the next ones finish it, and nothing is done twice.
//!
//! A life ends with its nth write: the write is done, its answer is never seen, and nothing more happens. Lives of one write
//! each stop at every step that there is; longer ones, of random lengths, also die with more in their hands.

use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::claims;
use crate::cluster::{Cluster, condition, image, is_ready, names};

/// Does what `user` does, and lets short-lived controllers work until `done`.
async fn survive<U, F>(lengths: impl Fn() -> usize, user: U, done: impl AsyncFn(&Cluster) -> bool) -> Cluster
where
    U: FnOnce(std::sync::Arc<Cluster>) -> F,
    F: Future<Output = ()>,
{
    let cluster = std::sync::Arc::new(Cluster::without_loops().await);
    // Accounts, classes and the like are of no interest here.
    let life = cluster.start_loops(usize::MAX);
    cluster.add_nodes("fake", 3).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    life.end();
    let mut user = Box::pin(user(cluster.clone()));
    let (mut lives, mut acted) = (0, false);
    loop {
        let life = cluster.start_loops(lengths());
        lives += 1;
        // A life that finds nothing more to do ends by itself.
        tokio::select! {
            () = life.ended() => {}
            () = &mut user, if !acted => acted = true,
            () = tokio::time::sleep(std::time::Duration::from_secs(120)) => {}
        }
        life.end();
        if acted && done(&cluster).await {
            break;
        }
        assert!(lives < 1000, "no end after {lives} lives:\n{:#?}", cluster.events("").await);
    }
    println!("{lives} lives");
    drop(user);
    std::sync::Arc::try_unwrap(cluster).ok().unwrap()
}

/// Lives of one write each, then of some; the seed of the latter is told if something fails.
async fn at_every_step<F>(
    user: impl Fn(std::sync::Arc<Cluster>) -> F,
    done: impl AsyncFn(&Cluster) -> bool,
    check: impl AsyncFn(&Cluster),
) where
    F: Future<Output = ()>,
{
    let cluster = survive(|| 1, &user, &done).await;
    check(&cluster).await;
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let random = std::cell::RefCell::new(rand::rngs::StdRng::seed_from_u64(seed));
    let cluster = survive(|| random.borrow_mut().random_range(2..12), &user, &done).await;
    check(&cluster).await;
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test(start_paused = true)]
async fn rollout_goes_on() {
    const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
    at_every_step(
        async |cluster: std::sync::Arc<Cluster>| {
            cluster
                .create(
                    "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 4, selector: {matchLabels: {app: web}}, \
                     template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: one}]}}}}",
                )
                .await;
            cluster.create("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}").await;
            cluster.until(WEB, |d| d["status"]["updatedReplicas"].as_i64().unwrap_or(0) >= 1).await;
            let two = image("two");
            cluster.patch(WEB, two).await;
        },
        async |cluster| {
            let web = cluster.get(WEB).await;
            let status = &web["status"];
            let slices = cluster.list("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb").await;
            status["observedGeneration"] == web["metadata"]["generation"]
                && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|k| status[*k] == 4)
                && condition(&web, "Progressing").1 == "NewReplicaSetAvailable"
                && slices.iter().map(|s| s["endpoints"].as_array().map_or(0, Vec::len)).sum::<usize>() == 4
        },
        async |cluster| {
            let sets = cluster.list("/apis/apps/v1/namespaces/default/replicasets").await;
            let mut sizes: Vec<i64> = sets.iter().map(|s| s["spec"]["replicas"].as_i64().unwrap()).collect();
            sizes.sort_unstable();
            assert_eq!(sizes, [0, 4]);
            assert_eq!(cluster.list(PODS).await.len(), 4, "no pod is left over");
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn stateful_set_keeps_its_identities() {
    const DB: &str = "/apis/apps/v1/namespaces/default/statefulsets/db";
    at_every_step(
        async |cluster: std::sync::Arc<Cluster>| {
            cluster
                .create(
                    "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {replicas: 3, serviceName: db, selector: {matchLabels: \
                     {app: db}}, persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}, volumeClaimTemplates: [{metadata: {name: data}, \
                     spec: {storageClassName: none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}], \
                     template: {metadata: {labels: {app: db}}, spec: {nodeName: fake-0, containers: [{name: c, image: one}]}}}}",
                )
                .await;
            cluster.until(DB, |s| s["status"]["availableReplicas"] == 3).await;
            let two = json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
            cluster.patch(DB, two).await;
        },
        async |cluster| {
            let db = cluster.get(DB).await;
            let status = &db["status"];
            status["observedGeneration"] == 2
                && status["availableReplicas"] == 2
                && status["updatedReplicas"] == 2
                && status["currentRevision"] == status["updateRevision"]
                && status["replicas"] == 2
                && cluster.list("/api/v1/namespaces/default/persistentvolumeclaims").await.len() == 2
        },
        async |cluster| {
            assert_eq!(names(&cluster.list(PODS).await), ["db-0", "db-1"]);
            assert_eq!(cluster.list("/apis/apps/v1/namespaces/default/controllerrevisions").await.len(), 2);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn job_counts_every_pod_once() {
    const JOB: &str = "/apis/batch/v1/namespaces/default/jobs/job";
    at_every_step(
        async |cluster: std::sync::Arc<Cluster>| {
            cluster
                .create(
                    "{apiVersion: batch/v1, kind: Job, metadata: {name: job}, spec: {completions: 6, parallelism: 3, completionMode: Indexed, \
                     template: {metadata: {annotations: {fake/exit: '0', fake/seconds: '1'}}, spec: {restartPolicy: Never, containers: \
                     [{name: c, image: one}]}}}}",
                )
                .await;
        },
        async |cluster| condition(&cluster.get(JOB).await, "Complete").0 == "True",
        async |cluster| {
            let job = cluster.get(JOB).await;
            assert_eq!((&job["status"]["succeeded"], &job["status"]["completedIndexes"]), (&6.into(), &"0-5".into()));
            assert_eq!(job["status"]["failed"].as_i64().unwrap_or(0), 0);
            let pods = cluster.list(PODS).await;
            assert_eq!(pods.len(), 6, "no index ran twice");
            assert!(pods.iter().all(|p| p["metadata"]["finalizers"].is_null()));
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn daemons_and_schedules() {
    const LOGS: &str = "/apis/apps/v1/namespaces/default/daemonsets/logs";
    at_every_step(
        async |cluster: std::sync::Arc<Cluster>| {
            cluster
                .create(
                    "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: logs}, spec: {selector: {matchLabels: {app: logs}}, template: \
                     {metadata: {labels: {app: logs}}, spec: {containers: [{name: c, image: one}]}}}}",
                )
                .await;
            cluster
                .create(
                    "{apiVersion: batch/v1, kind: CronJob, metadata: {name: cron}, spec: {schedule: '1 10 2 3 *', jobTemplate: {spec: {template: \
                     {metadata: {annotations: {fake/exit: '0'}}, spec: {restartPolicy: Never, containers: [{name: c, image: one}]}}}}}}",
                )
                .await;
            let two = image("two");
            cluster.until(LOGS, |d| d["status"]["numberAvailable"] == 3).await;
            cluster.patch(LOGS, two).await;
        },
        async |cluster| {
            let logs = cluster.get(LOGS).await;
            let cron = cluster.get("/apis/batch/v1/namespaces/default/cronjobs/cron").await;
            logs["status"]["updatedNumberScheduled"] == 3
                && logs["status"]["numberAvailable"] == 3
                && logs["status"]["observedGeneration"] == 2
                && cron["status"]["lastSuccessfulTime"].is_string()
                && cron["status"]["active"].is_null()
        },
        async |cluster| {
            assert_eq!(cluster.list("/apis/batch/v1/namespaces/default/jobs").await.len(), 1);
            assert_eq!(cluster.pods("logs").await.len(), 3);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn volumes_are_made_once_and_namespaces_go_whole() {
    at_every_step(
        async |cluster: std::sync::Arc<Cluster>| {
            for i in 0..3 {
                let path = json!({"metadata": {"annotations": {"timonel.io/storage-path": "/s"}}});
                cluster.patch(&format!("/api/v1/nodes/fake-{i}"), path).await;
            }
            cluster.create("{apiVersion: v1, kind: Namespace, metadata: {name: 'n'}}").await;
            cluster.until("/api/v1/namespaces/n/serviceaccounts/default", |a| !a.is_null()).await;
            cluster
                .create(
                    "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, namespace: 'n'}, spec: {storageClassName: local-path, \
                     accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
                )
                .await;
            cluster
                .create(
                    "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: 'n'}, spec: {containers: [{name: c, image: one}], volumes: [{name: v, \
                     persistentVolumeClaim: {claimName: c}}]}}",
                )
                .await;
            cluster.until("/api/v1/namespaces/n/pods/p", is_ready).await;
            let volumes = cluster.list("/api/v1/persistentvolumes").await;
            assert_eq!(volumes.len(), 1);
            cluster.delete("/api/v1/namespaces/n", json!({})).await;
        },
        async |cluster| {
            let volumes = cluster.list("/api/v1/persistentvolumes").await;
            // The folder is removed by the node's agent, which isn't there; the rest is the controllers'.
            cluster.get("/api/v1/namespaces/n").await.is_null() && volumes.iter().all(|v| !v["metadata"]["deletionTimestamp"].is_null())
        },
        async |cluster| {
            let left: Vec<Value> = cluster.list("/api/v1/persistentvolumeclaims").await;
            assert!(left.is_empty());
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn devices_are_given_once_and_given_back() {
    const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let is_there = |pods: &[Value], name: &str| pods.iter().any(|pod| pod["metadata"]["name"] == name && is_ready(pod));
    at_every_step(
        async |cluster: std::sync::Arc<Cluster>| {
            cluster.create(claims::DEVICES).await;
            cluster.create(&claims::pod("a")).await;
            cluster.create(&claims::pod("b")).await;
            cluster.until(&format!("{PODS}/a"), is_ready).await;
            cluster.delete(&format!("{PODS}/a"), json!({})).await;
            cluster.create(&claims::pod("c")).await;
        },
        async |cluster| {
            let pods = cluster.list(PODS).await;
            pods.len() == 2
                && is_there(&pods, "b")
                && is_there(&pods, "c")
                && cluster.list(CLAIMS).await.iter().all(|claim| claim["metadata"]["deletionTimestamp"].is_null())
                && cluster.list(CLAIMS).await.len() == 2
        },
        async |cluster| {
            let given = claims::given(&cluster.list(CLAIMS).await);
            let devices: std::collections::BTreeSet<&str> =
                given.iter().filter_map(|text| Some(text.split_once(' ')?.1)).collect();
            assert_eq!((given.len(), devices.len()), (2, 2), "{given:?}");
            assert!(given[0].starts_with("b ") && given[1].starts_with("c "), "{given:?}");
        },
    )
    .await;
}
