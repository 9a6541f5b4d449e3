//! Certificates, by the name that a client asks for.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates of the moment.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By host or `*.example.com`; empty for certificates that name no host.
    known: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    /// For names that nobody brought a certificate for.
    fallback: RwLock<Option<Arc<CertifiedKey>>>,
}

/// The certificate and key of a `kubernetes.io/tls` secret.
pub fn read(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let part = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
        bytes.ok_or_else(|| format!("it has no {key}"))
    };
    certified(part("tls.crt")?, part("tls.key")?)
}

fn certified(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if chain.is_empty() {
        return Err("tls.crt has no certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("tls.key: {e}"))?;
    let key = any_supported_type(&key).map_err(|e| format!("tls.key: {e}"))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|e| format!("tls.crt and tls.key don't belong together: {e}"))?;
    Ok(Arc::new(certified))
}

impl Certificates {
    pub fn set(&self, found: Vec<(Vec<String>, Arc<CertifiedKey>)>) {
        let mut known = HashMap::new();
        for (hosts, key) in found {
            let hosts = if hosts.is_empty() { vec![String::new()] } else { hosts };
            for host in hosts {
                known.entry(host.to_ascii_lowercase()).or_insert_with(|| key.clone());
            }
        }
        *self.known.write() = known;
    }

    /// A configuration that asks here for every connection.
    ///
    /// # Errors
    /// When no certificate for unknown names can be made.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, String> {
        let identity = pki::self_signed("timonel-ingress-fallback").map_err(|e| e.to_string())?;
        let fallback = certified(identity.certificate_pem.as_bytes(), identity.key_pem.as_bytes())?;
        *self.fallback.write() = Some(fallback);
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let known = self.known.read();
        let wildcard = || name.split_once('.').and_then(|(_, rest)| known.get(&format!("*.{rest}")));
        let found = known.get(name).or_else(wildcard).or_else(|| known.get(""));
        found.cloned().or_else(|| self.fallback.read().clone())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(&hello.server_name().unwrap_or("").to_ascii_lowercase())
    }
}
