//! Server certificates from `kubernetes.io/tls` secrets.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::sign::CertifiedKey;

/// Parses the certificate and key of a `kubernetes.io/tls` secret.
///
/// # Errors
/// When one is missing or can't be parsed, or they don't belong together; the text says which.
pub fn from_secret(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let part = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
        bytes.ok_or_else(|| format!("it has no {key}"))
    };
    pki::certified_key(part("tls.crt")?, part("tls.key")?)
}
