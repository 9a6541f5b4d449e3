//! Certificates by server name (SNI, RFC 6066).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The current certificates of a port.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By host or `*.example.com`; the empty name for secrets that list no host.
    known: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    /// A self-signed certificate for all other names.
    fallback: RwLock<Option<Arc<CertifiedKey>>>,
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

    /// A TLS configuration that resolves certificates here, for each connection.
    ///
    /// # Errors
    /// When the self-signed certificate can't be made.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, String> {
        let identity = pki::self_signed("timonel-ingress-fallback").map_err(|e| e.to_string())?;
        let fallback = pki::certified_key(identity.certificate_pem.as_bytes(), identity.key_pem.as_bytes())?;
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
