//! Events of an object.

use serde_json::Value;

use super::{Text, age, items, number, text};
use crate::client::Call;
use crate::context::Context;
use crate::select::Target;

/// The events of an object, if they may be read.
pub async fn of(cx: &Context, target: &Target) -> Option<Vec<Value>> {
    let metadata = &target.object["metadata"];
    let (name, namespace) = (text(&metadata["name"]), text(&metadata["namespace"]));
    let mut fields = vec![format!("involvedObject.name={name}")];
    if !namespace.is_empty() {
        fields.push(format!("involvedObject.namespace={namespace}"));
    }
    fields.push(format!("involvedObject.kind={}", target.resource.kind));
    // Nodes report events of themselves by their name.
    let uid = if target.resource.is("", "nodes") { name } else { text(&metadata["uid"]) };
    fields.push(format!("involvedObject.uid={uid}"));
    let path = if namespace.is_empty() {
        "/api/v1/events".to_string()
    } else {
        format!("/api/v1/namespaces/{namespace}/events")
    };
    let answer =
        cx.json(Call::new("GET", &path).query("fieldSelector", fields.join(",")).query("limit", "500")).await.ok()?;
    let mut all = items(&answer["items"]).to_vec();
    all.sort_by(|a, b| last(a).cmp(last(b)));
    Some(all)
}

fn last(event: &Value) -> &str {
    let series = text(&event["series"]["lastObservedTime"]);
    if !series.is_empty() {
        return series;
    }
    let own = text(&event["lastTimestamp"]);
    if own.is_empty() { text(&event["eventTime"]) } else { own }
}

/// `5m`, or how often over which time.
pub fn interval(event: &Value) -> String {
    let first = if event["eventTime"].is_string() { age(&event["eventTime"]) } else { age(&event["firstTimestamp"]) };
    if event["series"].is_object() {
        return format!(
            "{} (x{} over {first})",
            age(&event["series"]["lastObservedTime"]),
            number(&event["series"]["count"])
        );
    }
    match number(&event["count"]) {
        count if count > 1 => format!("{} (x{count} over {first})", age(&event["lastTimestamp"])),
        _ => first,
    }
}

pub fn lines(out: &mut Text, all: &[Value]) {
    out.line(0, "Events:\n  Type\tReason\tAge\tFrom\tMessage");
    out.line(1, "----\t------\t----\t----\t-------");
    for event in all {
        let source = text(&event["source"]["component"]);
        let source = if source.is_empty() { text(&event["reportingComponent"]) } else { source };
        let path = text(&event["involvedObject"]["fieldPath"]);
        let message = text(&event["message"]).trim();
        let message = if path.is_empty() { message.to_string() } else { format!("{path}: {message}") };
        out.line(
            1,
            &format!("{}\t{}\t{}\t{source}\t{message}", text(&event["type"]), text(&event["reason"]), interval(event)),
        );
    }
}
