//! Deleting objects: graceful for pods, through finalizers where there are some, at once otherwise.

use apimachinery::{ObjectExt as _, Status, clock};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use api::Kind;
use api::kinds::Dependents;

use super::{CONFLICT_RETRIES, Draft, WriteRequest};
use crate::admission::Operation;
use crate::request::DeleteOptions;

impl WriteRequest<'_> {
    /// Deletes an object, or marks it for deletion; returns what a client gets: the object, or a `Status` when it is gone.
    ///
    /// # Errors
    /// 404 without the object, 403 for one that can't be deleted, 409 when a precondition fails or other writes are faster again and
    /// again, and what admission and the store refuse.
    pub async fn delete(&self, options: &DeleteOptions) -> Result<Value, Status> {
        let kind = self.kind;
        let deletion = &kind.strategy.deletion;
        if let Some(why) = (deletion.refuse)(self.name) {
            return Err(kind.forbidden(self.name, why));
        }
        let resource = self.server.cache.stored(kind)?;
        for round in 0..=CONFLICT_RETRIES {
            let entry = resource.get(&self.key()).ok_or_else(|| kind.not_found(self.name))?;
            let old = entry.parse();
            check_preconditions(kind, self.name, &old, options)?;
            let mut draft = Draft::new(self, Operation::Delete, old.clone(), old);
            draft.options = Some(options);
            draft.run().await?;
            match draft.commit_delete(&entry).await {
                Err(status) if status.reason == "Conflict" && round < CONFLICT_RETRIES => {}
                Err(status) => return Err(status),
                Ok((object, true)) if !deletion.returns_object => return Ok(success(kind, &object)),
                Ok((object, _)) => return Ok(object),
            }
        }
        Err(kind.modified(self.name))
    }
}

/// The `Status` of success that deletions answer with.
fn success(kind: &Kind, object: &Value) -> Value {
    let mut details = json!({"name": object.name(), "kind": kind.plural(), "uid": object.uid()});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The preconditions of a deletion (`metav1.Preconditions`).
///
/// # Errors
/// 409 when one isn't met.
pub fn check_preconditions(kind: &Kind, name: &str, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let differs = |what: &str, wanted: &str, actual: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
        kind.conflict(name, &why)
    };
    if !options.uid.is_empty() && options.uid != object.uid() {
        return Err(differs("UID", &options.uid, object.uid()));
    }
    if !options.resource_version.is_empty() && options.resource_version != object.resource_version() {
        return Err(differs("ResourceVersion", &options.resource_version, object.resource_version()));
    }
    Ok(())
}

/// Sets what a deletion sets: time, grace and the finalizers of the propagation policy.
pub(super) fn mark(kind: &Kind, object: &mut Value, options: &DeleteOptions) {
    let grace = (kind.strategy.deletion.grace_period)(object, options.grace);
    let before = object.i64_at(&["metadata", "deletionGracePeriodSeconds"]);
    // A second deletion may only shorten the time that is left.
    if !object.is_deleting() || before.is_some_and(|b| grace < b) {
        let at = apimachinery::clock::now().checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
        object.set_meta("deletionTimestamp", clock::format_rfc3339(at));
        object.set_meta("deletionGracePeriodSeconds", grace);
        if kind.has_generation
            && let Some(generation) = object.i64_at(&["metadata", "generation"])
        {
            object.set_meta("generation", generation + 1);
        }
    }
    let mut finalizers: Vec<String> =
        object.strings_at(&["metadata", "finalizers"]).into_iter().map(String::from).collect();
    let (foreground, orphan) = ("foregroundDeletion", "orphan");
    // What the client says comes first, then what the object's finalizers say, then what is usual for the kind.
    let is_said = finalizers.iter().any(|f| f == foreground || f == orphan);
    let propagation = match (options.propagation.as_str(), kind.strategy.deletion.dependents) {
        ("", Dependents::Orphaned(_)) if !is_said => "Orphan",
        (said, _) => said,
    };
    if !propagation.is_empty() {
        finalizers.retain(|f| f != foreground && f != orphan);
        match propagation {
            "Foreground" => finalizers.push(foreground.into()),
            "Orphan" => finalizers.push(orphan.into()),
            _ => {}
        }
    }
    if finalizers.is_empty() {
        object.meta_mut().remove("finalizers");
    } else {
        object.set_meta("finalizers", finalizers);
    }
    (kind.strategy.deletion.mark)(object);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(mut pod: Value, grace: Option<i64>) -> Value {
        mark(api::kinds::PODS, &mut pod, &DeleteOptions { grace, ..DeleteOptions::default() });
        pod
    }

    #[test]
    fn grace_is_for_pods_on_nodes_and_can_only_shrink() {
        let running = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let first = marked(running.clone(), None);
        assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 20);
        let shorter = marked(first.clone(), Some(5));
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(marked(shorter, Some(60))["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(marked(json!({"spec": {}}), None)["metadata"]["deletionGracePeriodSeconds"], 0);
    }
}
