//! `create job`, `create cronjob`

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{Command, run};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{text, text_or};

pub const JOB: Command = Command {
    name: "job",
    about: "Create a job with the specified name",
    flags: &[
        FLAGS,
        &[text("image", "Image of the container"), text("from", "The cron job to create it from: cronjob/NAME")],
    ],
    run: run!(job),
    ..Command::NONE
};

pub const CRONJOB: Command = Command {
    name: "cronjob",
    aliases: &["cj"],
    about: "Create a cron job with the specified name",
    flags: &[
        FLAGS,
        &[
            text("image", "Image of the container"),
            text("schedule", "When it runs, in cron's form"),
            text_or("restart", "OnFailure", "Restart policy: OnFailure, Never"),
        ],
    ],
    run: run!(cronjob),
    ..Command::NONE
};

fn container(cx: &Context, name: &str) -> Value {
    let mut container = json!({"name": name, "image": cx.args.text("image"), "resources": {}});
    if let Some(command) = cx.args.after_dash.clone().filter(|c| !c.is_empty()) {
        container["command"] = json!(command);
    }
    container
}

async fn job(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let (image, from) = (cx.args.text("image"), cx.args.text("from"));
    if image.is_empty() == from.is_empty() {
        return fail("either --image or --from must be specified");
    }
    if !from.is_empty() && cx.args.after_dash.as_ref().is_some_and(|c| !c.is_empty()) {
        return fail("cannot specify --from and command");
    }
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "status": {}});
    if from.is_empty() {
        job["spec"] = json!({"template": {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [container(&cx, &name)]}}});
        return finish(&cx, "jobs", true, job).await;
    }
    let Some((kind, cron)) = from.split_once('/') else { return fail("from must be an existing cronjob") };
    let resource = cx.resources().await?.find(kind)?;
    if !resource.is("batch", "cronjobs") {
        return fail(format!("unknown object type *{}.{}", resource.version, resource.kind));
    }
    let cron = cx.get(&resource.path(&cx.namespace()?, cron)).await?;
    let template = &cron["spec"]["jobTemplate"];
    let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.insert("cronjob.kubernetes.io/instantiate".into(), "manual".into());
    job["metadata"]["annotations"] = annotations.into();
    if template["metadata"]["labels"].is_object() {
        job["metadata"]["labels"] = template["metadata"]["labels"].clone();
    }
    job["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"],
        "uid": cron["metadata"]["uid"], "controller": true}]);
    job["spec"] = template["spec"].clone();
    finish(&cx, "jobs", true, job).await
}

async fn cronjob(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let missing: Vec<&str> = ["image", "schedule"].into_iter().filter(|flag| !cx.args.given(flag)).collect();
    if !missing.is_empty() {
        let quoted: Vec<String> = missing.iter().map(|m| format!("{m:?}")).collect();
        return fail(format!("required flag(s) {} not set", quoted.join(", ")));
    }
    let template = json!({"metadata": {}, "spec": {"restartPolicy": cx.args.text("restart"), "containers": [container(&cx, &name)]}});
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
        "spec": {"schedule": cx.args.text("schedule"), "jobTemplate": {"metadata": {"name": name}, "spec": {"template": template}}},
        "status": {}});
    finish(&cx, "cronjobs", true, cron).await
}
