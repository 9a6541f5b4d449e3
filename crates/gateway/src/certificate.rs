//! Certificates that are served to clients outside.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::sign::CertifiedKey;

/// The certificate and key of a `kubernetes.io/tls` secret.
///
/// # Errors
/// When one is missing or can't be read, or they don't belong together.
pub fn read(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let part = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
        bytes.ok_or_else(|| format!("it has no {key}"))
    };
    pki::certified_key(part("tls.crt")?, part("tls.key")?)
}
