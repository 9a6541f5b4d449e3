//! Deployments, replica sets, stateful sets, daemon sets, jobs and cron jobs.

use serde_json::Value;

use super::{Text, items, number, plain, pod, selector, text, time, title};
use crate::client::Call;
use crate::context::Context;
use crate::error::Result;
use crate::print::table::label_text;

/// How many pods of a controller are in which phase.
async fn phases(cx: &Context, object: &Value) -> Result<String> {
    let namespace = text(&object["metadata"]["namespace"]);
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let found = cx.json(Call::new("GET", &path).query("labelSelector", selector(&object["spec"]["selector"]))).await?;
    let uid = &object["metadata"]["uid"];
    let own = |p: &&Value| {
        items(&p["metadata"]["ownerReferences"]).iter().any(|o| o["controller"] == true && o["uid"] == *uid)
    };
    let count =
        |phase: &str| items(&found["items"]).iter().filter(own).filter(|p| p["status"]["phase"] == phase).count();
    Ok(format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    ))
}

fn names(out: &mut Text, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.field(0, "Namespace", text(&object["metadata"]["namespace"]));
}

fn marks(out: &mut Text, object: &Value) {
    out.labels("Labels", &object["metadata"]["labels"]);
    out.annotations("Annotations", &object["metadata"]["annotations"]);
}

pub async fn deployment(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    let (spec, status) = (&object["spec"], &object["status"]);
    names(out, object);
    out.field(0, "CreationTimestamp", &time(&object["metadata"]["creationTimestamp"]));
    marks(out, object);
    out.field(0, "Selector", &selector(&spec["selector"]));
    let n = |field: &str| number(&status[field]);
    out.field(
        0,
        "Replicas",
        &format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            number(&spec["replicas"]),
            n("updatedReplicas"),
            n("replicas"),
            n("availableReplicas"),
            n("unavailableReplicas")
        ),
    );
    out.field(0, "StrategyType", text(&spec["strategy"]["type"]));
    out.field(0, "MinReadySeconds", &number(&spec["minReadySeconds"]).to_string());
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        out.field(
            0,
            "RollingUpdateStrategy",
            &format!(
                "{} max unavailable, {} max surge",
                plain(&rolling["maxUnavailable"]),
                plain(&rolling["maxSurge"])
            ),
        );
    }
    pod::template(out, &spec["template"]);
    out.conditions(object);
    replica_sets(cx, out, object).await
}

async fn replica_sets(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    let path = format!("/apis/apps/v1/namespaces/{}/replicasets", text(&object["metadata"]["namespace"]));
    let found = cx.json(Call::new("GET", &path).query("labelSelector", selector(&object["spec"]["selector"]))).await?;
    let uid = &object["metadata"]["uid"];
    let template = |t: &Value| {
        let mut template = t.clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        template
    };
    let wanted = template(&object["spec"]["template"]);
    let (mut new, mut old) = (Vec::new(), Vec::new());
    let mut all: Vec<&Value> = items(&found["items"])
        .iter()
        .filter(|r| items(&r["metadata"]["ownerReferences"]).iter().any(|o| o["uid"] == *uid))
        .collect();
    all.sort_by(|a, b| text(&a["metadata"]["creationTimestamp"]).cmp(text(&b["metadata"]["creationTimestamp"])));
    for set in all {
        let shown = format!(
            "{} ({}/{} replicas created)",
            text(&set["metadata"]["name"]),
            number(&set["status"]["replicas"]),
            number(&set["spec"]["replicas"])
        );
        if new.is_empty() && template(&set["spec"]["template"]) == wanted { new.push(shown) } else { old.push(shown) }
    }
    if !new.is_empty() || !old.is_empty() {
        let join = |list: Vec<String>| if list.is_empty() { "<none>".into() } else { list.join(", ") };
        out.field(0, "OldReplicaSets", &join(old));
        out.field(0, "NewReplicaSet", &join(new));
    }
    Ok(())
}

pub async fn replica_set(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    names(out, object);
    out.field(0, "Selector", &selector(&object["spec"]["selector"]));
    marks(out, object);
    out.controlled_by(object);
    out.field(
        0,
        "Replicas",
        &format!("{} current / {} desired", number(&object["status"]["replicas"]), number(&object["spec"]["replicas"])),
    );
    out.field(0, "Pods Status", &phases(cx, object).await?);
    pod::template(out, &object["spec"]["template"]);
    out.conditions(object);
    Ok(())
}

