//! `auth reconcile`: roles have at least the permissions of a file, and bindings its subjects.

mod plan;

use std::sync::Arc;

use serde_json::{Value, json};

use self::plan::{Operation, Plan};
use super::common::{DryRun, told};
use super::{Command, run};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, switch};
use crate::select::{self, Target};

pub const RECONCILE: Command = Command {
    name: "reconcile",
    about: "Reconciles rules for RBAC role, role binding, cluster role, and cluster role binding objects",
    flags: &[&[
        f::FILENAME,
        f::KUSTOMIZE,
        f::RECURSIVE,
        f::DRY_RUN,
        f::OUTPUT,
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        switch("remove-extra-permissions", "Take away permissions of roles that the file doesn't have"),
        switch("remove-extra-subjects", "Take away subjects of bindings that the file doesn't have"),
    ]],
    run: run!(reconcile),
    ..Command::NONE
};

/// How often it is tried when others write, too.
const TRIES: usize = 3;

async fn reconcile(cx: Arc<Context>) -> Result<()> {
    if cx.args.many("filename").is_empty() && cx.args.text("kustomize").is_empty() {
        return fail("must specify one of -f and -k");
    }
    if !cx.args.words.is_empty() {
        return fail("no arguments are allowed");
    }
    if DryRun::of(&cx)? == DryRun::Server {
        return fail("--dry-run=server for command reconcile is not supported yet");
    }
    let selection = select::select(&cx, &[]).await?;
    for target in &selection.targets {
        if target.resource.group != "rbac.authorization.k8s.io" {
            continue;
        }
        if target.resource.version != "v1" {
            return fail(format!(
                "only rbac.authorization.k8s.io/v1 is supported: not *{}.{}",
                target.resource.version, target.resource.kind
            ));
        }
        one(&cx, target).await?;
    }
    Ok(())
}

async fn one(cx: &Context, target: &Target) -> Result<()> {
    let rules = ["roles", "clusterroles"].contains(&target.resource.plural.as_str());
    let remove = cx.args.is(if rules { "remove-extra-permissions" } else { "remove-extra-subjects" });
    let mut tried = 0;
    let (plan, object) = loop {
        tried += 1;
        let existing = match cx.get(&target.path()).await {
            Ok(found) => Some(found),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let plan = if rules {
            plan::role(existing.as_ref(), &target.object, remove)?
        } else {
            plan::binding(existing.as_ref(), &target.object, remove)
        };
        match perform(cx, target, &plan, existing.as_ref()).await {
            Ok(object) => break (plan, object),
            Err(error) if error.reason() == "Conflict" && tried < TRIES => {}
            Err(error) => return Err(error),
        }
    };
    told(cx, &object, "reconciled")?;
    tell(&plan, if rules { "rules" } else { "subjects" }, remove);
    Ok(())
}

async fn perform(cx: &Context, target: &Target, plan: &Plan, existing: Option<&Value>) -> Result<Value> {
    if plan.operation == Operation::Nothing || plan.protected || DryRun::of(cx)? != DryRun::No {
        return Ok(plan.object.clone());
    }
    let all = target.resource.path(&target.namespace, "");
    if plan.operation == Operation::Update {
        return cx.json(Call::new("PUT", &target.path()).body(&plan.object)).await;
    }
    if plan.operation == Operation::Recreate {
        let uid = existing.map_or(Value::Null, |e| e["metadata"]["uid"].clone());
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
        cx.send(Call::new("DELETE", &target.path()).body(&options)).await?;
    } else if !target.namespace.is_empty() {
        ensure_namespace(cx, &target.namespace).await?;
    }
    cx.json(Call::new("POST", &all).body(&plan.object)).await
}

/// Makes a namespace that isn't there.
async fn ensure_namespace(cx: &Context, name: &str) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    match cx.get(&format!("/api/v1/namespaces/{name}")).await {
        Err(error) if error.is_not_found() => {}
        // Whoever may not see namespaces may write to this one all the same.
        _ => return Ok(()),
    }
    match cx.send(Call::new("POST", "/api/v1/namespaces").body(&namespace)).await {
        Ok(_) => Ok(()),
        Err(error @ Error::Status(..)) if ["AlreadyExists", "Forbidden"].contains(&error.reason()) => Ok(()),
        Err(error) => Err(error),
    }
}

fn tell(plan: &Plan, what: &str, remove: bool) {
    let operation = match plan.operation {
        Operation::Nothing => return,
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Recreate => "recreate",
    };
    let caveat =
        if plan.protected { ", but object opted out (rbac.authorization.kubernetes.io/autoupdate: false)" } else { "" };
    eprintln!("\treconciliation required {operation}{caveat}");
    let several = |head: &str, all: &[Value]| {
        if !all.is_empty() {
            eprintln!("\t{head}:");
        }
        for one in all {
            eprintln!("\t\t{}", as_go(one, what));
        }
    };
    several(&format!("missing {what} added"), &plan.missing);
    if remove {
        several(&format!("extra {what} removed"), &plan.extra);
    }
}

/// A rule or subject as Go's `%+v` has it.
fn as_go(value: &Value, what: &str) -> String {
    let fields: &[(&str, &str)] = if what == "rules" {
        &[
            ("Verbs", "verbs"),
            ("APIGroups", "apiGroups"),
            ("Resources", "resources"),
            ("ResourceNames", "resourceNames"),
            ("NonResourceURLs", "nonResourceURLs"),
        ]
    } else {
        &[("Kind", "kind"), ("APIGroup", "apiGroup"), ("Name", "name"), ("Namespace", "namespace")]
    };
    let shown = fields.iter().map(|(go, field)| match &value[*field] {
        Value::String(text) => format!("{go}:{text}"),
        Value::Array(all) => {
            format!("{go}:[{}]", all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
        }
        _ if what == "rules" => format!("{go}:[]"),
        _ => format!("{go}:"),
    });
    format!("{{{}}}", shown.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_subjects_are_told_as_upstream_tells_them() {
        let rule = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!(
            as_go(&rule, "rules"),
            "{Verbs:[get list] APIGroups:[] Resources:[pods] ResourceNames:[] NonResourceURLs:[]}"
        );
        let subject = json!({"kind": "User", "name": "a", "apiGroup": "rbac.authorization.k8s.io"});
        assert_eq!(as_go(&subject, "subjects"), "{Kind:User APIGroup:rbac.authorization.k8s.io Name:a Namespace:}");
    }
}
