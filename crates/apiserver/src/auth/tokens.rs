//! Service-account tokens: signed JWTs, bound to a service account and perhaps to a pod (KEP-1205).

use apimachinery::ObjectExt as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

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
    /// Whose token it is.
    pub fn user(self) -> User {
        let bound = self.kubernetes;
        let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
        let mut tell = |key: &str, value: String| {
            user.extra.push((format!("authentication.kubernetes.io/{key}"), vec![value]));
        };
        tell("credential-id", format!("JTI={}", self.jti));
        for (what, object) in [("node", bound.node), ("pod", bound.pod)] {
            if let Some(object) = object {
                tell(&format!("{what}-name"), object.name);
                tell(&format!("{what}-uid"), object.uid);
            }
        }
        user
    }
}

/// Bytes of a point on P-256: how it is written, and two coordinates.
const POINT: usize = 65;

pub struct Tokens {
    sign: EncodingKey,
    verify: DecodingKey,
    /// Names the key in tokens and in [`Tokens::keys`].
    key_id: String,
    /// The public key's point, without compression.
    point: Vec<u8>,
}

impl Tokens {
    pub fn new(key_pem: &str) -> Result<Self, String> {
        let public = pki::public_key(key_pem).map_err(|e| e.to_string())?;
        let info = SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes()).map_err(|e| e.to_string())?;
        let point = info.as_ref().len().checked_sub(POINT).map(|at| info.as_ref()[at..].to_vec());
        Ok(Tokens {
            key_id: URL_SAFE_NO_PAD.encode(Sha256::digest(&info)),
            point: point.ok_or("the key is no key on the curve P-256")?,
            sign: EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(|e| e.to_string())?,
            verify: DecodingKey::from_ec_pem(public.as_bytes()).map_err(|e| e.to_string())?,
        })
    }

    /// The issuer, and the audience that tokens have unless another is asked for.
    pub fn issuer(server: &ApiServer) -> String {
        format!("https://kubernetes.default.svc.{}", server.config.cluster_domain)
    }

    pub fn issue(&self, claims: &Claims) -> Result<String, String> {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.sign).map_err(|e| e.to_string())
    }

    /// The keys by which others know these tokens (RFC 7517), as `/openid/v1/jwks` tells them.
    pub fn keys(&self) -> Value {
        // The first byte says that both coordinates follow.
        let (x, y) = self.point[1..].split_at(POINT / 2);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "alg": "ES256", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    /// What `/.well-known/openid-configuration` tells of the issuer (OpenID Connect Discovery 1.0).
    pub fn configuration(server: &ApiServer) -> Value {
        let (address, port) = server.config.advertise;
        json!({"issuer": Self::issuer(server), "jwks_uri": format!("https://{address}:{port}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]})
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
        if let (Some(node), None) = (&bound.node, &bound.pod) {
            let found =
                server.cache.named("nodes").get(&node.name).ok_or_else(|| format!("node {} is gone", node.name))?;
            if found.parse().uid() != node.uid {
                return Err(format!("node {} is another one now", node.name));
            }
        }
        if let Some(secret) = &bound.secret {
            exists("secrets", secret)?;
        }
        Ok(claims)
    }

    pub fn user(&self, server: &ApiServer, token: &str) -> Result<User, String> {
        Ok(self.verify(server, token, &Self::issuer(server))?.user())
    }
}