pub async fn stateful_set(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    let spec = &object["spec"];
    names(out, object);
    out.field(0, "CreationTimestamp", &time(&object["metadata"]["creationTimestamp"]));
    out.field(0, "Selector", &selector(&spec["selector"]));
    marks(out, object);
    out.maybe(0, "Service Name", &spec["serviceName"]);
    out.maybe(0, "Pod Management Policy", &spec["podManagementPolicy"]);
    out.field(
        0,
        "Replicas",
        &format!("{} desired | {} total", number(&spec["replicas"]), number(&object["status"]["replicas"])),
    );
    out.field(0, "Update Strategy", text(&spec["updateStrategy"]["type"]));
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if rolling["partition"].is_number() {
        out.field(1, "Partition", &plain(&rolling["partition"]));
        out.maybe(1, "MaxUnavailable", &rolling["maxUnavailable"]);
    }
    let keep = &spec["persistentVolumeClaimRetentionPolicy"];
    if keep.is_object() {
        out.line(0, "Persistent Volume Claim Retention Policy:");
        out.field(1, "WhenDeleted", text(&keep["whenDeleted"]));
        out.field(1, "WhenScaled", text(&keep["whenScaled"]));
    }
    out.field(0, "Pods Status", &phases(cx, object).await?);
    pod::template(out, &spec["template"]);
    super::volumes::claim_templates(out, &spec["volumeClaimTemplates"]);
    Ok(())
}

pub async fn daemon_set(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    let (spec, status) = (&object["spec"], &object["status"]);
    names(out, object);
    out.field(0, "Selector", &selector(&spec["selector"]));
    out.field(0, "Node-Selector", &label_text(&spec["template"]["spec"]["nodeSelector"], ","));
    marks(out, object);
    for (name, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        out.line(0, &format!("{name}: {}", number(&status[field])));
    }
    out.field(0, "Pods Status", &phases(cx, object).await?);
    pod::template(out, &spec["template"]);
    Ok(())
}

pub fn job(out: &mut Text, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    names(out, object);
    out.field(0, "Selector", &selector(&spec["selector"]));
    marks(out, object);
    out.controlled_by(object);
    out.maybe(0, "Parallelism", &spec["parallelism"]);
    out.field(0, "Completions", &spec["completions"].as_i64().map_or("<unset>".into(), |c| c.to_string()));
    out.maybe(0, "Completion Mode", &spec["completionMode"]);
    out.maybe(0, "Suspend", &spec["suspend"]);
    out.maybe(0, "Backoff Limit", &spec["backoffLimit"]);
    out.maybe(0, "TTL Seconds After Finished", &spec["ttlSecondsAfterFinished"]);
    if status["startTime"].is_string() {
        out.field(0, "Start Time", &time(&status["startTime"]));
    }
    if status["completionTime"].is_string() {
        out.field(0, "Completed At", &time(&status["completionTime"]));
        if let (Ok(begin), Ok(end)) = (
            text(&status["startTime"]).parse::<jiff::Timestamp>(),
            text(&status["completionTime"]).parse::<jiff::Timestamp>(),
        ) {
            out.field(0, "Duration", &apimachinery::clock::human_duration(end.duration_since(begin)));
        }
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64() {
        out.field(0, "Active Deadline Seconds", &format!("{seconds}s"));
    }
    let ready = status["ready"].as_i64().map_or(String::new(), |r| format!(" ({r} Ready)"));
    out.field(
        0,
        "Pods Statuses",
        &format!(
            "{} Active{ready} / {} Succeeded / {} Failed",
            number(&status["active"]),
            number(&status["succeeded"]),
            number(&status["failed"])
        ),
    );
    if spec["completionMode"] == "Indexed" {
        let done = text(&status["completedIndexes"]);
        out.field(0, "Completed Indexes", if done.is_empty() { "<none>" } else { done });
    }
    pod::template(out, &spec["template"]);
}

pub fn cron_job(out: &mut Text, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    names(out, object);
    marks(out, object);
    let or_unset = |value: &Value, unit: &str| {
        if value.is_null() { "<unset>".to_string() } else { format!("{}{unit}", plain(value)) }
    };
    out.field(0, "Schedule", text(&spec["schedule"]));
    out.field(0, "Concurrency Policy", text(&spec["concurrencyPolicy"]));
    out.field(0, "Suspend", spec["suspend"].as_bool().map_or("<unset>", title));
    out.field(0, "Time Zone", &or_unset(&spec["timeZone"], ""));
    out.field(0, "Successful Job History Limit", &or_unset(&spec["successfulJobsHistoryLimit"], ""));
    out.field(0, "Failed Job History Limit", &or_unset(&spec["failedJobsHistoryLimit"], ""));
    out.field(0, "Starting Deadline Seconds", &or_unset(&spec["startingDeadlineSeconds"], "s"));
    let template = &spec["jobTemplate"]["spec"];
    out.field(
        0,
        "Selector",
        &if template["selector"].is_null() { "<unset>".into() } else { selector(&template["selector"]) },
    );
    out.field(0, "Parallelism", &or_unset(&template["parallelism"], ""));
    out.field(0, "Completions", &or_unset(&template["completions"], ""));
    if let Some(seconds) = template["activeDeadlineSeconds"].as_i64() {
        out.field(0, "Active Deadline Seconds", &format!("{seconds}s"));
    }
    pod::template(out, &template["template"]);
    let last = &status["lastScheduleTime"];
    out.field(0, "Last Schedule Time", &if last.is_null() { "<unset>".into() } else { time(last) });
    let active: Vec<&str> = items(&status["active"]).iter().map(|j| text(&j["name"])).collect();
    out.field(0, "Active Jobs", &if active.is_empty() { "<none>".into() } else { active.join(", ") });
}
