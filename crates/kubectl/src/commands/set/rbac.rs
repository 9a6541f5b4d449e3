//! `set subject`

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::common::{each, targets};
use super::super::{Command, run};
use super::{FLAGS, WITH_SELECTOR, changed};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::many;
use crate::select::Target;

pub const SUBJECT: Command = Command {
    name: "subject",
    about: "Update the user, group, or service account in a role binding or cluster role binding",
    flags: &[
        FLAGS,
        WITH_SELECTOR,
        &[many("user", "Users"), many("group", "Groups"), many("serviceaccount", "Service accounts: namespace:name")],
    ],
    run: run!(subject),
    ..Command::NONE
};

async fn subject(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let group = "rbac.authorization.k8s.io";
    let mut wanted = Vec::new();
    for (flag, kind) in [("user", "User"), ("group", "Group")] {
        wanted.extend(args.many(flag).iter().map(|name| json!({"kind": kind, "apiGroup": group, "name": name})));
    }
    for account in args.many("serviceaccount") {
        let Some((namespace, name)) = account.split_once(':').filter(|(a, b)| !a.is_empty() && !b.is_empty()) else {
            return fail("serviceaccount must be <namespace>:<name>");
        };
        wanted.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
    }
    if wanted.is_empty() {
        return fail("you must specify at least one value of user, group or serviceaccount");
    }
    let (found, errors) = targets(&cx, &args.words).await?;
    each(&found, errors, |target| one(&cx, target, &wanted)).await
}

async fn one(cx: &Context, target: &Target, wanted: &[Value]) -> Result<()> {
    if !["rolebindings", "clusterrolebindings"].contains(&target.resource.plural.as_str()) {
        return fail("setting subjects is only supported for RoleBinding/ClusterRoleBinding");
    }
    let mut after = target.object.clone();
    let mut subjects = after["subjects"].as_array().cloned().unwrap_or_default();
    subjects
        .extend(wanted.iter().filter(|w| !after["subjects"].as_array().is_some_and(|all| all.contains(w))).cloned());
    after["subjects"] = subjects.into();
    changed(cx, target, after, "subjects updated").await
}
