//! Jobs and CronJobs.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, condition, name, names};

const JOB: &str = "/apis/batch/v1/namespaces/default/jobs/job";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const CRON: &str = "/apis/batch/v1/namespaces/default/cronjobs/cron";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn job(more: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: job}}, spec: {{{more} template: {{metadata: {{annotations: {{{annotations}}}}}, \
         spec: {{restartPolicy: Never, containers: [{{name: c, image: one}}]}}}}}}}}"
    )
}

fn cron(schedule: &str, more: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: cron}}, spec: {{schedule: '{schedule}', {more} jobTemplate: {{spec: \
         {{template: {{metadata: {{annotations: {{{annotations}}}}}, spec: {{restartPolicy: Never, containers: [{{name: c, image: one}}]}}}}}}}}}}}}"
    )
}

fn is_complete(job: &Value) -> bool {
    condition(job, "Complete").0 == "True"
}

fn is_failed(job: &Value) -> bool {
    condition(job, "Failed").0 == "True"
}

#[tokio::test(start_paused = true)]
async fn job_runs_to_its_completions() {
    let cluster = Cluster::start(2).await;
    cluster.create(&job("completions: 5, parallelism: 2,", "fake/exit: '0', fake/seconds: '10'")).await;
    let mut most = 0;
    let done = cluster
        .until(JOB, |j| {
            most = most.max(j["status"]["active"].as_i64().unwrap_or(0));
            is_complete(j)
        })
        .await;
    assert_eq!(most, 2);
    assert_eq!((&done["status"]["succeeded"], &done["status"]["ready"]), (&5.into(), &0.into()));
    assert_eq!(
        condition(&done, "Complete"),
        ("True".into(), "CompletionsReached".into(), "Reached expected number of succeeded pods".into())
    );
    assert!(done["status"]["completionTime"].is_string() && done["status"]["startTime"].is_string());
    assert_eq!(done["status"]["uncountedTerminatedPods"], json!({}));
    let pods = cluster.list(PODS).await;
    assert_eq!(pods.len(), 5);
    assert!(pods.iter().all(|p| p["metadata"]["finalizers"].is_null()), "counted pods are free");
    let told = cluster.events("job").await;
    assert!(told.contains(&"Job/job Normal Completed: Job completed".into()), "{told:#?}");
    assert_eq!(told.iter().filter(|t| t.starts_with("Job/job Normal SuccessfulCreate: Created pod: job-")).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_and_longer_and_end_a_job() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("backoffLimit: 2,", "fake/exit: '3'")).await;
    let failed = cluster.until(JOB, is_failed).await;
    assert_eq!(
        condition(&failed, "Failed"),
        ("True".into(), "BackoffLimitExceeded".into(), "Job has reached the specified backoff limit".into())
    );
    assert_eq!(failed["status"]["failed"], 3);
    let mut born: Vec<String> =
        cluster.list(PODS).await.iter().map(|p| p["metadata"]["creationTimestamp"].as_str().unwrap().into()).collect();
    born.sort();
    let at = |i: usize| born[i].parse::<jiff::Timestamp>().unwrap().as_second();
    assert!((at(1) - at(0) - 10).abs() <= 1 && (at(2) - at(1) - 20).abs() <= 1, "{born:?}");
    let told = cluster.events("job").await;
    assert!(
        told.contains(&"Job/job Warning BackoffLimitExceeded: Job has reached the specified backoff limit".into()),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_a_job_and_its_pods() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("activeDeadlineSeconds: 60,", "fake/lingers: '5'")).await;
    let failed = cluster.until(JOB, is_failed).await;
    assert_eq!(condition(&failed, "Failed").1, "DeadlineExceeded");
    assert_eq!(condition(&failed, "Failed").2, "Job was active longer than specified deadline");
    assert_eq!(condition(&failed, "FailureTarget").1, "DeadlineExceeded");
    assert_eq!((&failed["status"]["failed"], &failed["status"]["terminating"]), (&1.into(), &0.into()));
    assert_eq!(failed["status"]["uncountedTerminatedPods"], json!({}));
    assert!(cluster.until_list(PODS, <[Value]>::is_empty).await.is_empty());
    let told = cluster.events("job").await;
    assert!(told.iter().any(|t| t.starts_with("Job/job Normal SuccessfulDelete: Deleted pod: job-")), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn suspended_job_holds_its_pods_back() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("suspend: true, parallelism: 2, completions: 2,", "")).await;
    let suspended = cluster.until(JOB, |j| condition(j, "Suspended").0 == "True").await;
    assert_eq!(condition(&suspended, "Suspended"), ("True".into(), "JobSuspended".into(), "Job suspended".into()));
    assert!(suspended["status"]["startTime"].is_null() && cluster.list(PODS).await.is_empty());
    cluster.patch(JOB, json!({"spec": {"suspend": false}})).await;
    cluster.until(JOB, |j| j["status"]["active"] == 2 && condition(j, "Suspended").0 == "False").await;
    cluster.patch(JOB, json!({"spec": {"suspend": true}})).await;
    cluster.until(JOB, |j| j["status"]["active"].is_null() && condition(j, "Suspended").0 == "True").await;
    cluster.until_list(PODS, <[Value]>::is_empty).await;
    let told = cluster.events("job").await;
    for reason in ["Suspended: Job suspended", "Resumed: Job resumed"] {
        assert!(told.contains(&format!("Job/job Normal {reason}")), "{told:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn indexes_each_have_their_own_limit() {
    let cluster = Cluster::start(1).await;
    let more = "completions: 4, parallelism: 4, completionMode: Indexed, backoffLimitPerIndex: 1, backoffLimit: 100,";
    cluster.create(&job(more, "fake/exit: '0', fake/seconds: '60'")).await;
    let pods = cluster
        .until_list(PODS, |pods| pods.len() == 4 && pods.iter().all(|p| p["status"]["phase"] == "Running"))
        .await;
    let index = |p: &Value| {
        p["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap().to_string()
    };
    assert_eq!(pods[0]["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], index(&pods[0]).as_str());
    assert_eq!(pods[0]["spec"]["hostname"], format!("job-{}", index(&pods[0])));
    // Index 2 fails whatever it does.
    for _ in 0..2 {
        let pods = cluster
            .until_list(PODS, |pods| pods.iter().any(|p| index(p) == "2" && p["status"]["phase"] == "Running"))
            .await;
        let pod = pods.iter().find(|p| index(p) == "2" && p["status"]["phase"] == "Running").unwrap();
        cluster.patch(&format!("{PODS}/{}/status", name(pod)), json!({"status": {"phase": "Failed"}})).await;
        sleep(Duration::from_secs(1)).await;
    }
    let failed = cluster.until(JOB, is_failed).await;
    assert_eq!(condition(&failed, "Failed"), ("True".into(), "FailedIndexes".into(), "Job has failed indexes".into()));
    assert_eq!(
        (&failed["status"]["completedIndexes"], &failed["status"]["failedIndexes"]),
        (&"0,1,3".into(), &"2".into())
    );
}

#[tokio::test(start_paused = true)]
async fn policies_judge_failures_and_successes() {
    let cluster = Cluster::start(1).await;
    let policy = "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]},";
    cluster.create(&job(policy, "fake/exit: '42'")).await;
    let failed = cluster.until(JOB, is_failed).await;
    let (_, reason, message) = condition(&failed, "Failed");
    assert_eq!(reason, "PodFailurePolicy");
    let pod = name(&cluster.list(PODS).await[0]).to_string();
    assert_eq!(
        message,
        format!("Container c for pod default/{pod} failed with exit code 42 matching FailJob rule at index 0")
    );
    cluster.delete(JOB, json!({"propagationPolicy": "Background"})).await;
    cluster.until_list(PODS, <[Value]>::is_empty).await;
    let more =
        "completions: 3, parallelism: 3, completionMode: Indexed, successPolicy: {rules: [{succeededCount: 1}]},";
    cluster.create(&job(more, "")).await;
    let pods = cluster.until_list(PODS, |p| p.len() == 3 && p.iter().all(|p| p["status"]["phase"] == "Running")).await;
    cluster.patch(&format!("{PODS}/{}/status", name(&pods[1])), json!({"status": {"phase": "Succeeded"}})).await;
    let done = cluster.until(JOB, is_complete).await;
    assert_eq!(condition(&done, "Complete").1, "SuccessPolicy");
    assert_eq!(done["status"]["succeeded"], 1);
    cluster.until_list(PODS, |p| p.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn replacements_may_wait_for_the_end_of_the_old() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("podReplacementPolicy: Failed,", "fake/lingers: '30'")).await;
    let pods = cluster.until_list(PODS, |p| p.len() == 1 && p[0]["status"]["phase"] == "Running").await;
    cluster.delete(&format!("{PODS}/{}", name(&pods[0])), json!({})).await;
    let terminating = cluster.until(JOB, |j| j["status"]["terminating"] == 1).await;
    assert!(terminating["status"]["active"].is_null());
    sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.list(PODS).await.len(), 1);
    cluster.until_list(PODS, |p| p.len() == 1 && p[0]["metadata"]["deletionTimestamp"].is_null()).await;
}

#[tokio::test(start_paused = true)]
async fn finished_jobs_go_after_their_time_and_others_are_left_to_their_manager() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("ttlSecondsAfterFinished: 100,", "fake/exit: '0'")).await;
    cluster.until(JOB, is_complete).await;
    sleep(Duration::from_secs(90)).await;
    assert!(!cluster.get(JOB).await.is_null());
    cluster.until(JOB, Value::is_null).await;
    cluster.until_list(PODS, <[Value]>::is_empty).await;
    cluster.create(&job("managedBy: example.com/other,", "")).await;
    sleep(Duration::from_secs(60)).await;
    let left = cluster.get(JOB).await;
    assert!(left["status"]["startTime"].is_null() && cluster.list(PODS).await.is_empty(), "{left}");
}

#[tokio::test(start_paused = true)]
async fn job_takes_in_pods_that_fit() {
    let cluster = Cluster::start(1).await;
    cluster
        .create("{apiVersion: v1, kind: Pod, metadata: {name: stray, labels: {own: mine}}, spec: {restartPolicy: Never, containers: [{name: c, image: one}]}}")
        .await;
    let text = job("manualSelector: true, selector: {matchLabels: {own: mine}},", "")
        .replace("metadata: {annotations: {}}", "metadata: {labels: {own: mine}}");
    cluster.create(&text).await;
    let stray = cluster.until(&format!("{PODS}/stray"), |p| p["metadata"]["ownerReferences"][0]["name"] == "job").await;
    assert_eq!(stray["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
    cluster.until(JOB, |j| j["status"]["active"] == 1).await;
    assert_eq!(cluster.list(PODS).await.len(), 1);
    cluster.patch(&format!("{PODS}/stray/status"), json!({"status": {"phase": "Succeeded"}})).await;
    cluster.until(JOB, is_complete).await;
    assert!(cluster.get(&format!("{PODS}/stray")).await["metadata"]["finalizers"].is_null());
}

#[tokio::test(start_paused = true)]
async fn schedule_starts_jobs_and_keeps_a_few() {
    let cluster = Cluster::start(1).await;
    cluster.create(&cron("*/10 * * * *", "successfulJobsHistoryLimit: 2,", "fake/exit: '0', fake/seconds: '30'")).await;
    let first = cluster.until_list(JOBS, |j| j.len() == 1).await;
    // The clock starts at 10:00:30.
    let due = "2026-03-02T10:10:00Z".parse::<jiff::Timestamp>().unwrap();
    assert_eq!(name(&first[0]), format!("cron-{}", due.as_second() / 60));
    assert_eq!(
        first[0]["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-03-02T10:10:00Z"
    );
    let active = cluster.until(CRON, |c| c["status"]["active"][0]["name"] == name(&first[0])).await;
    assert_eq!(active["status"]["lastScheduleTime"], "2026-03-02T10:10:00Z");
    cluster.until(CRON, |c| c["status"]["active"].is_null() && c["status"]["lastSuccessfulTime"].is_string()).await;
    cluster
        .until(CRON, |c| c["status"]["lastScheduleTime"] == "2026-03-02T10:50:00Z" && c["status"]["active"].is_null())
        .await;
    let jobs = cluster.until_list(JOBS, |j| j.len() == 2).await;
    assert!(names(&jobs).iter().all(|n| *n > name(&first[0])));
    let told = cluster.events("cron").await;
    assert!(
        told.contains(&format!("CronJob/cron Normal SuccessfulCreate: Created job {}", name(&first[0]))),
        "{told:#?}"
    );
    assert!(
        told.contains(&format!(
            "CronJob/cron Normal SawCompletedJob: Saw completed job: {}, condition: Complete",
            name(&first[0])
        )),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn concurrency_policies_and_suspension() {
    let cluster = Cluster::start(1).await;
    cluster.create(&cron("* * * * *", "concurrencyPolicy: Forbid,", "")).await;
    let first = cluster.until_list(JOBS, |j| j.len() == 1).await;
    sleep(Duration::from_secs(180)).await;
    assert_eq!(names(&cluster.list(JOBS).await), names(&first));
    let told = cluster.events("cron").await;
    let forbid = "CronJob/cron Normal JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid";
    assert!(told.contains(&forbid.into()), "{told:#?}");
    cluster.patch(CRON, json!({"spec": {"concurrencyPolicy": "Replace"}})).await;
    let second = cluster.until_list(JOBS, |j| j.len() == 1 && name(&j[0]) != name(&first[0])).await;
    cluster.until(CRON, |c| c["status"]["active"][0]["name"] == name(&second[0])).await;
    // What somebody else takes away is missed; what the schedule replaces isn't.
    cluster.delete(&format!("{JOBS}/{}", name(&second[0])), json!({"propagationPolicy": "Background"})).await;
    cluster.until(CRON, |c| c["status"]["active"].is_null()).await;
    let told = cluster.events("cron").await;
    let missing: Vec<&String> = told.iter().filter(|t| t.contains("MissingJob")).collect();
    assert_eq!(missing, [&format!("CronJob/cron Warning MissingJob: Active job went missing: {}", name(&second[0]))]);
    cluster.until_list(JOBS, |j| j.len() == 1).await;
    cluster.patch(CRON, json!({"spec": {"suspend": true}})).await;
    sleep(Duration::from_secs(61)).await;
    let held = cluster.list(JOBS).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(names(&cluster.list(JOBS).await), names(&held));
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_made_up_for_within_the_deadline() {
    let cluster = Cluster::without_loops().await;
    cluster.create(&cron("0 11 * * *", "startingDeadlineSeconds: 3600,", "")).await;
    cluster.create(&cron("0 11 * * *", "startingDeadlineSeconds: 60,", "").replace("name: cron}", "name: late}")).await;
    // Nobody was there at eleven.
    sleep(Duration::from_secs(90 * 60)).await;
    cluster.start_loops(usize::MAX);
    let jobs = cluster.until_list(JOBS, |j| j.len() == 1).await;
    assert!(name(&jobs[0]).starts_with("cron-"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.list(JOBS).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_too_far_ends_nothing() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("activeDeadlineSeconds: 9223372036854775807,", "fake/exit: '0', fake/seconds: '60'")).await;
    cluster.until(JOB, is_complete).await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_never_ran_hold_neither_job_nor_namespace() {
    let cluster = Cluster::start(1).await;
    // A pod failure policy has to see how pods end, and these never do.
    for (name, more) in [("plain", ""), ("waits", "podReplacementPolicy: Failed,")] {
        cluster.create(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")).await;
        cluster
            .create(&format!(
                "{{apiVersion: batch/v1, kind: Job, metadata: {{name: job, namespace: {name}}}, spec: {{{more} template: {{spec: \
                 {{restartPolicy: Never, nodeSelector: {{no: node}}, containers: [{{name: c, image: one}}]}}}}}}}}"
            ))
            .await;
        cluster.until_list(&format!("/api/v1/namespaces/{name}/pods"), |p| p.len() == 1).await;
        cluster.delete(&format!("/api/v1/namespaces/{name}"), json!({})).await;
        cluster.until(&format!("/api/v1/namespaces/{name}"), Value::is_null).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_has_failed_and_one_that_the_job_gives_up_has_not() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("parallelism: 2, completions: 2,", "fake/lingers: '5'")).await;
    let pods = cluster.until_list(PODS, |p| p.len() == 2 && p.iter().all(|p| p["status"]["phase"] == "Running")).await;
    cluster.delete(&format!("{PODS}/{}", name(&pods[0])), json!({})).await;
    cluster.until(JOB, |j| j["status"]["failed"] == 1 && j["status"]["active"] == 2).await;
    cluster.patch(JOB, json!({"spec": {"suspend": true}})).await;
    cluster.until_list(PODS, <[Value]>::is_empty).await;
    let suspended = cluster.until(JOB, |j| j["status"]["terminating"] == 0).await;
    assert_eq!(suspended["status"]["failed"], 1);
}

#[tokio::test(start_paused = true)]
async fn orphans_of_a_job_lose_its_finalizer() {
    let cluster = Cluster::start(1).await;
    cluster.create(&job("", "")).await;
    cluster.until_list(PODS, |p| p.len() == 1 && p[0]["status"]["phase"] == "Running").await;
    cluster.delete(JOB, json!({"propagationPolicy": "Orphan"})).await;
    cluster.until(JOB, Value::is_null).await;
    let free = |p: &[Value]| {
        p.len() == 1 && p[0]["metadata"]["finalizers"].is_null() && p[0]["metadata"]["ownerReferences"].is_null()
    };
    let pods = cluster.until_list(PODS, free).await;
    // A pod that somebody made with the finalizer of a Job that never was.
    let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "never", "uid": "0", "controller": true}]);
    let orphan = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "one"}]},
        "metadata": {"name": "orphan", "ownerReferences": owner, "finalizers": ["batch.kubernetes.io/job-tracking"]}});
    cluster.post(PODS, orphan).await;
    cluster.until(&format!("{PODS}/orphan"), Value::is_null).await;
    assert_eq!(cluster.list(PODS).await.len(), pods.len());
}

#[tokio::test(start_paused = true)]
async fn schedules_go_by_the_clock_of_their_zone() {
    let cluster = Cluster::start(1).await;
    cluster.create(&cron("*/30 */24,* * * *", "timeZone: Asia/Kathmandu,", "fake/exit: '0'")).await;
    let jobs = cluster.until_list(JOBS, |j| !j.is_empty()).await;
    let due = jobs[0]["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str().unwrap();
    assert!(due.ends_with(":00:00+05:45") || due.ends_with(":30:00+05:45"), "{due}");
}
