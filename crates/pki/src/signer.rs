//! JSON web tokens (RFC 7519), and the key that signs those of service accounts.

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

/// Bytes of a point on P-256: how it is written, and two coordinates.
const POINT_BYTES: usize = 65;
/// Seconds by which clocks may differ.
const LEEWAY: u64 = 10;

/// Signs tokens and knows them again (ES256).
pub struct TokenKey {
    sign: EncodingKey,
    verify: DecodingKey,
    /// Names the key in tokens and in [`TokenKey::keys`].
    id: String,
    /// The public key's point, without compression.
    point: Vec<u8>,
}

impl TokenKey {
    /// # Errors
    /// When `key_pem` is no private key on the curve P-256.
    pub fn new(key_pem: &str) -> Result<Self, PkiError> {
        let refused = |why: &dyn std::fmt::Display| PkiError::Parse(why.to_string());
        let public = public_key(key_pem)?;
        let info = SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes()).map_err(|e| refused(&e))?;
        let point = info.as_ref().len().checked_sub(POINT_BYTES).map(|at| info.as_ref()[at..].to_vec());
        Ok(TokenKey {
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(&info)),
            point: point.ok_or_else(|| refused(&"the key is no key on the curve P-256"))?,
            sign: EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(|e| refused(&e))?,
            verify: DecodingKey::from_ec_pem(public.as_bytes()).map_err(|e| refused(&e))?,
        })
    }

    /// A token that makes these claims.
    ///
    /// # Errors
    /// When the claims can't be written as JSON.
    pub fn issue(&self, claims: &impl Serialize) -> Result<String, PkiError> {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.sign).map_err(|e| PkiError::Parse(e.to_string()))
    }

    /// The claims of a token that this key signed for `issuer`. With an audience it must be for that one and its time
    /// must be now; without, neither is asked.
    ///
    /// # Errors
    /// Says what is wrong with the token.
    pub fn read<T: DeserializeOwned>(&self, token: &str, issuer: &str, audience: Option<&str>) -> Result<T, PkiError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[issuer]);
        validation.leeway = LEEWAY;
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

    /// The key by which others know these tokens (RFC 7517).
    pub fn keys(&self) -> Value {
        // The first byte says that both coordinates follow.
        let (x, y) = self.point[1..].split_at(POINT_BYTES / 2);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "alg": "ES256", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }
}

/// A signature of `content` that goes beside it (RFC 7515, appendix F), by a secret whose name is `key_id`.
///
/// # Errors
/// When the library can't sign.
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
            key.read::<Value>(&key.issue(claims).unwrap(), issuer, audience)
        };
        assert_eq!(read(&claims(now + 60), "here", Some("them")).unwrap()["sub"], "me");
        assert!(read(&claims(now + 60), "there", Some("them")).is_err());
        assert!(read(&claims(now + 60), "here", Some("others")).is_err());
        assert!(read(&claims(now - 60), "here", Some("them")).is_err());
        let eternal = json!({"iss": "here", "sub": "me"});
        assert!(read(&eternal, "here", Some("them")).is_err());
        assert_eq!(read(&eternal, "here", None).unwrap()["sub"], "me");
        let other = TokenKey::new(&crate::new_key().unwrap()).unwrap();
        assert!(other.read::<Value>(&key.issue(&eternal).unwrap(), "here", None).is_err(), "another key's");
    }

    #[test]
    fn signature_beside_its_content() {
        // Reckoned with Python's hmac.
        let signature = detached_signature(b"content", "abcdef", b"secret").unwrap();
        assert_eq!(signature, "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..yAZ_jTjfjZwk8aPJg1b2r49vnOLBio6z30Xol1IOnAQ");
    }
}
