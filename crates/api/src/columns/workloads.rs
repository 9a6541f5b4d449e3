//! Deployments, StatefulSets, Jobs and their kin.

use apimachinery::{ObjectExt as _, clock};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE, Column, NAME, Printer, Shape, age, containers, int, name, number, or_none, pairs, selector, text, wide,
};

pub fn printer(plural: &str) -> Option<Printer> {
    let (columns, row): Shape = match plural {
        "deployments" => (DEPLOYMENT, deployment),
        "replicasets" => (REPLICA_SET, replica_set),
        "statefulsets" => (STATEFUL_SET, stateful_set),
        "daemonsets" => (DAEMON_SET, daemon_set),
        "jobs" => (JOB, job),
        "cronjobs" => (CRON_JOB, cron_job),
        "controllerrevisions" => (const { &[NAME, text("Controller"), number("Revision"), AGE] }, |o, now| {
            let owner = o.array_at(&["metadata", "ownerReferences"]).iter().find(|r| r["controller"] == true);
            let owner = owner.map(|r| {
                let group = r.str_at(&["apiVersion"]).split('/').next().unwrap_or("").to_string();
                format!("{}.{group}/{}", r.str_at(&["kind"]).to_ascii_lowercase(), r.str_at(&["name"]))
            });
            vec![name(o), or_none(&owner.unwrap_or_default()), json!(int(o, &["revision"])), age(o, now)]
        }),
        "horizontalpodautoscalers" => (AUTOSCALER, |o, now| {
            let target = &o["spec"]["scaleTargetRef"];
            let min = o.i64_at(&["spec", "minReplicas"]).map_or("<unset>".into(), |n| n.to_string());
            vec![
                name(o),
                format!("{}/{}", target.str_at(&["kind"]), target.str_at(&["name"])).into(),
                targets(o).into(),
                min.into(),
                json!(int(o, &["spec", "maxReplicas"])),
                json!(int(o, &["status", "currentReplicas"])),
                age(o, now),
            ]
        }),
        _ => return None,
    };
    Some(Printer { columns, row })
}

/// What an autoscaler aims at and where it is: `cpu: 35%/20%`, for its first two metrics.
fn targets(autoscaler: &Value) -> String {
    const SHOWN: usize = 2;
    let metrics = autoscaler.array_at(&["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".into();
    }
    let reached = autoscaler.array_at(&["status", "currentMetrics"]);
    let shown = metrics.iter().take(SHOWN).enumerate();
    let list: Vec<String> = shown.map(|(i, metric)| target(metric, reached.get(i).unwrap_or(&Value::Null))).collect();
    let more = match metrics.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!(" + {more} more..."),
        _ => String::new(),
    };
    format!("{}{more}", list.join(", "))
}

fn target(metric: &Value, reached: &Value) -> String {
    let of = match metric.str_at(&["type"]) {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let (wanted, current) = (&metric[of]["target"], &reached[of]["current"]);
    let amount = |of: &Value, key: &str| of[key].as_str().map(String::from);
    let known = |amount: Option<String>| amount.unwrap_or_else(|| "<unknown>".into());
    match of {
        "resource" | "containerResource" => {
            let name = metric[of].str_at(&["name"]);
            if let Some(average) = amount(wanted, "averageValue") {
                return format!("{name}: {}/{average}", known(amount(current, "averageValue")));
            }
            let percent = |of: &Value| of.i64_at(&["averageUtilization"]).map(|n| format!("{n}%"));
            format!("{name}: {}/{}", known(percent(current)), percent(wanted).unwrap_or_else(|| "<auto>".into()))
        }
        _ => {
            let Some(average) = amount(wanted, "averageValue") else {
                return format!(
                    "{}/{}",
                    known(amount(current, "value")),
                    amount(wanted, "value").unwrap_or_else(|| "0".into())
                );
            };
            let unit = if of == "pods" { "" } else { " (avg)" };
            format!("{}/{average}{unit}", known(amount(current, "averageValue")))
        }
    }
}

const AUTOSCALER: &[Column] =
    &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), number("Replicas"), AGE];

