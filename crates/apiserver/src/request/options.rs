//! Options of writes: `dryRun`, `fieldValidation`, and those of deletions (`metav1.CreateOptions` and its like).

use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use super::Query;

/// What to do with fields that the kind doesn't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// Reads `fieldValidation`.
    ///
    /// # Errors
    /// 422 for an unknown value.
    pub fn read(query: &Query) -> Result<Self, Status> {
        Ok(match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => return Err(unsupported("fieldValidation", other, &["Ignore", "Strict", "Warn"])),
        })
    }
}

/// An option of a request that has a value it can't have.
fn unsupported(option: &str, value: &str, allowed: &[&str]) -> Status {
    let cause = apimachinery::Cause::not_supported(option, &value.into(), allowed);
    Status::invalid("meta.k8s.io", "Options", "", vec![cause])
}

/// Whether the write is only to be tried.
///
/// # Errors
/// 422 for another value than `All`.
pub fn dry_run(query: &Query) -> Result<bool, Status> {
    match query.get("dryRun") {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(unsupported("dryRun", other, &["All"])),
    }
}

/// `metav1.DeleteOptions`, as far as they matter here.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace: Option<i64>,
    pub propagation: String,
    pub uid: String,
    pub resource_version: String,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the options of a body; those that it lacks, of the query.
    ///
    /// # Errors
    /// 422 for an unknown propagation policy, or two that contradict each other; 400 for a grace period that is no number.
    pub fn from_json(value: &Value, query: &Query) -> Result<Self, Status> {
        let grace = match value.i64_at(&["gracePeriodSeconds"]) {
            Some(grace) => Some(grace),
            None => query.number("gracePeriodSeconds")?,
        };
        let propagation = match value.str_at(&["propagationPolicy"]) {
            "" => query.get("propagationPolicy"),
            policy => policy,
        };
        if !matches!(propagation, "" | "Foreground" | "Background" | "Orphan") {
            let text = format!(
                "DeleteOptions.propagationPolicy: Unsupported value: {propagation:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            );
            return Err(Status::new(422, "Invalid", text));
        }
        let orphans = &value["orphanDependents"];
        if !propagation.is_empty() && !orphans.is_null() {
            let text = "orphanDependents and deletionPropagation cannot be both set";
            return Err(Status::new(422, "Invalid", text));
        }
        let propagation = match orphans.as_bool() {
            Some(true) => "Orphan",
            Some(false) => "Background",
            None => propagation,
        };
        Ok(DeleteOptions {
            // A pod that is to end at once and yet be waited for has a second.
            grace: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            propagation: propagation.into(),
            uid: value.str_at(&["preconditions", "uid"]).into(),
            resource_version: value.str_at(&["preconditions", "resourceVersion"]).into(),
            dry_run: dry_run(query)? || value.strings_at(&["dryRun"]).contains(&"All"),
        })
    }
}
