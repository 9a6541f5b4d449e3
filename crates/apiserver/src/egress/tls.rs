//! Clients' side of TLS.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_rustls::TlsConnector;

use crate::Config;

/// The client certificates of this server.
pub struct Clients {
    /// To kubelets, which know its certificate.
    pub kubelets: TlsConnector,
    /// For further API servers.
    pub front_proxy: Arc<pki::RotatingCertificate>,
}

impl Clients {
    /// The clients that a configuration describes.
    ///
    /// # Errors
    /// When the authority or a key is malformed.
    pub fn new(config: &Config) -> Result<Self, String> {
        let kubelets = connector(Some(config.authority.certificate_pem()), Some(&config.kubelet_client))?;
        Ok(Clients { kubelets, front_proxy: config.front_proxy.clone() })
    }
}

/// Connects by TLS to servers whose certificate one of `authorities` (PEM) signed, as `identity`.
///
/// # Errors
/// When a certificate is malformed.
pub fn connector(
    authorities: Option<&str>,
    identity: Option<&Arc<pki::RotatingCertificate>>,
) -> Result<TlsConnector, String> {
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
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::InsecureSkipVerify::new(provider))),
    };
    let mut tls = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.clone()),
        None => builder.with_no_client_auth(),
    };
    // A resumed session would be that of the certificate before its rotation.
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(tls)))
}
