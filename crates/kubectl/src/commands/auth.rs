//! `auth can-i`, `auth whoami`; `auth reconcile` has a file of its own

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Command, run};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, switch, text};
use crate::print::{Printer, line, say, tabwriter};

pub const COMMAND: Command = Command {
    name: "auth",
    about: "Inspect authorization",
    commands: &[&CAN_I, &super::reconcile::RECONCILE, &WHOAMI],
    ..Command::NONE
};

const CAN_I: Command = Command {
    name: "can-i",
    about: "Check whether an action is allowed",
    flags: &[&[
        f::ALL_NAMESPACES,
        switch("quiet", "Only the exit code").short('q'),
        switch("list", "All that is allowed"),
        switch("no-headers", "Without the names of the columns"),
        text("subresource", "Of this subresource"),
    ]],
    run: run!(can_i),
    ..Command::NONE
};
const WHOAMI: Command = Command {
    name: "whoami",
    about: "Experimental: Check self subject attributes",
    flags: &[&[f::OUTPUT, f::TEMPLATE, f::ALLOW_MISSING, f::SHOW_MANAGED_FIELDS]],
    run: run!(whoami),
    ..Command::NONE
};

async fn can_i(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if args.is("list") {
        return list(&cx).await;
    }
    let (verb, what, name) = match &args.words[..] {
        [verb, what] => (verb, what, ""),
        [verb, what, name] => (verb, what, name.as_str()),
        _ => {
            return fail(
                "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples.",
            );
        }
    };
    let spec = attributes(&cx, verb, what, name).await?;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let answer =
        cx.json(Call::new("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").body(&review)).await?;
    let status = &answer["status"];
    let allowed = status["allowed"] == true;
    if !args.is("quiet") {
        let mut text = if allowed { "yes".to_string() } else { "no".into() };
        if !allowed {
            let reason = status["reason"].as_str().filter(|r| !r.is_empty());
            text += &reason.map_or(String::new(), |r| format!(" - {r}"));
            let problem = status["evaluationError"].as_str().filter(|r| !r.is_empty());
            text += &problem.map_or(String::new(), |r| format!(" - {r}"));
        }
        line(&text)?;
    }
    if allowed { Ok(()) } else { Err(Error::Exit(1)) }
}

/// What is asked of: a path, or a resource.
async fn attributes(cx: &Context, verb: &str, what: &str, name: &str) -> Result<Value> {
    let args = &cx.args;
    let mut spec = json!({});
    if what.starts_with('/') {
        spec["nonResourceAttributes"] = json!({"verb": verb, "path": what});
    } else {
        let (what, name) = what.split_once('/').unwrap_or((what, name));
        let namespace = if args.is("all-namespaces") { String::new() } else { cx.namespace()? };
        let mut attributes = json!({"verb": verb, "resource": what, "namespace": namespace});
        if what != "*" {
            match cx.resources().await?.find(what) {
                Ok(found) => {
                    attributes["resource"] = found.plural.clone().into();
                    attributes["group"] = found.group.clone().into();
                    if !found.namespaced && !args.is("all-namespaces") && !args.is("quiet") {
                        eprintln!(
                            "Warning: resource '{}' is not namespace scoped{}\n",
                            found.plural,
                            if found.group.is_empty() { String::new() } else { format!(" in group '{}'", found.group) }
                        );
                    }
                }
                Err(Error::NoResource(..)) => eprintln!("Warning: the server doesn't have a resource type '{what}'\n"),
                Err(error) => return Err(error),
            }
        } else {
            attributes["group"] = "*".into();
        }
        if !name.is_empty() {
            attributes["name"] = name.into();
        }
        if !args.text("subresource").is_empty() {
            attributes["subresource"] = args.text("subresource").into();
        }
        spec["resourceAttributes"] = attributes;
    }
    Ok(spec)
}

async fn list(cx: &Context) -> Result<()> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": cx.namespace()?}});
    let answer =
        cx.json(Call::new("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews").body(&review)).await?;
    let mut out = if cx.args.is("no-headers") {
        String::new()
    } else {
        "Resources\tNon-Resource URLs\tResource Names\tVerbs\n".to_string()
    };
    let texts = |value: &Value| {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    for rule in answer["status"]["resourceRules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let shown = if group.is_empty() { resource } else { format!("{resource}.{group}") };
                rows.push(format!(
                    "{shown}\t[]\t[{}]\t[{}]\n",
                    texts(&rule["resourceNames"]).join(" "),
                    texts(&rule["verbs"]).join(" ")
                ));
            }
        }
    }
    for rule in answer["status"]["nonResourceRules"].as_array().into_iter().flatten() {
        for url in texts(&rule["nonResourceURLs"]) {
            rows.push(format!("\t[{url}]\t[]\t[{}]\n", texts(&rule["verbs"]).join(" ")));
        }
    }
    rows.sort();
    out.extend(rows);
    say(&tabwriter::format(&out, tabwriter::TABLE, None))
}

async fn whoami(cx: Arc<Context>) -> Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = cx.json(Call::new("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").body(&review)).await?;
    if let Some(printer) = Printer::of(&cx.args, false)? {
        return say(&printer.text(&answer, true)?);
    }
    let user = &answer["status"]["userInfo"];
    let mut out = format!("ATTRIBUTE\tVALUE\nUsername\t{}\n", user["username"].as_str().unwrap_or(""));
    if let Some(uid) = user["uid"].as_str().filter(|u| !u.is_empty()) {
        out += &format!("UID\t{uid}\n");
    }
    let list = |value: &Value| {
        format!("[{}]", value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
    };
    if user["groups"].is_array() {
        out += &format!("Groups\t{}\n", list(&user["groups"]));
    }
    for (key, value) in user["extra"].as_object().into_iter().flatten() {
        out += &format!("Extra: {key}\t{}\n", list(value));
    }
    say(&tabwriter::format(&out, tabwriter::TABLE, None))
}
