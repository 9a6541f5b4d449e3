//! `create deployment`

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{Command, run};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{list, text, text_or};

pub const COMMAND: Command = Command {
    name: "deployment",
    aliases: &["deploy"],
    about: "Create a deployment with the specified name",
    flags: &[
        FLAGS,
        &[
            list("image", "Images of the containers"),
            text("port", "Port of the containers"),
            text_or("replicas", "1", "Number of pods").short('r'),
        ],
    ],
    run: run!(create),
    ..Command::NONE
};

async fn create(cx: Arc<Context>) -> Result<()> {
    let images = cx.args.many("image");
    if images.is_empty() {
        return fail("required flag(s) \"image\" not set");
    }
    let name = name(&cx)?;
    let command = cx.args.after_dash.clone().unwrap_or_default();
    if images.len() > 1 && !command.is_empty() {
        return fail("cannot specify multiple --image options and command");
    }
    let replicas = cx.args.number("replicas")?;
    if replicas < 0 {
        return fail(format!("invalid replicas: {replicas}, must be >= 0"));
    }
    let mut containers: Vec<Value> =
        images.iter().map(|image| json!({"name": container_name(image), "image": image, "resources": {}})).collect();
    if !command.is_empty() {
        containers[0]["command"] = json!(command);
    }
    if !cx.args.text("port").is_empty() {
        containers[0]["ports"] = json!([{"containerPort": cx.args.number("port")?}]);
    }
    let labels = json!({"app": name});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "strategy": {},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}},
        "status": {}});
    finish(&cx, "deployments", true, deployment).await
}

/// A container's name of its image: the last part, without tag and digest, of the letters that names have.
pub fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let last = last.split('@').next().unwrap_or(last).split(':').next().unwrap_or(last);
    let name: String = last
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' { c } else { '-' })
        .collect();
    name.trim_matches('-').into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn containers_are_named_after_their_images() {
        for (image, want) in
            [("registry:5000/a/nginx:1", "nginx"), ("busybox@sha256:ab", "busybox"), ("My_App", "my-app")]
        {
            assert_eq!(super::container_name(image), want);
        }
    }
}
