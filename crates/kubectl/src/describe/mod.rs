//! Texts of `describe`, in upstream's layout. Each kind is a function from an object (and what belongs to it) to lines with tabs; kinds without one
//! are described field by field.

mod core;
mod events;
mod generic;
mod node;
mod pod;
mod rbac;
mod volumes;
mod workloads;

pub use events::interval;

use serde_json::Value;

use crate::context::Context;
use crate::error::Result;
use crate::print::table::label_text;
use crate::print::tabwriter;
use crate::select::Target;

/// Longer annotations are cut.
const MAX_ANNOTATION: usize = 140;
const HIDDEN_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Lines in the making.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A line, two columns to the right for each level.
    fn line(&mut self, level: usize, text: &str) {
        self.0.extend(std::iter::repeat_n("  ", level));
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// `name:` and its value.
    fn field(&mut self, level: usize, name: &str, value: &str) {
        self.line(level, &format!("{name}:\t{value}"));
    }

    /// A field if there is a value.
    fn maybe(&mut self, level: usize, name: &str, value: &Value) {
        if !value.is_null() && value != "" {
            self.field(level, name, &plain(value));
        }
    }

    fn labels(&mut self, title: &str, labels: &Value) {
        self.field(0, title, &label_text(labels, "\n\t"));
    }

    fn annotations(&mut self, title: &str, annotations: &Value) {
        let mut lines: Vec<String> = Vec::new();
        for (key, value) in annotations.as_object().into_iter().flatten().filter(|(k, _)| *k != HIDDEN_ANNOTATION) {
            let value = value.as_str().unwrap_or("");
            let value = value.strip_suffix('\n').unwrap_or(value);
            if value.len().saturating_add(key.len()).saturating_add(2) > MAX_ANNOTATION || value.contains('\n') {
                lines.push(format!("{key}:"));
                lines.extend(
                    value.split('\n').map(|part| format!("  {}", shorten(part, MAX_ANNOTATION.saturating_sub(2)))),
                );
            } else {
                lines.push(format!("{key}: {value}"));
            }
        }
        self.field(0, title, &if lines.is_empty() { "<none>".into() } else { lines.join("\n\t") });
    }

    /// Name, namespace, labels and annotations.
    fn head(&mut self, object: &Value, with_namespace: bool) {
        let metadata = &object["metadata"];
        self.field(0, "Name", text(&metadata["name"]));
        if with_namespace {
            self.field(0, "Namespace", text(&metadata["namespace"]));
        }
        self.labels("Labels", &metadata["labels"]);
        self.annotations("Annotations", &metadata["annotations"]);
    }

    fn controlled_by(&mut self, object: &Value) {
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        if let Some(owner) = owners.into_iter().find(|o| o["controller"] == true) {
            self.field(0, "Controlled By", &format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
        }
    }

    /// Type, status and reason of conditions.
    fn conditions(&mut self, object: &Value) {
        let all = items(&object["status"]["conditions"]);
        if all.is_empty() {
            return;
        }
        self.line(0, "Conditions:\n  Type\tStatus\tReason");
        self.line(1, "----\t------\t------");
        for c in all {
            self.line(1, &format!("{} \t{}\t{}", text(&c["type"]), text(&c["status"]), text(&c["reason"])));
        }
    }
}

fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.into();
    }
    format!("{}...", text.chars().take(limit).collect::<String>())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// A value without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => crate::print::go_text(other),
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn title(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// A time as Go's RFC 1123 with a numeric zone has it.
fn time(value: &Value) -> String {
    let Some(at) = value.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()) else {
        return "Mon, 01 Jan 0001 00:00:00 +0000".into();
    };
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

fn age(value: &Value) -> String {
    value.as_str().map_or("<unknown>".into(), |t| apimachinery::clock::age(t, apimachinery::clock::now()))
}

/// A selector in the form of `-l`.
fn selector(value: &Value) -> String {
    let mut parts: Vec<String> =
        value["matchLabels"].as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
    for e in items(&value["matchExpressions"]) {
        let key = text(&e["key"]);
        let values = items(&e["values"]).iter().map(text).collect::<Vec<_>>().join(",");
        parts.push(match text(&e["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.into(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

/// The text of a pod template alone, as `rollout history --revision` shows it.
pub fn pod_template(template: &Value) -> String {
    let mut out = Text::default();
    pod::template(&mut out, template);
    out.0
}

/// What is particular to the kind; false where upstream shows no events.
async fn kind(cx: &Context, o: &mut Text, target: &Target) -> Result<bool> {
    let object = &target.object;
    let resource = &target.resource;
    let mut with_events = true;
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::describe(o, object),
        ("", "nodes") => node::describe(cx, o, object).await?,
        ("", "services") => core::service(cx, o, object).await?,
        ("", "configmaps") => core::config_map(o, object),
        ("", "secrets") => {
            core::secret(o, object);
            with_events = false;
        }
        ("", "serviceaccounts") => core::service_account(o, object),
        ("", "namespaces") => {
            core::namespace(cx, o, object).await?;
            with_events = false;
        }
        ("", "persistentvolumeclaims") => volumes::claim(cx, o, object).await?,
        ("", "persistentvolumes") => volumes::volume(o, object),
        ("", "resourcequotas") => {
            core::quota(o, object);
            with_events = false;
        }
        ("storage.k8s.io", "storageclasses") => volumes::class(o, object),
        ("networking.k8s.io", "ingresses") => core::ingress(cx, o, object).await,
        ("apps", "deployments") => workloads::deployment(cx, o, object).await?,
        ("apps", "replicasets") => workloads::replica_set(cx, o, object).await?,
        ("apps", "statefulsets") => workloads::stateful_set(cx, o, object).await?,
        ("apps", "daemonsets") => workloads::daemon_set(cx, o, object).await?,
        ("batch", "jobs") => workloads::job(o, object),
        ("batch", "cronjobs") => workloads::cron_job(o, object),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            rbac::role(o, object);
            with_events = false;
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            rbac::binding(o, object);
            with_events = false;
        }
        ("scheduling.k8s.io", "priorityclasses") => core::priority_class(o, object),
        ("policy", "poddisruptionbudgets") => core::budget(o, object),
        _ => generic::describe(o, object),
    }
    Ok(with_events)
}

/// Describes an object that the server has.
///
/// # Errors
/// When what belongs to it can't be read.
pub async fn describe(cx: &Context, target: &Target, show_events: bool) -> Result<String> {
    let mut out = Text::default();
    let with_events = kind(cx, &mut out, target).await?;
    // What stands above the events has columns of its own.
    let mut whole = String::new();
    if with_events && show_events {
        let found = events::of(cx, target).await;
        if let Some(found) = found {
            if found.is_empty() {
                out.field(0, "Events", "<none>");
            } else {
                whole = tabwriter::format(&out.0, tabwriter::DESCRIBE, None);
                out = Text::default();
                events::lines(&mut out, &found);
            }
        }
    }
    whole += &tabwriter::format(&out.0, tabwriter::DESCRIBE, None);
    Ok(whole)
}
