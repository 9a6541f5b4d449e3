//! `wait`: until a condition, a field, a creation or a deletion.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::jsonpath::Path;
use serde_json::Value;

use super::{Command, run};
use crate::context::Context;
use crate::error::{Error, Result, all, fail};
use crate::flags::{common as f, many, text_or};
use crate::print::{columns, go_text, line};
use crate::select::{self, Selection, Target};

pub const COMMAND: Command = Command {
    name: "wait",
    about: "Wait for a specific condition on one or many resources",
    flags: &[&[
        f::FILENAME,
        f::RECURSIVE,
        f::SELECTOR,
        f::FIELD_SELECTOR,
        f::ALL,
        f::ALL_NAMESPACES,
        f::LOCAL,
        f::OUTPUT,
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        many("for", "create, delete, condition=NAME[=VALUE], jsonpath='{PATH}'[=VALUE]"),
        text_or("timeout", "30s", "How long to wait; 0 looks once, negative is a week"),
    ]],
    run: run!(wait),
    ..Command::NONE
};

enum For {
    Create,
    Delete,
    Condition(String, String),
    Field(Path, Option<String>),
}

fn goal(text: &str) -> Result<For> {
    let lower = text.to_lowercase();
    if lower == "delete" {
        return Ok(For::Delete);
    }
    if lower == "create" {
        return Ok(For::Create);
    }
    if let Some(rest) = text.strip_prefix("condition=") {
        let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
        return Ok(For::Condition(name.into(), value.into()));
    }
    if let Some(rest) = text.strip_prefix("jsonpath=") {
        let end = rest.rfind('}').map_or(rest.len(), |at| at.saturating_add(1));
        let (path, value) = rest.split_at(end);
        let value = match value.strip_prefix('=') {
            Some("") => return fail("jsonpath wait has to have a value after equal sign"),
            Some(value) => Some(value.trim_matches(['"', '\'']).to_string()),
            None if value.is_empty() => None,
            None => {
                return fail(
                    "jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3 or --for=jsonpath='{.status.readyReplicas}'",
                );
            }
        };
        return Ok(For::Field(columns::relaxed(path.trim_matches(['"', '\'']))?, value));
    }
    fail(format!("unrecognized condition: {text:?}"))
}

async fn wait(cx: Arc<Context>) -> Result<()> {
    let goals = cx.args.many("for").iter().map(|g| goal(g)).collect::<Result<Vec<_>>>()?;
    if goals.is_empty() {
        return fail("unrecognized condition: []");
    }
    let limit = cx.args.duration("timeout")?;
    let limit = if limit < 0 { Duration::from_secs(7 * 86_400) } else { Duration::from_nanos(limit.unsigned_abs()) };
    let deadline = Instant::now().checked_add(limit).unwrap_or_else(Instant::now);
    let selection = select::select(&cx, &cx.args.words).await?;
    let every = cx.args.is("all") || !selection.selector.is_empty() || !selection.field_selector.is_empty();
    if !selection.lists.is_empty() && !every {
        return fail("resource(s) were provided, but no name was specified");
    }
    if goals.iter().any(|g| matches!(g, For::Create)) {
        created(&cx, &selection, deadline).await?;
    }
    let deletes = goals.iter().any(|g| matches!(g, For::Delete));
    let targets =
        if selection.lists.is_empty() { selection.targets.clone() } else { select::load(&cx, &selection).await.0 };
    if targets.is_empty() && !deletes {
        return fail("no matching resources found");
    }
    let mut errors = Vec::new();
    for target in &targets {
        for goal in &goals {
            if let Err(error) = one(&cx, target, goal, deadline).await {
                errors.push(error);
            }
        }
    }
    all(errors)
}

async fn created(cx: &Context, selection: &Selection, deadline: Instant) -> Result<()> {
    loop {
        let (found, errors) = select::load(cx, selection).await;
        if let Some(error) = errors.into_iter().find(|e| !e.is_not_found()) {
            return Err(error);
        }
        if found.len() >= selection.targets.len().max(1) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let name = selection.targets.first().map_or(String::new(), |t| format!("{}/{}", t.resource.plural, t.name));
            return fail(format!("timed out waiting for the condition on {name}"));
        }
        pause(deadline).await;
    }
}

/// Looks again soon: a watch would be one connection for each object.
async fn pause(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    tokio::time::sleep(left.min(Duration::from_millis(200))).await;
}

async fn one(cx: &Context, target: &Target, goal: &For, deadline: Instant) -> Result<()> {
    let shown = format!("{}/{}", target.resource.plural, target.name);
    let mut uid = target.object["metadata"]["uid"].clone();
    let mut seen = !uid.is_null();
    loop {
        let object = match cx.get(&target.path()).await {
            Ok(object) => Some(object),
            Err(error) if error.is_not_found() => match goal {
                For::Delete => None,
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let is_met = match (goal, &object) {
            (For::Create, _) | (For::Delete, None) => true,
            (For::Delete, Some(object)) => {
                if uid.is_null() {
                    uid = object["metadata"]["uid"].clone();
                }
                uid != object["metadata"]["uid"]
            }
            (For::Condition(name, value), Some(object)) => holds(object, name, value),
            (For::Field(path, value), Some(object)) => field(object, path, value.as_deref())?,
            (_, None) => false,
        };
        // What isn't there from the beginning is gone without a word.
        if is_met && object.is_none() && !seen {
            return Ok(());
        }
        if is_met {
            return line(&format!("{} condition met", target.shown()));
        }
        if Instant::now() >= deadline {
            let problem = if cx.args.duration("timeout")? == 0 {
                "condition not met for"
            } else {
                "timed out waiting for the condition on"
            };
            return fail(format!("{problem} {shown}"));
        }
        seen = true;
        pause(deadline).await;
    }
}

fn holds(object: &Value, name: &str, value: &str) -> bool {
    let wanted = |c: &&Value| c["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(name));
    let Some(condition) = object["status"]["conditions"].as_array().into_iter().flatten().find(wanted) else {
        return false;
    };
    let seen = condition["observedGeneration"].as_i64().or_else(|| object["status"]["observedGeneration"].as_i64());
    let stale = seen.zip(object["metadata"]["generation"].as_i64()).is_some_and(|(seen, is)| seen < is);
    !stale && condition["status"].as_str().is_some_and(|s| s.eq_ignore_ascii_case(value))
}

fn field(object: &Value, path: &Path, value: Option<&str>) -> Result<bool> {
    let found = path.find(object, true).map_err(Error::Message)?;
    match (found.as_slice(), value) {
        ([], _) => Ok(false),
        ([one], Some(wanted)) => match one {
            Value::Object(_) | Value::Array(_) => {
                fail("jsonpath leads to a nested object or list which is not supported")
            }
            one => Ok(go_text(one) == wanted),
        },
        ([_], None) => Ok(true),
        (_, None) => Ok(true),
        (_, Some(_)) => fail("given jsonpath expression matches more than one value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn goals_are_read() {
        assert!(matches!(goal("condition=Ready").unwrap(), For::Condition(n, v) if n == "Ready" && v == "true"));
        assert!(matches!(goal("jsonpath={.a}=3").unwrap(), For::Field(_, Some(v)) if v == "3"));
        assert!(matches!(goal("jsonpath={.a}").unwrap(), For::Field(_, None)));
        assert!(goal("x").is_err() && goal("jsonpath={.a}=").is_err());
        let object = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(!holds(&object, "ready", "true"), "what was seen of an older generation says nothing");
    }
}
