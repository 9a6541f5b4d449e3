//! Expressions about requests: what they can see, and those that decide whether a policy or webhook is asked.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Kind, Subresource, kinds};
use apimachinery::{ObjectExt as _, Status};
use expressions::{Attributes, Authorizer, Budget, Expression, Scope};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::{AdmissionAttributes, Operation};
use crate::ApiServer;
use crate::authentication::User;
use crate::{authorization, conversion};

/// When there are more, all are dropped: policies change all the time then.
const MAX_COMPILED_EXPRESSIONS: usize = 10_000;

/// Expressions that were compiled, by their text.
#[derive(Default)]
pub struct Expressions {
    known: Mutex<HashMap<String, Arc<Expression>>>,
}

impl Expressions {
    fn get(&self, source: &str) -> Result<Arc<Expression>, String> {
        if let Some(found) = self.known.lock().get(source) {
            return Ok(found.clone());
        }
        let compiled = Arc::new(Expression::compile(source, api::kinds::POLICY_VARIABLES)?);
        let mut known = self.known.lock();
        if known.len() >= MAX_COMPILED_EXPRESSIONS {
            known.clear();
        }
        known.insert(source.into(), compiled.clone());
        Ok(compiled)
    }
}

/// The kind of what is sent to a subresource, where that isn't the object itself.
fn body_kind(kind: &Kind, subresource: Option<Subresource>) -> (&'static str, &'static str, &'static str) {
    let body = subresource.filter(|s| *s != Subresource::Token).and_then(Subresource::body);
    body.unwrap_or((kind.group, kind.version, kind.kind))
}

fn options(attributes: &AdmissionAttributes<'_>) -> Value {
    let kind = match attributes.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if attributes.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    let said = attributes.options;
    if let Some(delete) = said.delete {
        if let Some(seconds) = delete.grace {
            options["gracePeriodSeconds"] = seconds.into();
        }
        for (field, text) in [("uid", &delete.uid), ("resourceVersion", &delete.resource_version)] {
            if !text.is_empty() {
                options["preconditions"][field] = text.as_str().into();
            }
        }
        if !delete.propagation.is_empty() {
            options["propagationPolicy"] = delete.propagation.as_str().into();
        }
        return options;
    }
    for (field, text) in [("fieldManager", said.field_manager), ("fieldValidation", said.field_validation)] {
        if !text.is_empty() {
            options[field] = text.into();
        }
    }
    options
}

/// An object in the version of `kind`; what is sent to a subresource in place of it has no other.
///
/// # Errors
/// 500 when the conversion webhook fails.
pub async fn in_version(
    server: &ApiServer,
    attributes: &AdmissionAttributes<'_>,
    kind: &Kind,
    object: &Value,
) -> Result<Value, Status> {
    if object.is_null() || attributes.subresource.and_then(Subresource::body).is_some() {
        return Ok(object.clone());
    }
    conversion::object(server, kind, object.clone()).await
}

/// A request as webhooks and policies are told of it, without the objects; those are in the version of `shown`.
pub fn request(attributes: &AdmissionAttributes<'_>, shown: &Kind) -> Value {
    let gvk = |kind: &Kind| {
        let (group, version, of) = body_kind(kind, attributes.subresource);
        json!({"group": group, "version": version, "kind": of})
    };
    let gvr = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural()});
    let kind = attributes.kind;
    let mut request = json!({"kind": gvk(shown), "resource": gvr(shown), "requestKind": gvk(kind), "requestResource": gvr(kind),
        "operation": attributes.operation.as_str(), "dryRun": attributes.dry_run, "name": attributes.name,
        "userInfo": attributes.user.info(), "options": options(attributes)});
    if !attributes.namespace.is_empty() {
        request["namespace"] = attributes.namespace.into();
    }
    if let Some(subresource) = attributes.subresource {
        request["subResource"] = subresource.name().into();
        request["requestSubResource"] = subresource.name().into();
    }
    request
}

/// The values of an expression's variables.
pub struct Facts {
    request: Value,
    object: Value,
    old: Value,
    namespace: Value,
    authorizer: Authorizer,
    resource: Attributes,
}

impl Facts {
    /// The facts about a write that makes `object` of `old`, both in the version of `kind`.
    pub fn gather(
        server: &Arc<ApiServer>,
        attributes: &AdmissionAttributes<'_>,
        kind: &Kind,
        object: &Value,
        old: Value,
    ) -> Self {
        let (asked, user) = (server.clone(), attributes.user.clone());
        let namespace = match attributes.kind.namespaced {
            true => server.cache.of(kinds::NAMESPACES).get(attributes.namespace).map_or(Value::Null, |n| n.parse()),
            false => Value::Null,
        };
        Facts {
            request: request(attributes, kind),
            object: if attributes.operation == Operation::Delete { Value::Null } else { object.clone() },
            old,
            namespace,
            authorizer: Authorizer::new(move |attributes| may(&asked, &user, attributes)),
            resource: Attributes {
                group: attributes.kind.group.into(),
                resource: attributes.kind.plural().into(),
                subresource: attributes.subresource_name().into(),
                namespace: attributes.namespace.into(),
                name: attributes.name.into(),
                ..Attributes::default()
            },
        }
    }

    /// A scope without parameters and variables of a policy.
    pub fn scope(&self) -> Scope<'_> {
        let mut scope = Scope::default();
        scope.bind("request", &self.request);
        scope.bind("object", &self.object);
        scope.bind("oldObject", &self.old);
        scope.bind("namespaceObject", &self.namespace);
        scope.bind_authorizer("authorizer", self.authorizer.clone());
        scope.bind_authorizer("authorizer.requestResource", self.authorizer.about(self.resource.clone()));
        scope
    }

    /// Whether all conditions are true.
    ///
    /// # Errors
    /// When a condition can't be evaluated and none is false; names the condition.
    pub fn meet(&self, known: &Expressions, conditions: &[Value], budget: &Budget) -> Result<bool, String> {
        let scope = self.scope();
        let mut failure = None;
        for condition in conditions {
            let expression = known.get(condition.str_at(&["expression"]));
            match expression.and_then(|e| e.is_true(&scope, budget).map_err(|e| e.to_string())) {
                Ok(true) => {}
                // A condition that is false decides, whatever happened to others.
                Ok(false) => return Ok(false),
                Err(why) => failure = Some(format!("{}: {why}", condition.str_at(&["name"]))),
            }
        }
        failure.map_or(Ok(true), Err)
    }

    /// Evaluates an expression of a policy.
    ///
    /// # Errors
    /// When the expression can't be compiled or evaluated.
    pub fn evaluate<T>(
        known: &Expressions,
        source: &str,
        read: impl FnOnce(&Expression) -> Result<T, expressions::Failure>,
    ) -> Result<T, String> {
        read(known.get(source)?.as_ref()).map_err(|e| e.to_string())
    }
}

fn may(server: &ApiServer, user: &User, a: &Attributes) -> Result<(), String> {
    let account = a.service_account.as_ref().map(|(namespace, name)| User::service_account(namespace, name, ""));
    let resource = match a.subresource.as_str() {
        "" => a.resource.clone(),
        subresource => format!("{}/{subresource}", a.resource),
    };
    let wanted = authorization::Attributes {
        verb: &a.verb,
        group: &a.group,
        resource: &resource,
        namespace: &a.namespace,
        name: &a.name,
        path: &a.path,
    };
    match authorization::allows(server, account.as_ref().unwrap_or(user), &wanted) {
        true => Ok(()),
        false => Err(String::new()),
    }
}
