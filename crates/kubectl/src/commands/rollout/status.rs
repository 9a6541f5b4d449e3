//! `rollout status`

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::common::targets;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::print::line;
use crate::select::Target;

pub async fn status(cx: Arc<Context>) -> Result<()> {
    super::require(&cx)?;
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    crate::error::all(errors)?;
    let limit = cx.args.duration("timeout")?;
    let deadline =
        (limit > 0).then(|| Instant::now().checked_add(Duration::from_nanos(limit.unsigned_abs()))).flatten();
    for target in &found {
        one(&cx, target, deadline).await?;
    }
    Ok(())
}

async fn one(cx: &Context, target: &Target, deadline: Option<Instant>) -> Result<()> {
    let mut last = String::new();
    loop {
        let object = match cx.get(&target.path()).await {
            Err(error) if error.is_not_found() && !last.is_empty() => return fail("object has been deleted"),
            other => other?,
        };
        let (text, done) = if target.resource.is("apps", "deployments") {
            deployment(&object, cx.args.number("revision")?)?
        } else if target.resource.is("apps", "daemonsets") {
            daemon_set(&object)?
        } else if target.resource.is("apps", "statefulsets") {
            stateful_set(&object)?
        } else {
            return fail(format!("no status viewer has been implemented for {}", target.resource.kind));
        };
        if text != last {
            line(&text)?;
            last = text;
        }
        if done || !cx.args.is("watch") {
            return Ok(());
        }
        if deadline.is_some_and(|at| Instant::now() >= at) {
            return fail("timed out waiting for the condition");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn number(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

fn is_seen(object: &Value) -> bool {
    number(object, "/metadata/generation") <= number(object, "/status/observedGeneration")
}

fn deployment(object: &Value, revision: i64) -> Result<(String, bool)> {
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    if revision > 0 {
        let own = object["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or("0");
        if own != revision.to_string() {
            return fail(format!("desired revision ({revision}) is different from the running revision ({own})"));
        }
    }
    if !is_seen(object) {
        return Ok(("Waiting for deployment spec update to be observed...".into(), false));
    }
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    if conditions.into_iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded") {
        return Err(Error::Message(format!("deployment {name:?} exceeded its progress deadline")));
    }
    let (wanted, updated) =
        (object["spec"]["replicas"].as_i64().unwrap_or(1), number(object, "/status/updatedReplicas"));
    let (all, available) = (number(object, "/status/replicas"), number(object, "/status/availableReplicas"));
    let waits = |what: String| Ok((format!("Waiting for deployment {name:?} rollout to finish: {what}..."), false));
    if updated < wanted {
        return waits(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if all > updated {
        return waits(format!("{} old replicas are pending termination", all.saturating_sub(updated)));
    }
    if available < updated {
        return waits(format!("{available} of {updated} updated replicas are available"));
    }
    Ok((format!("deployment {name:?} successfully rolled out"), true))
}

fn daemon_set(object: &Value) -> Result<(String, bool)> {
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    if object["spec"]["updateStrategy"]["type"] != "RollingUpdate" {
        return fail("rollout status is only available for RollingUpdate strategy type");
    }
    if !is_seen(object) {
        return Ok(("Waiting for daemon set spec update to be observed...".into(), false));
    }
    let (updated, wanted) =
        (number(object, "/status/updatedNumberScheduled"), number(object, "/status/desiredNumberScheduled"));
    let available = number(object, "/status/numberAvailable");
    if updated < wanted {
        return Ok((
            format!(
                "Waiting for daemon set {name:?} rollout to finish: {updated} out of {wanted} new pods have been updated..."
            ),
            false,
        ));
    }
    if available < wanted {
        return Ok((
            format!(
                "Waiting for daemon set {name:?} rollout to finish: {available} of {wanted} updated pods are available..."
            ),
            false,
        ));
    }
    Ok((format!("daemon set {name:?} successfully rolled out"), true))
}

fn stateful_set(object: &Value) -> Result<(String, bool)> {
    if object["spec"]["updateStrategy"]["type"] != "RollingUpdate" {
        return fail("rollout status is only available for RollingUpdate strategy type");
    }
    if number(object, "/status/observedGeneration") == 0 || !is_seen(object) {
        return Ok(("Waiting for statefulset spec update to be observed...".into(), false));
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let (ready, updated) = (number(object, "/status/readyReplicas"), number(object, "/status/updatedReplicas"));
    if ready < wanted {
        return Ok((format!("Waiting for {} pods to be ready...", wanted.saturating_sub(ready)), false));
    }
    let partition = object.pointer("/spec/updateStrategy/rollingUpdate/partition").and_then(Value::as_i64).unwrap_or(0);
    if partition > 0 {
        if updated < wanted.saturating_sub(partition) {
            return Ok((
                format!(
                    "Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...",
                    wanted.saturating_sub(partition)
                ),
                false,
            ));
        }
        return Ok((format!("partitioned roll out complete: {updated} new pods have been updated..."), true));
    }
    let (update, current) = (&object["status"]["updateRevision"], &object["status"]["currentRevision"]);
    if update != current {
        return Ok((
            format!(
                "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
                update.as_str().unwrap_or("")
            ),
            false,
        ));
    }
    let pods = number(object, "/status/currentReplicas");
    Ok((
        format!("statefulset rolling update complete {pods} pods at revision {}...", current.as_str().unwrap_or("")),
        true,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rollouts_are_told_in_upstreams_words() {
        let of = |status: Value| {
            deployment(
                &json!({"metadata": {"name": "w", "generation": 1}, "spec": {"replicas": 2}, "status": status}),
                0,
            )
            .unwrap()
        };
        let seen = |mut status: Value| {
            status["observedGeneration"] = 1.into();
            of(status)
        };
        assert_eq!(of(json!({})).0, "Waiting for deployment spec update to be observed...");
        assert_eq!(
            seen(json!({"updatedReplicas": 1})).0,
            "Waiting for deployment \"w\" rollout to finish: 1 out of 2 new replicas have been updated..."
        );
        assert_eq!(
            seen(json!({"updatedReplicas": 2, "replicas": 3})).0,
            "Waiting for deployment \"w\" rollout to finish: 1 old replicas are pending termination..."
        );
        let done = seen(json!({"updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}));
        assert_eq!(done, ("deployment \"w\" successfully rolled out".to_string(), true));
    }
}
