//! Service-account tokens: signed JWTs, bound to a service account and perhaps to a pod (KEP-1205).

use apimachinery::ObjectExt as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::User;
use crate::ApiServer;
use crate::cache::object_key;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    pub serviceaccount: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
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

pub struct Tokens {
    sign: EncodingKey,
    verify: DecodingKey,
}

impl Tokens {
    pub fn new(key_pem: &str) -> Result<Self, String> {
        let public = pki::public_key(key_pem).map_err(|e| e.to_string())?;
        Ok(Tokens {
            sign: EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(|e| e.to_string())?,
            verify: DecodingKey::from_ec_pem(public.as_bytes()).map_err(|e| e.to_string())?,
        })
    }

    /// The issuer, and the audience that tokens have unless another is asked for.
    pub fn issuer(server: &ApiServer) -> String {
        format!("https://kubernetes.default.svc.{}", server.config.cluster_domain)
    }

    pub fn issue(&self, claims: &Claims) -> Result<String, String> {
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &self.sign).map_err(|e| e.to_string())
    }

    /// Checks signature, time and audience, and that what the token is bound to still exists.
    pub fn verify(&self, server: &ApiServer, token: &str, audience: &str) -> Result<Claims, String> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[Self::issuer(server)]);
        validation.validate_nbf = true;
        validation.leeway = 10;
        let claims =
            jsonwebtoken::decode::<Claims>(token, &self.verify, &validation).map_err(|e| e.to_string())?.claims;
        let bound = &claims.kubernetes;
        let exists = |resource: &str, object: &Named| -> Result<(), String> {
            let key = object_key(&bound.namespace, &object.name);
            let entry = server.cache.named(resource).get(&key).ok_or_else(|| format!("{resource} {key} is gone"))?;
            let found: Value = entry.parse();
            if found.uid() == object.uid { Ok(()) } else { Err(format!("{resource} {key} is another one now")) }
        };
        exists("serviceaccounts", &bound.serviceaccount)?;
        if let Some(pod) = &bound.pod {
            exists("pods", pod)?;
        }
        if let Some(secret) = &bound.secret {
            exists("secrets", secret)?;
        }
        Ok(claims)
    }

    pub fn user(&self, server: &ApiServer, token: &str) -> Result<User, String> {
        let claims = self.verify(server, token, &Self::issuer(server))?;
        let bound = claims.kubernetes;
        let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
        if let Some(pod) = bound.pod {
            user.extra.push(("authentication.kubernetes.io/pod-name".into(), vec![pod.name]));
            user.extra.push(("authentication.kubernetes.io/pod-uid".into(), vec![pod.uid]));
        }
        Ok(user)
    }
}
