//! The condition `Dangling` of FlowSchemas: whether the priority level that a schema names exists.

use std::sync::{Arc, Weak};

use apimachinery::{ObjectExt as _, clock};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::fairness::{LEVELS, SCHEMAS};
use crate::pipeline::WriteRequest;
use crate::registry::{Filter, WatchStart};

/// Keeps the `Dangling` condition of all flow schemas, until the server is gone.
pub async fn run(server: Weak<ApiServer>) {
    loop {
        let Some(alive) = server.upgrade() else { return };
        let present = alive.cache.revision();
        let subscribe = |kind| alive.cache.of(kind).subscribe(Filter::default(), WatchStart::After(present), present);
        let (Ok(mut schemas), Ok(mut levels)) = (subscribe(SCHEMAS), subscribe(LEVELS)) else { continue };
        for entry in alive.cache.of(SCHEMAS).list(&Filter::default()).0 {
            set_condition(&alive, &entry.parse()).await;
        }
        drop(alive);
        tokio::select! {
            _ = schemas.events.recv() => {}
            _ = levels.events.recv() => {}
        }
    }
}

async fn set_condition(server: &Arc<ApiServer>, schema: &Value) {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let found = server.cache.of(LEVELS).get(level).is_some();
    let (status, reason) = if found { ("False", "Found") } else { ("True", "NotFound") };
    let present = schema.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {}",
        if found { "and it exists" } else { "but there is no such object" }
    );
    if present.is_some_and(|c| c["status"] == status && c["message"] == message.as_str()) {
        return;
    }
    let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": clock::now_rfc3339()});
    let write = WriteRequest::by_server(server, SCHEMAS, "", schema.name()).for_status();
    let written = write.update(|current| {
        let mut new = current.clone();
        new["status"]["conditions"] = json!([condition]);
        Ok(new)
    });
    if let Err(error) = written.await {
        tracing::debug!(%error, name = schema.name(), "failed to update the status of a FlowSchema");
    }
}