const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready"),
    number("Up-to-date"),
    number("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn deployment(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    vec![
        name(o),
        format!("{}/{}", int(o, &["status", "readyReplicas"]), int(o, &["spec", "replicas"])).into(),
        json!(int(o, &["status", "updatedReplicas"])),
        json!(int(o, &["status", "availableReplicas"])),
        age(o, now),
        names,
        images,
        selector(&o["spec"]["selector"]),
    ]
}

const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn replica_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    vec![
        name(o),
        json!(int(o, &["spec", "replicas"])),
        json!(int(o, &["status", "replicas"])),
        json!(int(o, &["status", "readyReplicas"])),
        age(o, now),
        names,
        images,
        selector(&o["spec"]["selector"]),
    ]
}

const STATEFUL_SET: &[Column] = &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")];

fn stateful_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    let ready = format!("{}/{}", int(o, &["status", "readyReplicas"]), int(o, &["spec", "replicas"]));
    vec![name(o), ready.into(), age(o, now), names, images]
}

const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn daemon_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    let status = |field: &str| json!(int(o, &["status", field]));
    vec![
        name(o),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        pairs(&o["spec"]["template"]["spec"]["nodeSelector"]),
        age(o, now),
        names,
        images,
        selector(&o["spec"]["selector"]),
    ]
}

const JOB: &[Column] = &[
    NAME,
    text("Status"),
    text("Completions"),
    text("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let done = int(o, &["status", "succeeded"]);
    let completions = match o.i64_at(&["spec", "completions"]) {
        Some(wanted) => format!("{done}/{wanted}"),
        None => match int(o, &["spec", "parallelism"]) {
            n if n > 1 => format!("{done}/1 of {n}"),
            _ => format!("{done}/1"),
        },
    };
    let start = o.str_at(&["status", "startTime"]);
    let end = o.str_at(&["status", "completionTime"]).parse().unwrap_or(now);
    let duration = if start.is_empty() { String::new() } else { clock::age(start, end) };
    let is =
        |kind: &str| o.array_at(&["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if o.is_deleting() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let (names, images) = containers(&o["spec"]["template"]);
    let chosen = selector(&o["spec"]["selector"]);
    vec![name(o), status.into(), completions.into(), duration.into(), age(o, now), names, images, chosen]
}

const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule"),
    text("Timezone"),
    text("Suspend"),
    number("Active"),
    text("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn cron_job(o: &Value, now: Timestamp) -> Vec<Value> {
    let job = &o["spec"]["jobTemplate"]["spec"];
    let (names, images) = containers(&job["template"]);
    let last = o.str_at(&["status", "lastScheduleTime"]);
    let suspended = if o["spec"]["suspend"] == true { "True" } else { "False" };
    vec![
        name(o),
        o.str_at(&["spec", "schedule"]).into(),
        or_none(o.str_at(&["spec", "timeZone"])),
        suspended.into(),
        json!(o.array_at(&["status", "active"]).len()),
        if last.is_empty() { or_none("") } else { clock::age(last, now).into() },
        age(o, now),
        names,
        images,
        selector(&job["selector"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_autoscalers_are_told_as_kubectl_tells_them() {
        let resource = |wanted: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": wanted}});
        let percent = resource(json!({"type": "Utilization", "averageUtilization": 20}));
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "5"}}});
        let external = json!({"type": "External", "external": {"target": {"value": "9"}}});
        let reached = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 35, "averageValue": "7m"}}}]);
        for (metrics, reached, want) in [
            (json!([percent]), json!([]), "cpu: <unknown>/20%"),
            (json!([percent]), reached.clone(), "cpu: 35%/20%"),
            (json!([resource(json!({"averageValue": "1"}))]), reached, "cpu: 7m/1"),
            (json!([percent, pods, external]), json!([]), "cpu: <unknown>/20%, <unknown>/5 + 1 more..."),
            (json!([external]), json!([{"external": {"current": {"value": "3"}}}]), "3/9"),
            (json!([]), json!([]), "<none>"),
        ] {
            let object = json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": reached}});
            assert_eq!(targets(&object), want);
        }
    }
}
