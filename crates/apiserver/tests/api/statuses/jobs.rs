//! Statuses of Jobs.

use serde_json::{Value, json};

use super::{Kind, kind};

/// Jobs that others manage are told what their statuses may say.
pub fn kinds() -> Vec<Kind> {
    let job = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: {name}}}, spec: {{{spec} template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"
        )
    };
    let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
    let is = |kinds: &[&str]| -> Value { kinds.iter().map(|k| json!({"type": k, "status": "True"})).collect() };
    let of = |name: &str, spec: &str, status: Value, changes| {
        kind("/apis/batch/v1", "jobs", &job(name, spec), status, changes)
    };
    vec![
        of(
            "plain",
            "",
            json!({"startTime": start, "active": 1, "failed": 1, "succeeded": 1}),
            vec![
                (json!({"ready": 1}), ""),
                (
                    json!({"conditions": is(&["SuccessCriteriaMet", "Complete"]), "active": 0, "completionTime": end}),
                    "",
                ),
                (json!({"ready": 2}), "status.ready FieldValueInvalid cannot set more ready pods than active"),
                (json!({"failed": 0}), "status.failed FieldValueInvalid cannot decrease the failed counter"),
                (json!({"succeeded": 0}), "status.succeeded FieldValueInvalid cannot decrease the succeeded counter"),
                (
                    json!({"startTime": end}),
                    "status.startTime FieldValueRequired startTime cannot be removed for unsuspended job",
                ),
                (
                    json!({"completionTime": end}),
                    "status.completionTime FieldValueInvalid cannot set completionTime when there is no Complete=True condition",
                ),
                (
                    json!({"conditions": is(&["SuccessCriteriaMet", "Complete"]), "active": 0}),
                    "status.completionTime FieldValueRequired completionTime is required for Complete jobs",
                ),
                (
                    json!({"conditions": is(&["Complete"]), "active": 0, "completionTime": end}),
                    "status.conditions FieldValueInvalid cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                ),
                (
                    json!({"conditions": is(&["Failed"]), "active": 0}),
                    "status.conditions FieldValueInvalid cannot set Failed=True condition without the FailureTarget=true condition",
                ),
                (
                    json!({"conditions": is(&["FailureTarget", "Failed"])}),
                    "status.active FieldValueInvalid active>0 is invalid for finished job",
                ),
                (
                    json!({"uncountedTerminatedPods": {"failed": ["a", "a"]}}),
                    "status.uncountedTerminatedPods.failed[1] FieldValueDuplicate",
                ),
                (
                    json!({"completedIndexes": "0"}),
                    "status.completedIndexes FieldValueInvalid cannot set non-empty completedIndexes when non-indexed completion mode",
                ),
                (
                    json!({"failedIndexes": ""}),
                    "status.failedIndexes FieldValueInvalid cannot set non-null failedIndexes when backoffLimitPerIndex is null",
                ),
            ],
        ),
        of(
            "indexed",
            "completionMode: Indexed, completions: 3, backoffLimitPerIndex: 1,",
            json!({}),
            vec![
                (json!({"completedIndexes": "0,1", "failedIndexes": "2"}), ""),
                (
                    json!({"completedIndexes": "3"}),
                    "status.completedIndexes FieldValueInvalid error parsing completedIndexes",
                ),
                (
                    json!({"completedIndexes": "0,1", "failedIndexes": "1"}),
                    "status.failedIndexes FieldValueInvalid failedIndexes and completedIndexes overlap on index: 1",
                ),
            ],
        ),
        of(
            "over",
            "",
            json!({"startTime": start, "conditions": is(&["FailureTarget", "Failed"])}),
            vec![
                (
                    json!({"terminating": 1}),
                    "status.terminating FieldValueInvalid terminating>0 is invalid for finished job",
                ),
                (
                    json!({"conditions": is(&["FailureTarget"])}),
                    "status.conditions FieldValueInvalid cannot disable the terminal Failed=True condition",
                ),
                // Somebody may have written it before the rule was there.
                (json!({"ready": 0}), ""),
            ],
        ),
    ]
}
