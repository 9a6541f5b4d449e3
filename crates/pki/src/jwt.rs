//! JSON Web Tokens (RFC 7519), and the signing key of service-account tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::ca::{PkiError, public_key};

/// Bytes of an uncompressed point on P-256: a tag and two coordinates (SEC 1, section 2.3.3).
const P256_POINT_BYTES: usize = 65;
/// Accepted difference of clocks.
const LEEWAY_SECONDS: u64 = 10;

/// Signs and verifies service-account tokens (ES256, RFC 7518).
pub struct TokenKey {
    sign: EncodingKey,
    verify: DecodingKey,
    /// The key ID (`kid`) in tokens and in [`TokenKey::jwks`].
    id: String,
    /// The public key as an uncompressed point.
    point: Vec<u8>,
}

impl TokenKey {
    /// Takes a private key on the curve P-256 (PEM).
    ///
    /// # Errors
    /// [`PkiError::Issue`] or [`PkiError::Parse`] when `key_pem` isn't one.
    pub fn new(key_pem: &str) -> Result<Self, PkiError> {
        let refused = |why: &dyn std::fmt::Display| PkiError::Parse(why.to_string());
        let public = public_key(key_pem)?;
        let info = SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes()).map_err(|e| refused(&e))?;
        let point = info.as_ref().len().checked_sub(P256_POINT_BYTES).map(|at| info.as_ref()[at..].to_vec());
        Ok(TokenKey {
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(&info)),
            point: point.ok_or_else(|| refused(&"the key is no key on the curve P-256"))?,
            sign: EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(|e| refused(&e))?,
            verify: DecodingKey::from_ec_pem(public.as_bytes()).map_err(|e| refused(&e))?,
        })
    }

    /// Signs a token with these claims.
    ///
    /// # Errors
    /// [`PkiError::Parse`] when the claims can't be serialized as JSON.
    pub fn issue(&self, claims: &impl Serialize) -> Result<String, PkiError> {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.sign).map_err(|e| PkiError::Parse(e.to_string()))
    }

    /// Verifies a token of `issuer` and returns its claims. With an audience, the token must be for that audience and within its validity
    /// (`nbf`, `exp`); without, as for legacy tokens of secrets, neither is checked.
    ///
    /// # Errors
    /// [`PkiError::Parse`] with the reason, when the token isn't valid.
    pub fn verify<T: DeserializeOwned>(
        &self,
        token: &str,
        issuer: &str,
        audience: Option<&str>,
    ) -> Result<T, PkiError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[issuer]);
        validation.leeway = LEEWAY_SECONDS;
        match audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.validate_nbf = true;
            }
            None => {
                validation.set_required_spec_claims(&["iss", "sub"]);
                validation.validate_exp = false;
                validation.validate_aud = false;
            }
        }
        let read = jsonwebtoken::decode::<T>(token, &self.verify, &validation);
        read.map(|data| data.claims).map_err(|e| PkiError::Parse(e.to_string()))
    }

    /// The JSON Web Key Set (RFC 7517) by which others verify these tokens: `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        // The first byte is the tag of an uncompressed point.
        let (x, y) = self.point[1..].split_at(P256_POINT_BYTES / 2);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "alg": "ES256", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }
}

/// A detached signature of `content` (JWS, RFC 7515, appendix F; HS256), as in the ConfigMap `cluster-info`. `key_id` names the secret.
///
/// # Errors
/// [`PkiError::Parse`] when the library can't sign.
pub fn detached_signature(content: &[u8], key_id: &str, secret: &[u8]) -> Result<String, PkiError> {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": key_id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256)
        .map_err(|e| PkiError::Parse(e.to_string()))?;
    Ok(format!("{header}..{signature}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_for_an_issuer_an_audience_and_a_time() {
        let key = TokenKey::new(&crate::new_key().unwrap()).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = |until: u64| json!({"iss": "here", "sub": "me", "aud": ["them"], "exp": until, "nbf": now});
        let read = |claims: &Value, issuer: &str, audience: Option<&str>| {
            key.verify::<Value>(&key.issue(claims).unwrap(), issuer, audience)
        };
        assert_eq!(read(&claims(now + 60), "here", Some("them")).unwrap()["sub"], "me");
        assert!(read(&claims(now + 60), "there", Some("them")).is_err());
        assert!(read(&claims(now + 60), "here", Some("others")).is_err());
        assert!(read(&claims(now - 60), "here", Some("them")).is_err());
        let eternal = json!({"iss": "here", "sub": "me"});
        assert!(read(&eternal, "here", Some("them")).is_err());
        assert_eq!(read(&eternal, "here", None).unwrap()["sub"], "me");
        let other = TokenKey::new(&crate::new_key().unwrap()).unwrap();
        assert!(other.verify::<Value>(&key.issue(&eternal).unwrap(), "here", None).is_err(), "another key's");
    }

    #[test]
    fn signature_beside_its_content() {
        // Reckoned with Python's hmac.
        let signature = detached_signature(b"content", "abcdef", b"secret").unwrap();
        assert_eq!(signature, "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..yAZ_jTjfjZwk8aPJg1b2r49vnOLBio6z30Xol1IOnAQ");
    }
}
