//! Clients' side of TLS.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_rustls::TlsConnector;

use crate::Config;

/// How this server identifies itself to others.
pub struct Clients {
    /// To kubelets, which know its certificate.
    pub kubelets: TlsConnector,
    /// As whom further API servers see this one.
    pub front_proxy: Arc<pki::Rotating>,
}

impl Clients {
    pub fn new(config: &Config) -> Result<Self, String> {
        let kubelets = connector(Some(config.authority.certificate_pem()), Some(&config.kubelet_client))?;
        Ok(Clients { kubelets, front_proxy: config.front_proxy.clone() })
    }
}

/// Connects by TLS to servers whose certificate one of `authorities` (PEM) signed, as `identity`.
pub fn connector(authorities: Option<&str>, identity: Option<&Arc<pki::Rotating>>) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match authorities {
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::Anybody::new(provider))),
    };
    let mut tls = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.clone()),
        None => builder.with_no_client_auth(),
    };
    // A session that is resumed is that of the certificate of before.
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(tls)))
}
