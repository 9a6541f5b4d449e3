//! The types of expressions that decide about requests: match conditions of webhooks, and admission policies.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::check::{Checker, Node, Type};
use crate::value::is_reserved;
use crate::{check_source, depth, parse};

/// What expressions see of a request (upstream's `BuildRequestType`).
static REQUEST: LazyLock<Value> = LazyLock::new(|| {
    let kind = fields(json!({"group": text(), "version": text(), "kind": text()}));
    let resource = fields(json!({"group": text(), "version": text(), "resource": text()}));
    let user = json!({"username": text(), "uid": text(), "groups": list(text()), "extra": map(list(text()))});
    fields(json!({
        "kind": kind, "resource": resource, "subResource": text(),
        "requestKind": kind, "requestResource": resource, "requestSubResource": text(),
        "name": text(), "namespace": text(), "operation": text(), "userInfo": fields(user),
        "dryRun": {"type": "boolean"}, "options": {"x-kubernetes-int-or-string": true},
    }))
});

/// What expressions see of a namespace (upstream's `BuildNamespaceType`).
static NAMESPACE: LazyLock<Value> = LazyLock::new(|| {
    let time = json!({"type": "string", "format": "date-time"});
    let number = json!({"type": "integer"});
    let metadata = json!({
        "name": text(), "generateName": text(), "namespace": text(), "labels": map(text()), "annotations": map(text()),
        "UID": text(), "creationTimestamp": time, "deletionGracePeriodSeconds": number, "deletionTimestamp": time,
        "generation": number, "resourceVersion": text(), "finalizers": list(text()),
    });
    let condition = json!({
        "status": text(), "type": text(), "lastTransitionTime": time, "message": text(), "reason": text()});
    fields(json!({
        "metadata": fields(metadata),
        "spec": fields(json!({"finalizers": list(text())})),
        "status": fields(json!({"conditions": list(fields(condition)), "phase": text()})),
    }))
});

/// The object that `variables` is; what it holds is known by name.
static NOTHING: LazyLock<Value> = LazyLock::new(|| fields(json!({})));

fn text() -> Value {
    json!({"type": "string"})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn map(values: Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

fn fields(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

/// Whether a text can name a variable.
pub fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let begins = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    begins && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') && !is_reserved(text)
}

/// What the value of an expression must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Result {
    /// Whatever it is.
    Anything,
    /// A bool.
    Truth,
    /// A string.
    Text,
    /// A text, or null for none.
    TextOrNull,
}

/// What is known of the variables of expressions about requests.
#[derive(Debug, Clone)]
pub struct Known<'s> {
    variables: Vec<(String, Type<'s>)>,
}

impl<'s> Known<'s> {
    /// The request and its namespace, and an object, before and after, of a schema or of any.
    pub fn of(object: Option<&'s Value>) -> Self {
        let of_schema = |schema: &'s Value| Node { schema, is_resource: false }.of().unwrap_or(Type::Dyn);
        let object = object.map_or(Type::Dyn, of_schema);
        let variables = vec![
            ("object".to_string(), object.clone()),
            ("oldObject".to_string(), object),
            ("request".to_string(), of_schema(&REQUEST)),
            ("namespaceObject".to_string(), of_schema(&NAMESPACE)),
        ];
        Known { variables }
    }

    /// Whom the request is from, and what that user may do.
    #[must_use]
    pub fn authorizer(mut self) -> Self {
        let of = |name: &str, what| (name.to_string(), Type::Opaque(what));
        self.variables.push(of("authorizer", "kubernetes.authorization.Authorizer"));
        self.variables.push(of("authorizer.requestResource", "kubernetes.authorization.ResourceCheck"));
        self
    }

    /// The parameters of a policy.
    #[must_use]
    pub fn params(mut self, schema: Option<&'s Value>) -> Self {
        let of = schema.and_then(|schema| Node { schema, is_resource: false }.of()).unwrap_or(Type::Dyn);
        self.variables.push(("params".into(), of));
        self
    }

    /// Makes what a policy computes known to the expressions after it: of the type that it has, or any if it has a
    /// mistake.
    ///
    /// # Errors
    /// The mistake, in upstream's words, with the place.
    pub fn compute(&mut self, name: &str, source: &str) -> std::result::Result<(), String> {
        if !self.variables.iter().any(|(known, _)| known == "variables") {
            let nothing = Type::Object(Node { schema: &NOTHING, is_resource: false });
            self.variables.push(("variables".into(), nothing));
        }
        let of = self.of_expression(source);
        let (of, mistake) = match of {
            Ok(of) => (of, Ok(())),
            Err(why) => (Type::Dyn, Err(why)),
        };
        self.variables.push((format!("variables.{name}"), of));
        mistake
    }

    /// Adds what others know to be computed.
    #[must_use]
    pub fn with_computed(mut self, other: &Known<'s>) -> Self {
        for (name, of) in &other.variables {
            let is_computed = name.split('.').next() == Some("variables");
            if is_computed && !self.variables.iter().any(|(known, _)| known == name) {
                self.variables.push((name.clone(), of.clone()));
            }
        }
        self
    }

    /// Looks for mistakes in an expression.
    ///
    /// # Errors
    /// As [`Known::compute`], and when the value isn't what is wanted.
    pub fn check(&self, source: &str, wanted: Result) -> std::result::Result<(), String> {
        let of = self.of_expression(source)?;
        let expected = match (wanted, &of) {
            (Result::Anything, _)
            | (Result::Truth, Type::Bool)
            | (Result::Text | Result::TextOrNull, Type::Text)
            | (Result::TextOrNull, Type::Null) => return Ok(()),
            (Result::Truth, _) => "bool",
            (Result::Text, _) => "string",
            (Result::TextOrNull, _) => "one of [string null_type]",
        };
        Err(format!("must evaluate to {expected} but got {of}"))
    }

    fn of_expression(&self, source: &str) -> std::result::Result<Type<'s>, String> {
        check_source(source)?;
        depth::guarded(source, || {
            let program = parse(source)?;
            Checker::new(program.source_info(), self.variables.clone()).of(program.expression())
        })
    }
}
