//! Objects that are answered on the spot: access reviews, token reviews, bindings.

use std::sync::Arc;

use apimachinery::{ObjectExt as _, Status};
use http::{Request, Response};
use serde_json::{Value, json};

use super::{body, subresource};
use crate::ApiServer;
use crate::auth::{self, Attributes, Tokens, User};
use crate::request::Info;
use crate::response::{self, Body};

pub async fn create(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    let (mut review, _) = body::object(server, request, info.kind, &info.query).await?;
    let status = match info.kind.kind {
        "Binding" => {
            let mut target = info.clone();
            target.kind = api::find("", "v1", "pods").ok_or_else(Status::no_route)?;
            target.path.name = review.name().into();
            subresource::bind(server, user, &target, &review).await?;
            return Ok(response::json(
                201,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            ));
        }
        "SelfSubjectReview" => json!({"userInfo": user.info()}),
        "TokenReview" => token(server, &review),
        "SelfSubjectAccessReview" => access(server, user, &review["spec"]),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let subject = User {
                name: review.str_at(&["spec", "user"]).into(),
                groups: review.strings_at(&["spec", "groups"]).into_iter().map(String::from).collect(),
                ..User::default()
            };
            access(server, &subject, &review["spec"])
        }
        "SelfSubjectRulesReview" => rules(server, user, review.str_at(&["spec", "namespace"])),
        _ => return Err(Status::no_route()),
    };
    review["status"] = status;
    Ok(response::json(201, &review))
}

fn token(server: &ApiServer, review: &Value) -> Value {
    let issuer = Tokens::issuer(server);
    let wanted = review.strings_at(&["spec", "audiences"]);
    let audience = wanted.first().copied().unwrap_or(&issuer);
    let token = review.str_at(&["spec", "token"]);
    match server.tokens.verify(server, token, audience).and_then(|_| server.tokens.user(server, token)) {
        Ok(user) => json!({"authenticated": true, "user": user.info(), "audiences": [audience]}),
        Err(why) => json!({"authenticated": false, "error": format!("invalid bearer token: {why}")}),
    }
}

fn access(server: &ApiServer, user: &User, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let allowed = if resource.is_object() {
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
        auth::allows(server, user, &attributes)
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
        auth::allows(server, user, &attributes)
    };
    json!({"allowed": allowed})
}

fn rules(server: &ApiServer, user: &User, namespace: &str) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if user.is_in(auth::MASTERS) {
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
