//! `metav1.Status`: how the API says no. Reasons, codes and messages follow upstream, since clients parse them.

use serde_json::{Value, json};

/// One field that is wrong (`metav1.StatusCause`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// One of upstream's `FieldValue…` reasons.
    pub reason: &'static str,
    /// Path of the field, like `spec.containers[0].name`.
    pub field: String,
    /// What is wrong with it, in upstream's words.
    pub message: String,
}

impl Cause {
    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Self {
        Cause { reason, field: field.into(), message }
    }
    /// A field that is missing.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        Self::new("FieldValueRequired", field, format!("Required value{detail}"))
    }
    /// A value that isn't valid.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new("FieldValueInvalid", field, format!("Invalid value: {}: {detail}", brief(value)))
    }
    /// A value of another type than the schema's.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Cause { reason: "FieldValueTypeInvalid", ..Self::invalid(field, value, detail) }
    }
    /// A value that isn't one of those allowed.
    pub fn not_supported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let allowed = allowed.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(", ");
        Self::new("FieldValueNotSupported", field, format!("Unsupported value: {value}: supported values: {allowed}"))
    }
    /// A value that is there twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueDuplicate", field, format!("Duplicate value: {value}"))
    }
    /// A field that may not be set.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {detail}"))
    }
    /// A name of something that isn't there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueNotFound", field, format!("Not found: {value}"))
    }
}

/// Values in messages are cut, as a whole object would drown the reason.
fn brief(value: &Value) -> String {
    // Nothing is a text to upstream's printer (`field.Error.ErrorBody`).
    let text = if value.is_null() { "\"null\"".to_string() } else { value.to_string() };
    if text.len() <= 512 { text } else { format!("{}…", text.chars().take(512).collect::<String>()) }
}

/// A refusal, ready to be sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The status code of HTTP.
    pub code: u16,
    /// One of upstream's `StatusReason`s.
    pub reason: &'static str,
    /// What a human reads.
    pub message: String,
    /// `details`: name, group, kind (really the resource), causes, retryAfterSeconds.
    pub details: Option<Value>,
    /// `metadata.continue`: how a list whose revision is gone may go on.
    pub continues: Option<String>,
}

impl Status {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), details: None, continues: None }
    }
    fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        let mut details = json!({"name": name, "kind": resource});
        if !group.is_empty() {
            details["group"] = group.into();
        }
        self.details = Some(details);
        self
    }

    /// 400
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    /// 401
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// 403 for an object, or a kind if `name` is empty.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let quoted = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        Self::new(403, "Forbidden", format!("{what}{quoted} is forbidden: {why}")).about(group, resource, name)
    }
    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, resource)))
            .about(group, resource, name)
    }
    /// The path leads nowhere.
    pub fn no_route() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }
    /// 405
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }
    /// 409 for a create.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(group, resource)))
            .about(group, resource, name)
    }
    /// 409 for a write to an object that doesn't allow it.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource)),
        )
        .about(group, resource, name)
    }
    /// 409 for a write to another revision than the present one.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }
    /// 410: the revision is compacted.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    /// 413: a body of more than so many bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }
    /// 415
    pub fn unsupported_media_type(got: &str, accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format ({got:?}) - accepted media types include: {accepted}"
            ),
        )
    }
    /// 422 with a cause for each wrong field. `kind` is the kind, as upstream prints it here.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let list: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = match list.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let what = qualified(group, kind);
        let mut status = Self::new(422, "Invalid", format!("{what} {name:?} is invalid: {text}"));
        let causes: Vec<Value> =
            causes.into_iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
        status = status.about(group, kind, name);
        if let Some(details) = &mut status.details {
            details["causes"] = causes.into();
        }
        status
    }
    /// 429; zero seconds leave open when to come back.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message);
        if retry_after_s > 0 {
            status.details = Some(json!({ "retryAfterSeconds": retry_after_s }));
        }
        status
    }
    /// 500
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }
    /// 503
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The wire form.
    pub fn to_json(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        // An unknown reason is left out, as Go does.
        if !self.reason.is_empty() {
            v["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            v["details"] = details.clone();
        }
        if let Some(token) = &self.continues {
            v["metadata"]["continue"] = token.as_str().into();
        }
        v
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.into() } else { format!("{resource}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_names_each_field_as_upstream_does() {
        let causes =
            vec![Cause::required("spec.replicas", ""), Cause::invalid("metadata.name", &json!("A"), "must be lower")];
        let s = Status::invalid("apps", "Deployment", "A", causes);
        assert_eq!(
            s.message,
            r#"Deployment.apps "A" is invalid: [spec.replicas: Required value, metadata.name: Invalid value: "A": must be lower]"#
        );
        assert_eq!(s.to_json()["details"]["causes"][0]["field"], "spec.replicas");
        assert_eq!(Cause::invalid("a", &Value::Null, "b").message, "Invalid value: \"null\": b");
    }
}
