//! `certificate approve|deny`

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::{each, targets};
use super::{Command, run, usage};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{Flag, common as f, switch};
use crate::print::line;
use crate::select::Target;

pub const COMMAND: Command = Command {
    name: "certificate",
    about: "Modify certificate resources",
    commands: &[&APPROVE, &DENY],
    ..Command::NONE
};

const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::FILENAME,
    f::KUSTOMIZE,
    f::RECURSIVE,
    switch("force", "Also what was decided before"),
];
const APPROVE: Command = Command {
    name: "approve",
    about: "Approve a certificate signing request",
    flags: &[FLAGS],
    run: run!(decide),
    ..Command::NONE
};
const DENY: Command = Command {
    name: "deny",
    about: "Deny a certificate signing request",
    flags: &[FLAGS],
    run: run!(decide),
    ..Command::NONE
};

async fn decide(cx: Arc<Context>) -> Result<()> {
    if cx.args.words.is_empty() && cx.args.many("filename").is_empty() {
        return usage(&cx, "one or more CSRs must be specified as <name> or -f <filename>");
    }
    let mut words = cx.args.words.clone();
    if !words.is_empty() {
        words.insert(0, "certificatesigningrequests".into());
    }
    let (found, errors) = targets(&cx, &words).await?;
    let approves = cx.args.command.ends_with("approve");
    each(&found, errors, |target| one(&cx, target, approves)).await
}

async fn one(cx: &Context, target: &Target, approves: bool) -> Result<()> {
    let (kind, other, reason, done) = if approves {
        ("Approved", "Denied", "KubectlApprove", "approved")
    } else {
        ("Denied", "Approved", "KubectlDeny", "denied")
    };
    let mut object = target.object.clone();
    let mut conditions: Vec<Value> = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if conditions.iter().any(|c| c["type"] == other) && !cx.args.is("force") {
        return fail(format!(
            "certificate signing request {:?} is already {}",
            target.name,
            if approves { "denied" } else { "approved" }
        ));
    }
    if !conditions.iter().any(|c| c["type"] == kind) || cx.args.is("force") {
        conditions.push(json!({"type": kind, "status": "True", "reason": reason,
            "message": format!("This CSR was {done} by kubectl certificate {}.", if approves { "approve" } else { "deny" }),
            "lastUpdateTime": apimachinery::clock::now_rfc3339()}));
        object["status"]["conditions"] = conditions.into();
        let path = format!("{}/approval", target.path());
        object = cx.json(Call::new("PUT", &path).body(&object)).await?;
    }
    line(&format!("{} {done}", crate::print::name_of(&object)))
}
