//! Authentication and authorization. The API server may all; of other clients the API is asked who they are (TokenReview) and whether
//! they may (SubjectAccessReview on `nodes/metrics` and the like), as upstream's webhook modes do it. So Prometheus and
//! metrics-server come in with the rights of their service accounts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long an answer of the API counts, by whether it was a yes.
const AUTHORIZED_TTL: Duration = Duration::from_secs(120);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);
/// Answers that are kept.
const MAX_CACHED_DECISIONS: usize = 1000;

/// A user, as a certificate or the API names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The user's groups.
    pub groups: Vec<String>,
}

/// What is asked for: a verb and the part of the node.
type Action = (&'static str, &'static str);

#[derive(Clone)]
struct Answer {
    allowed: bool,
    /// The user's name, for the refusal.
    who: String,
    until: Instant,
}

/// Decides who may ask for what, with a cache of the API's answers.
pub struct Access {
    client: Client,
    node: String,
    /// By client and request.
    known: Mutex<HashMap<(String, Action), Answer>>,
}

/// The part of a node that a path is of, in the words of RBAC, from the narrowest on.
fn parts(path: &str) -> &'static [&'static str] {
    match path.split('/').find(|part| !part.is_empty()).unwrap_or("") {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "healthz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        _ => &["proxy"],
    }
}

/// What runs something in a container isn't reading, though it may come as a GET (WebSocket).
fn verb(method: &Method, path: &str) -> &'static str {
    let first = path.split('/').find(|part| !part.is_empty());
    if matches!(first, Some("exec" | "attach" | "portForward")) {
        return "create";
    }
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

impl Access {
    /// Asks the API by `client` for rights on the node `node`.
    pub fn new(client: Client, node: &str) -> Arc<Self> {
        Arc::new(Access { client, node: node.into(), known: Mutex::default() })
    }

    /// Lets a request in, or says with which status and words it is refused.
    ///
    /// # Errors
    /// 401 without valid credentials, 403 without the right, 500 when the API can't be asked, each with the words of the answer.
    pub async fn check(
        &self,
        certificate: Option<&User>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), (StatusCode, String)> {
        if certificate.is_some_and(|user| user.groups.iter().any(|group| group == "system:masters")) {
            return Ok(());
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer =
            bearer.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        let key = match (certificate, bearer) {
            (Some(user), _) => format!("certificate {user:?}"),
            // Kept as a hash, so that no memory dump has it.
            (None, Some((_, token))) => pki::sha256_hex(token.trim().as_bytes()),
            (None, None) => return Err((StatusCode::UNAUTHORIZED, "Unauthorized".into())),
        };
        let mut user = certificate.cloned();
        let mut who = String::new();
        for part in parts(path) {
            let action = (verb(method, path), *part);
            let known =
                self.known.lock().get(&(key.clone(), action)).filter(|known| known.until > Instant::now()).cloned();
            let answer = match known {
                Some(answer) => answer,
                None => {
                    let asking = match user.take() {
                        Some(user) => user,
                        None => self.who(bearer.map_or("", |(_, token)| token.trim())).await?,
                    };
                    let allowed = self.may(&asking, action).await?;
                    let answer = self.remember(key.clone(), action, allowed, &asking.name);
                    user = Some(asking);
                    answer
                }
            };
            if answer.allowed {
                return Ok(());
            }
            who = answer.who;
        }
        let (verb, part) = (verb(method, path), parts(path).first().copied().unwrap_or("proxy"));
        let why = format!("Forbidden (user={who}, verb={verb}, resource=nodes, subresource={part})");
        Err((StatusCode::FORBIDDEN, why))
    }

    fn remember(&self, key: String, action: Action, allowed: bool, who: &str) -> Answer {
        let until = Instant::now() + if allowed { AUTHORIZED_TTL } else { UNAUTHORIZED_TTL };
        let answer = Answer { allowed, who: who.into(), until };
        let mut known = self.known.lock();
        if known.len() >= MAX_CACHED_DECISIONS {
            known.clear();
        }
        known.insert((key, action), answer.clone());
        answer
    }

    async fn who(&self, token: &str) -> Result<User, (StatusCode, String)> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.into(), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await;
        let status = answer.map_err(unanswered)?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        let user = user.ok_or((StatusCode::UNAUTHORIZED, "Unauthorized".to_string()))?;
        Ok(User { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() })
    }

    async fn may(&self, user: &User, (verb, part): Action) -> Result<bool, (StatusCode, String)> {
        let attributes = ResourceAttributes {
            verb: Some(verb.into()),
            resource: Some("nodes".into()),
            subresource: Some(part.into()),
            name: Some(self.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = Api::<SubjectAccessReview>::all(self.client.clone()).create(&PostParams::default(), &review).await;
        Ok(answer.map_err(unanswered)?.status.is_some_and(|status| status.allowed))
    }
}

fn unanswered(error: kube::Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("the API can't be asked for this caller's rights: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parts_of_a_node() {
        for (path, expected) in [
            ("/metrics/cadvisor", "metrics"),
            ("/stats/summary", "stats"),
            ("/pods", "pods"),
            ("/exec/a/b/c", "proxy"),
            ("/", "proxy"),
        ] {
            assert_eq!(parts(path)[0], expected, "{path}");
        }
        let get = |path: &str| verb(&Method::GET, path);
        assert_eq!((get("/pods"), get("/exec/a/b/c"), verb(&Method::POST, "/x")), ("get", "create", "create"));
    }
}
