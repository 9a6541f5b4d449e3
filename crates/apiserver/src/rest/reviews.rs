//! Objects that aren't stored: access reviews, token reviews, bindings.

use std::sync::Arc;

use api::{Kind, kinds};
use apimachinery::{Cause, ObjectExt as _, Status};
use http::{Request, Response};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::authentication::{self, AUTHENTICATED, MASTERS, Tokens, User};
use crate::authorization::{self, Attributes};
use crate::pipeline::decode;
use crate::request::ResourceRequest;
use crate::response::{self, Body};
use crate::subresources;

/// Answers a review or Binding.
///
/// # Errors
/// 422 for a review that asks nothing, or what the Binding is refused for.
pub async fn create(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    let (mut review, _) = decode::object(server, request, info.kind, &info.query).await?;
    let kind = info.kind;
    if kind == kinds::BINDINGS {
        let mut target = info.clone();
        target.kind = kinds::PODS;
        target.path.name = review.name().into();
        subresources::bind(server, user, &target, &review).await?;
        return Ok(response::created());
    }
    let status = if kind == kinds::SELF_SUBJECT_REVIEWS {
        json!({"userInfo": user.info()})
    } else if kind == kinds::TOKEN_REVIEWS {
        token(server, &review)
    } else if kind == kinds::SELF_SUBJECT_ACCESS_REVIEWS {
        check_access(kind, &review)?;
        access(server, user, &review["spec"])
    } else if kind == kinds::SUBJECT_ACCESS_REVIEWS || kind == kinds::LOCAL_SUBJECT_ACCESS_REVIEWS {
        if kind.namespaced && review.namespace().is_empty() {
            review.set_meta("namespace", info.path.namespace.as_str());
        }
        check_access(kind, &review)?;
        let subject = User {
            name: review.str_at(&["spec", "user"]).into(),
            groups: review.strings_at(&["spec", "groups"]).into_iter().map(String::from).collect(),
            ..User::default()
        };
        access(server, &subject, &review["spec"])
    } else if kind == kinds::SELF_SUBJECT_RULES_REVIEWS {
        rules(server, user, review.str_at(&["spec", "namespace"]))
    } else {
        return Err(Status::no_route());
    };
    review["status"] = status;
    Ok(response::json(201, &review))
}

/// The status of a TokenReview: the token's user, if the token is for one of the audiences.
fn token(server: &ApiServer, review: &Value) -> Value {
    let own = Tokens::issuer(server);
    let mut audiences = review.strings_at(&["spec", "audiences"]);
    if audiences.is_empty() {
        audiences.push(&own);
    }
    let token = review.str_at(&["spec", "token"]);
    let mut refused = "it is for no audience".to_string();
    for audience in audiences {
        match server.tokens.verify(server, token, audience) {
            Ok(claims) => return json!({"authenticated": true, "user": claims.user().info(), "audiences": [audience]}),
            // Other tokens have no audience; they are for this server.
            Err(why) => match authentication::by_token(server, token) {
                Ok(mut user) if audience == own => {
                    user.groups.push(AUTHENTICATED.into());
                    return json!({"authenticated": true, "user": user.info(), "audiences": [audience]});
                }
                _ => refused = why,
            },
        }
    }
    json!({"authenticated": false, "error": format!("[invalid bearer token, {refused}]")})
}

/// What is wrong with an access review.
fn check_access(kind: &Kind, review: &Value) -> Result<(), Status> {
    let spec = &review["spec"];
    let mut causes = Vec::new();
    let (resource, path) = (!spec["resourceAttributes"].is_null(), !spec["nonResourceAttributes"].is_null());
    if resource == path {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        causes.push(Cause::invalid("spec.resourceAttributes", &spec["resourceAttributes"], why));
    }
    if kind.kind != "SelfSubjectAccessReview" {
        if spec.str_at(&["user"]).is_empty() && spec.array_at(&["groups"]).is_empty() {
            causes.push(Cause::invalid("spec.user", &spec["user"], "at least one of user or group must be specified"));
        }
        let namespace = spec.str_at(&["resourceAttributes", "namespace"]);
        if kind.kind == "LocalSubjectAccessReview" && namespace != review.namespace() {
            let why = "must match metadata.namespace";
            causes.push(Cause::invalid("spec.resourceAttributes.namespace", &namespace.into(), why));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(kind.invalid("", causes)) }
}

fn access(server: &ApiServer, user: &User, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let reason = if resource.is_object() {
        let mut name = resource.str_at(&["resource"]).to_string();
        if !resource.str_at(&["subresource"]).is_empty() {
            name = format!("{name}/{}", resource.str_at(&["subresource"]));
        }
        let attributes = Attributes {
            verb: resource.str_at(&["verb"]),
            group: resource.str_at(&["group"]),
            resource: &name,
            namespace: resource.str_at(&["namespace"]),
            name: resource.str_at(&["name"]),
            path: "",
        };
        authorization::reason(server, user, &attributes)
    } else {
        let path = &spec["nonResourceAttributes"];
        let attributes = Attributes {
            verb: path.str_at(&["verb"]),
            group: "",
            resource: "",
            namespace: "",
            name: "",
            path: path.str_at(&["path"]),
        };
        authorization::reason(server, user, &attributes)
    };
    match reason {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    }
}

fn rules(server: &ApiServer, user: &User, namespace: &str) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if user.is_in(MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in server.rbac.list(server, user, namespace) {
        if rule.paths.is_empty() {
            let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                value["resourceNames"] = json!(rule.names);
            }
            resources.push(value);
        } else {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
