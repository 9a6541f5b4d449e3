//! Jobs, CronJobs and DaemonSets on real containers.

use serde_json::Value;
use testkit::Cluster;

fn job(name: &str, spec: &str, script: &str) -> String {
    format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n  template:\n    spec:\n      \
         restartPolicy: Never\n      terminationGracePeriodSeconds: 0\n      containers:\n      - {{name: c, image: 'busybox:1.28', command: [sh, -c, '{script}']}}\n"
    )
}

fn ended(job: &Value, kind: &str) -> Option<String> {
    let conditions = job["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|c| c["type"] == kind && c["status"] == "True")?;
    Some(found["reason"].as_str().unwrap_or("").to_string())
}

#[test]
fn jobs_run_to_their_end_and_are_counted_once() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(
        &[
            job("three", "{completions: 3, parallelism: 2}", "echo done")
                .replace("  {completions: 3, parallelism: 2}", "  completions: 3\n  parallelism: 2"),
            job("fails", "backoffLimit: 0", "exit 3"),
            job(
                "indexed",
                "completions: 3\n  parallelism: 3\n  completionMode: Indexed",
                "echo index $JOB_COMPLETION_INDEX",
            ),
            job("late", "activeDeadlineSeconds: 1", "sleep 3600"),
            job("short", "ttlSecondsAfterFinished: 0", "true"),
            job("asleep", "suspend: true", "true"),
            job(
                "enough",
                "completions: 3\n  parallelism: 3\n  completionMode: Indexed\n  successPolicy: {rules: [{succeededIndexes: \"0\"}]}",
                "test $JOB_COMPLETION_INDEX = 0 || sleep 3600",
            ),
        ]
        .concat(),
    )?;
    let wait = |name: &str, kind: &str, reason: &str| {
        cluster.eventually(&format!("job {name} is {kind}"), || {
            let job = cluster.get("job", name)?;
            anyhow::ensure!(ended(&job, kind).as_deref() == Some(reason), "{}", job["status"]);
            Ok(true)
        })
    };
    wait("three", "Complete", "CompletionsReached")?;
    let three = cluster.get("job", "three")?;
    assert_eq!((&three["status"]["succeeded"], &three["status"]["failed"]), (&3.into(), &Value::Null), "{three}");
    assert!(three["status"]["completionTime"].is_string());
    assert_eq!(cluster.list("pods", "job-name=three")?.len(), 3);
    wait("fails", "Failed", "BackoffLimitExceeded")?;
    wait("late", "Failed", "DeadlineExceeded")?;
    wait("indexed", "Complete", "CompletionsReached")?;
    wait("enough", "Complete", "SuccessPolicy")?;
    assert_eq!(cluster.get("job", "indexed")?["status"]["completedIndexes"], "0-2");
    let pods = cluster.list("pods", "job-name=indexed,batch.kubernetes.io/job-completion-index=1")?;
    let name = pods[0]["metadata"]["name"].as_str().unwrap_or("").to_string();
    assert_eq!(cluster.ok(&["logs", &name])?, "index 1\n");
    cluster.eventually("the short-lived job is gone", || Ok(cluster.kubectl(&["get", "job", "short"]).code != 0))?;
    assert!(cluster.list("pods", "job-name=asleep")?.is_empty());
    cluster.ok(&["patch", "job", "asleep", "--type=merge", "-p", "{\"spec\":{\"suspend\":false}}"])?;
    wait("asleep", "Complete", "CompletionsReached")?;

    // The server dies while a Job is at work: each end counts once all the same.
    cluster.apply(&job("many", "completions: 8\n  parallelism: 4", "sleep 0.2"))?;
    cluster.eventually("some pods are there", || Ok(cluster.list("pods", "job-name=many")?.len() > 2))?;
    cluster.server.crash();
    cluster.server.spawn()?;
    let cluster = &cluster;
    cluster.eventually("the job is complete", || Ok(ended(&cluster.get("job", "many")?, "Complete").is_some()))?;
    assert_eq!(cluster.get("job", "many")?["status"]["succeeded"], 8);
    cluster.ok(&["delete", "job", "many"])?;
    cluster.eventually("its pods go with it", || Ok(cluster.list("pods", "job-name=many")?.is_empty()))
}

#[test]
fn cron_jobs_follow_their_schedule() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let cron = |schedule: &str| {
        format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: tick}}\nspec:\n  schedule: '{schedule}'\n  successfulJobsHistoryLimit: 1\n  \
             jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: 'busybox:1.28', command: [echo, tick]}}]}}}}}}}}\n"
        )
    };
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], &cron("61 * * * *"));
    assert!(refused.code != 0 && refused.stderr.contains("spec.schedule"), "{refused:?}");
    cluster.apply(&cron("@every 1s"))?;
    cluster.eventually("a run succeeded", || {
        Ok(cluster.get("cronjob", "tick")?["status"]["lastSuccessfulTime"].is_string())
    })?;
    cluster.ok(&["patch", "cronjob", "tick", "--type=merge", "-p", "{\"spec\":{\"suspend\":true}}"])?;
    cluster.eventually("the history is kept short", || {
        let jobs = cluster.list("jobs", "")?;
        Ok(jobs.len() == 1 && ended(&jobs[0], "Complete").is_some())
    })?;
    // Started by hand, as kubectl create job --from does.
    let cron = cluster.get("cronjob", "tick")?;
    let mut manual = serde_json::json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "manual"}});
    manual["spec"] = cron["spec"]["jobTemplate"]["spec"].clone();
    cluster.apply(&manual.to_string())?;
    cluster.eventually("the manual run is complete", || Ok(ended(&cluster.get("job", "manual")?, "Complete").is_some()))
}

const DAEMON: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: 'busybox:1.28', command: [sleep, '3600']}
";

#[test]
fn daemons_run_on_every_node_and_roll() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(DAEMON)?;
    let status = |cluster: &Cluster| -> anyhow::Result<(Value, Value, Value)> {
        let set = cluster.get("daemonset", "agent")?;
        let s = |key: &str| set["status"][key].clone();
        Ok((s("desiredNumberScheduled"), s("numberAvailable"), s("updatedNumberScheduled")))
    };
    let all = |n: i64| (n.into(), n.into(), n.into());
    cluster.eventually("the first node has its daemon", || Ok(status(&cluster)? == all(1)))?;
    cluster.join()?;
    cluster.eventually("the new node gets one", || Ok(status(&cluster)? == all(2)))?;
    // A cordon keeps what is there.
    cluster.ok(&["cordon", "agent-2"])?;
    cluster.apply(&DAEMON.replace("'3600'", "'3601'"))?;
    cluster.eventually("both are of the new version", || {
        let pods = cluster.list("pods", "app=agent")?;
        let new = pods.iter().filter(|p| p["spec"]["containers"][0]["command"][1] == "3601").count();
        Ok(new == 2 && status(&cluster)? == all(2))
    })?;
    // A node that it doesn't tolerate loses its daemon.
    cluster.ok(&["taint", "node", "agent-2", "busy=yes:NoExecute"])?;
    cluster.eventually("the tainted node has none", || Ok(status(&cluster)?.0 == 1))?;
    cluster.ok(&["rollout", "history", "daemonset", "agent"])?;
    cluster.ok(&["rollout", "undo", "daemonset", "agent"])?;
    cluster.eventually("the old version is back", || {
        let pods = cluster.list("pods", "app=agent")?;
        Ok(pods.len() == 1 && pods[0]["spec"]["containers"][0]["command"][1] == "3600")
    })
}
