//! `set env`

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::common::{each, targets};
use super::super::{Command, run};
use super::{FLAGS, WITH_SELECTOR, changed, spec_path};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{list, many, switch, text, text_or};
use crate::print::line;
use crate::select::Target;

pub const COMMAND: Command = Command {
    name: "env",
    about: "Update environment variables on a pod template",
    flags: &[
        FLAGS,
        WITH_SELECTOR,
        &[
            text_or("containers", "*", "Of these containers").short('c'),
            many("env", "KEY=VALUE").short('e'),
            text("from", "A config map or secret whose keys become variables: configmap/NAME"),
            list("keys", "Of --from only these keys"),
            text("prefix", "In front of the keys of --from"),
            switch("list", "Show them"),
            switch("resolve", "Show what references lead to, where it is no secret"),
            super::f::OVERWRITE,
        ],
    ],
    run: run!(env),
    ..Command::NONE
};

/// What is set and what is removed.
struct Wanted {
    set: Vec<Value>,
    remove: Vec<String>,
}

async fn env(cx: Arc<Context>) -> Result<()> {
    let is_pair = |w: &&String| w.contains('=') || (w.ends_with('-') && !w.contains('/'));
    let pairs: Vec<String> = cx.args.words.iter().filter(is_pair).chain(cx.args.many("env")).cloned().collect();
    let words: Vec<String> = cx.args.words.iter().filter(|w| !is_pair(w)).cloned().collect();
    if words.is_empty() && cx.args.many("filename").is_empty() {
        return fail("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    let mut wanted = Wanted { set: Vec::new(), remove: Vec::new() };
    for pair in &pairs {
        match pair.split_once('=') {
            Some((key, value)) => wanted.set.push(json!({"name": key, "value": value})),
            None => wanted.remove.push(pair.trim_end_matches('-').into()),
        }
    }
    from(&cx, &mut wanted).await?;
    if !cx.args.is("list") && wanted.set.is_empty() && wanted.remove.is_empty() {
        return fail("at least one environment variable must be provided");
    }
    let (found, errors) = targets(&cx, &words).await?;
    each(&found, errors, |target| one(&cx, target, &wanted)).await
}

/// Variables of the keys of a config map or secret.
async fn from(cx: &Context, wanted: &mut Wanted) -> Result<()> {
    let from = cx.args.text("from");
    if from.is_empty() {
        return Ok(());
    }
    let selection = crate::select::select(cx, &[from.to_string()]).await?;
    let Some(source) = selection.targets.first() else { return fail("from must name a config map or secret") };
    let object = cx.get(&source.path()).await?;
    let reference = match source.resource.plural.as_str() {
        "configmaps" => "configMapKeyRef",
        "secrets" => "secretKeyRef",
        other => return fail(format!("unsupported resource specified in --from: {other}")),
    };
    let keys = cx.args.many("keys");
    for (key, _) in
        object["data"].as_object().into_iter().flatten().filter(|(k, _)| keys.is_empty() || keys.contains(k))
    {
        let upper: String =
            key.to_uppercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if upper != *key {
            eprintln!("Warning: key {key} transferred to {upper}");
        }
        let name = format!("{}{upper}", cx.args.text("prefix"));
        wanted.set.push(json!({"name": name, "valueFrom": {reference: {"name": source.name, "key": key}}}));
    }
    Ok(())
}

async fn one(cx: &Context, target: &Target, wanted: &Wanted) -> Result<()> {
    let mut after = target.object.clone();
    let Some(path) = spec_path(&after) else {
        return fail(format!("the object is not a pod or does not have a pod template: {}", target.shown()));
    };
    let name = cx.args.text("containers");
    let mut found = false;
    for field in ["initContainers", "containers"] {
        let containers = after.pointer_mut(&format!("{path}/{field}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|c| name == "*" || c["name"] == name) {
            found = true;
            if cx.args.is("list") {
                show(target, container)?;
            }
            change(container, wanted);
        }
    }
    if !found {
        return fail(format!(
            "{}/{} does not have any containers matching {name:?}",
            target.resource.plural, target.name
        ));
    }
    if cx.args.is("list") { Ok(()) } else { changed(cx, target, after, "env updated").await }
}

fn show(target: &Target, container: &Value) -> Result<()> {
    line(&format!(
        "# {} {}, container {}",
        target.resource.kind,
        target.name,
        container["name"].as_str().unwrap_or("")
    ))?;
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or("");
        let from = &variable["valueFrom"];
        if !from.is_object() {
            line(&format!("{name}={}", variable["value"].as_str().unwrap_or("")))?;
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or("").to_string();
        let what = if from["fieldRef"].is_object() {
            format!("field path {}", text(&from["fieldRef"]["fieldPath"]))
        } else if from["secretKeyRef"].is_object() {
            format!("secret {}, key {}", text(&from["secretKeyRef"]["name"]), text(&from["secretKeyRef"]["key"]))
        } else if from["configMapKeyRef"].is_object() {
            format!(
                "configmap {}, key {}",
                text(&from["configMapKeyRef"]["name"]),
                text(&from["configMapKeyRef"]["key"])
            )
        } else {
            format!("resource field {}", text(&from["resourceFieldRef"]["resource"]))
        };
        line(&format!("# {name} from {what}"))?;
    }
    Ok(())
}

fn change(container: &mut Value, wanted: &Wanted) {
    let mut all = container["env"].as_array().cloned().unwrap_or_default();
    all.retain(|v| !wanted.remove.iter().any(|name| v["name"] == name.as_str()));
    for variable in &wanted.set {
        match all.iter_mut().find(|v| v["name"] == variable["name"]) {
            Some(held) => *held = variable.clone(),
            None => all.push(variable.clone()),
        }
    }
    if all.is_empty() {
        if let Some(map) = container.as_object_mut() {
            map.remove("env");
        }
    } else {
        container["env"] = all.into();
    }
}
