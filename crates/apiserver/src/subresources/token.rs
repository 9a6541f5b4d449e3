//! Tokens of service accounts that are asked for (`serviceaccounts/NAME/token`).

use std::sync::Arc;

use api::{Kind, kinds};
use apimachinery::{Cause, ObjectExt as _, Status, clock};
use http::{Request, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::admission::builtin;
use crate::authentication::{Claims, Named, Tokens, User};
use crate::pipeline::decode;
use crate::registry::object_key;
use crate::request::ResourceRequest;
use crate::response::{self, Body};

/// Seconds that a token lives unless asked otherwise, and at the least.
const TOKEN_SECONDS: i64 = 3600;
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;

/// TokenRequest: a token of the service account, bound to what the request names.
///
/// # Errors
/// 400 for a request that can't be read, 403 for a node that asks for another's, 404 and 409 for a bound object that isn't there or is another
/// one, 422 for a lifetime out of bounds.
pub async fn create(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (review, _) = decode::value(request).await?;
    // A TokenRequest isn't stored, so its types weren't checked yet.
    let is = |value: &Value| value.is_object() || value.is_null();
    if !review.is_object() || !is(&review["metadata"]) || !is(&review["spec"]) || !is(&review["spec"]["boundObjectRef"])
    {
        return Err(Status::bad_request("the object provided is unrecognized: it must be a TokenRequest"));
    }
    let account = server.cache.stored(info.kind)?.get(&info.key()).ok_or_else(|| info.not_found())?.parse();
    let seconds = review.i64_at(&["spec", "expirationSeconds"]).unwrap_or(TOKEN_SECONDS);
    let detail = match seconds {
        ..TOKEN_MIN_SECONDS => "may not specify a duration less than 10 minutes",
        TOKEN_MIN_SECONDS..=TOKEN_MAX_SECONDS => "",
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    if !detail.is_empty() {
        let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), detail);
        return Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", vec![cause]));
    }
    let now = clock::now().as_second();
    let issuer = Tokens::issuer(server);
    let mut audiences: Vec<String> = review.strings_at(&["spec", "audiences"]).into_iter().map(String::from).collect();
    if audiences.is_empty() {
        audiences.push(issuer.clone());
    }
    let mut claims = Claims {
        iss: issuer,
        sub: format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        nbf: now,
        jti: uuid::Uuid::new_v4().to_string(),
        ..Claims::default()
    };
    claims.kubernetes.namespace = account.namespace().into();
    claims.kubernetes.serviceaccount.name = account.name().into();
    claims.kubernetes.serviceaccount.uid = account.uid().into();
    bind(server, &review["spec"]["boundObjectRef"], &account, &mut claims)?;
    let node = claims.kubernetes.node.as_ref().filter(|_| claims.kubernetes.pod.is_some());
    builtin::restrict_token(user, info.kind, &info.path.name, node)?;
    let pod = claims.kubernetes.pod.as_ref().map_or("", |pod| pod.name.as_str());
    builtin::restrict_audience(server, user, &account, pod, &review.strings_at(&["spec", "audiences"]))?;
    let token = server.tokens.issue(&claims).map_err(Status::internal)?;
    let expires = Timestamp::from_second(now + seconds).map(clock::format_rfc3339).unwrap_or_default();
    let answer = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": account.name(), "namespace": account.namespace(), "creationTimestamp": null},
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": review["spec"]["boundObjectRef"]},
        "status": {"token": token, "expirationTimestamp": expires}});
    Ok(response::json(201, &answer))
}

/// Binds a token to the object with which it ends: a pod (and its node), a secret or a node.
fn bind(server: &ApiServer, bound: &Value, account: &Value, claims: &mut Claims) -> Result<(), Status> {
    let namespace = account.namespace();
    if bound.is_null() {
        return Ok(());
    }
    let (version, said) = (bound.str_at(&["apiVersion"]), bound.str_at(&["kind"]));
    let of = [kinds::PODS, kinds::SECRETS, kinds::NODES].into_iter();
    let Some(kind) = of.filter(|k| version.is_empty() || version == k.version).find(|k| said == k.kind) else {
        let why = format!("cannot bind token for serviceaccount to object of type {version}, Kind={said}");
        return Err(Status::bad_request(why));
    };
    let name = bound.str_at(&["name"]);
    let named = |kind: &'static Kind, name: &str| {
        let namespace = if kind.namespaced { namespace } else { "" };
        let found = server.cache.of(kind).get(&object_key(namespace, name));
        found.map(|entry| entry.parse()).ok_or_else(|| kind.not_found(name))
    };
    let object = named(kind, name)?;
    let uid = bound.str_at(&["uid"]);
    if !uid.is_empty() && uid != object.uid() {
        let found = object.uid();
        let why = format!("the UID in the bound object reference ({uid}) does not match the UID in record ({found})");
        return Err(kind.conflict(name, &why));
    }
    let this = Some(Named { name: name.into(), uid: object.uid().into() });
    if kind == kinds::SECRETS {
        claims.kubernetes.secret = this;
    } else if kind == kinds::NODES {
        claims.kubernetes.node = this;
    } else {
        if object.str_at(&["spec", "serviceAccountName"]) != account.name() {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                account.name()
            )));
        }
        claims.kubernetes.pod = this;
        let node = object.str_at(&["spec", "nodeName"]);
        claims.kubernetes.node =
            named(kinds::NODES, node).ok().map(|n| Named { name: node.into(), uid: n.uid().into() });
    }
    Ok(())
}
