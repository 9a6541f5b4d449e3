//! Service-account tokens: signed JWTs, bound to a service account and perhaps to a pod, secret or node (KEP-1205,
//! KEP-4193); and those that controllers write into Secrets of the type `kubernetes.io/service-account-token`.

use std::sync::Arc;

use api::{Kind, kinds};
use apimachinery::ObjectExt as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki::TokenKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::User;
use super::used_tokens::{INVALID_SINCE, UsedTokens};
use crate::ApiServer;
use crate::registry::object_key;

/// A reference to an object.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub uid: String,
}

/// What a token is bound to (the claim `kubernetes.io`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    pub serviceaccount: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
    /// The node of the pod, or that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
}

/// The claims of a token, as upstream writes them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

impl Claims {
    /// The user of the token.
    ///
    /// # Errors
    /// Why the token isn't valid.
    pub fn user(self) -> User {
        let bound = self.kubernetes;
        let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
        let mut add = |key: &str, value: String| {
            user.extra.push((format!("authentication.kubernetes.io/{key}"), vec![value]));
        };
        add("credential-id", format!("JTI={}", self.jti));
        for (what, object) in [("node", bound.node), ("pod", bound.pod)] {
            if let Some(object) = object {
                add(&format!("{what}-name"), object.name);
                add(&format!("{what}-uid"), object.uid);
            }
        }
        user
    }
}

/// The issuer of tokens that controllers wrote into Secrets: they are good as long as the Secret is.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// What a token in a Secret claims, as upstream writes it.
#[derive(Debug, Deserialize)]
struct Legacy {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

/// Issues and verifies service account tokens.
pub struct Tokens {
    key: Arc<TokenKey>,
    /// Those of Secrets that are used.
    pub used: Arc<UsedTokens>,
}

impl Tokens {
    /// Tokens that `key` signs.
    pub fn new(key: Arc<TokenKey>) -> Self {
        Tokens { key, used: Arc::default() }
    }

    /// The issuer, and the audience that tokens have unless another is asked for.
    pub fn issuer(server: &ApiServer) -> String {
        format!("https://kubernetes.default.svc.{}", server.config.cluster_domain)
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When the key can't sign.
    pub fn issue(&self, claims: &Claims) -> Result<String, String> {
        self.key.issue(claims).map_err(|e| e.to_string())
    }

    /// The keys at `/openid/v1/jwks`.
    pub fn keys(&self) -> Value {
        self.key.jwks()
    }

    /// The document at `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0).
    pub fn configuration(server: &ApiServer) -> Value {
        let (address, port) = server.config.advertise;
        let authority = apimachinery::authority(address, port);
        json!({"issuer": Self::issuer(server), "jwks_uri": format!("https://{authority}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]})
    }

    /// Checks signature, time and audience, and that what the token is bound to still exists.
    ///
    /// # Errors
    /// Why the token isn't valid.
    pub fn verify(&self, server: &ApiServer, token: &str, audience: &str) -> Result<Claims, String> {
        let claims: Claims =
            self.key.verify(token, &Self::issuer(server), Some(audience)).map_err(|e| e.to_string())?;
        let bound = &claims.kubernetes;
        let exists = |kind, object: &Named| exists(server, kind, &bound.namespace, object).map(|_| ());
        exists(kinds::SERVICE_ACCOUNTS, &bound.serviceaccount)?;
        if let Some(pod) = &bound.pod {
            exists(kinds::PODS, pod)?;
        }
        if let (Some(node), None) = (&bound.node, &bound.pod) {
            exists(kinds::NODES, node)?;
        }
        if let Some(secret) = &bound.secret {
            exists(kinds::SECRETS, secret)?;
        }
        Ok(claims)
    }

    /// The user of a token: of a TokenRequest, or of a Secret.
    ///
    /// # Errors
    /// Why the token isn't valid.
    pub fn user(&self, server: &ApiServer, token: &str) -> Result<User, String> {
        match self.key.verify(token, LEGACY_ISSUER, None) {
            Ok(legacy) => by_secret(server, token, &legacy),
            Err(_) => Ok(self.verify(server, token, &Self::issuer(server))?.user()),
        }
    }
}

/// The user of a token that a Secret holds, if the Secret still holds it and the account is still the same.
fn by_secret(server: &ApiServer, token: &str, claims: &Legacy) -> Result<User, String> {
    let Legacy { namespace, secret, account, uid } = claims;
    let entry = server.cache.of(kinds::SECRETS).get(&object_key(namespace, secret));
    let kept = entry.ok_or_else(|| format!("secret {namespace}/{secret} is gone"))?.parse();
    let held = STANDARD.decode(kept.str_at(&["data", "token"])).unwrap_or_default();
    if kept.is_deleting() || !bool::from(held.ct_eq(token.as_bytes())) {
        return Err(format!("secret {namespace}/{secret} doesn't hold this token any more"));
    }
    let invalid = kept.str_at(&["metadata", "labels", INVALID_SINCE]);
    if !invalid.is_empty() {
        return Err(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the \
             TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily \
             allow use of this token"
        ));
    }
    let named = Named { name: account.clone(), uid: uid.clone() };
    if exists(server, kinds::SERVICE_ACCOUNTS, namespace, &named)?.is_deleting() {
        return Err(format!("service account {namespace}/{account} is being deleted"));
    }
    server.tokens.used.note(&kept);
    Ok(User::service_account(namespace, account, uid))
}

/// What a token is bound to, if it is still the same.
fn exists(server: &ApiServer, kind: &'static Kind, namespace: &str, object: &Named) -> Result<Value, String> {
    let resource = kind.plural();
    let key = object_key(if kind.namespaced { namespace } else { "" }, &object.name);
    let found = server.cache.of(kind).get(&key).ok_or_else(|| format!("{resource} {key} is gone"))?.parse();
    if found.uid() == object.uid { Ok(found) } else { Err(format!("{resource} {key} is another one now")) }
}
