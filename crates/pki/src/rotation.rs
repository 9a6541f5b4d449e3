//! Rotation of certificates that are in use.
//!
//! A [`RotatingCertificate`] resolves the certificate of listeners and clients in TLS handshakes: each new connection gets the current one. A
//! [`ManagedCertificate`] is one that this process issues itself, with the authority's key: it is renewed once two thirds of its validity
//! are over, about as upstream's kubelet does (`nextRotationDeadline` in client-go/util/certificate).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::{Authority, Identity, PkiError, Usage, certified_key};

/// A certificate with its key, which can be replaced at run time.
pub struct RotatingCertificate {
    /// Certificates sent after it.
    chain: Vec<CertificateDer<'static>>,
    current: RwLock<(Identity, Arc<CertifiedKey>)>,
}

impl fmt::Debug for RotatingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotating").finish_non_exhaustive()
    }
}

impl RotatingCertificate {
    /// `chain` (PEM) is sent after the certificate.
    ///
    /// # Errors
    /// [`PkiError::Parse`] when one can't be parsed, or certificate and key don't belong together.
    pub fn new(identity: Identity, chain: &str) -> Result<Arc<Self>, PkiError> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|e| PkiError::Parse(e.to_string()))?;
        let certified = certified(&identity, &chain)?;
        Ok(Arc::new(RotatingCertificate { chain, current: RwLock::new((identity, certified)) }))
    }

    /// The current certificate and key.
    pub fn identity(&self) -> Identity {
        self.current.read().0.clone()
    }

    /// Replaces the certificate for new connections.
    ///
    /// # Errors
    /// As [`new`](Self::new); the current one stays in use then.
    pub fn replace(&self, identity: Identity) -> Result<(), PkiError> {
        let certified = certified(&identity, &self.chain)?;
        *self.current.write() = (identity, certified);
        Ok(())
    }
}

fn certified(identity: &Identity, chain: &[CertificateDer<'static>]) -> Result<Arc<CertifiedKey>, PkiError> {
    let own = certified_key(identity.certificate_pem.as_bytes(), identity.key_pem.as_bytes());
    let own = own.map_err(PkiError::Parse)?;
    let certificates = own.cert.iter().chain(chain).cloned().collect();
    Ok(Arc::new(CertifiedKey::new(certificates, own.key.clone())))
}

impl ResolvesServerCert for RotatingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().1.clone())
    }
}

impl ResolvesClientCert for RotatingCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().1.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Content and files of a certificate that this process issues.
#[derive(Debug, Clone)]
pub struct CertificateSpec {
    /// Folder of its files.
    pub folder: PathBuf,
    /// Name of the files, without `.crt` and `.key`.
    pub file: &'static str,
    /// The subject's common name.
    pub common_name: &'static str,
    /// The subject's organization.
    pub organization: Option<&'static str>,
    /// Extended key usage.
    pub usage: Usage,
    /// Subject alternative names.
    pub names: Vec<String>,
    /// Whether the authority's own certificate is sent after it.
    pub with_chain: bool,
}

/// A certificate that this process issues and renews.
#[derive(Clone)]
pub struct ManagedCertificate {
    authority: Arc<Authority>,
    spec: CertificateSpec,
    /// The certificate in use.
    pub rotating: Arc<RotatingCertificate>,
}

impl ManagedCertificate {
    /// Loads it from its files, or issues it.
    ///
    /// # Errors
    /// As [`Authority::load_or_issue`].
    pub fn new(authority: &Arc<Authority>, spec: CertificateSpec) -> Result<Self, PkiError> {
        let chain = if spec.with_chain { authority.certificate_pem() } else { "" };
        let rotating = RotatingCertificate::new(identity(authority, &spec)?, chain)?;
        Ok(ManagedCertificate { authority: authority.clone(), spec, rotating })
    }

    /// Renews it if it is due; returns whether it was.
    ///
    /// # Errors
    /// As [`Authority::load_or_issue`]; the current one stays in use then.
    pub fn renew(&self) -> Result<bool, PkiError> {
        let now = identity(&self.authority, &self.spec)?;
        if now.certificate_pem == self.rotating.identity().certificate_pem {
            return Ok(false);
        }
        self.rotating.replace(now)?;
        Ok(true)
    }

    /// Name of its files, without `.crt` and `.key`.
    pub fn file(&self) -> &'static str {
        self.spec.file
    }
}

fn identity(authority: &Authority, spec: &CertificateSpec) -> Result<Identity, PkiError> {
    let CertificateSpec { folder, file, common_name, organization, usage, names, .. } = spec;
    authority.load_or_issue(folder, file, common_name, *organization, &[*usage], names)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use apimachinery::clock;

    use super::*;
    use crate::parse_certificate;

    thread_local! {
        static DAYS: Cell<i64> = const { Cell::new(0) };
    }

    fn time_of_test() -> jiff::Timestamp {
        // 2026-01-01
        jiff::Timestamp::from_second(1_767_225_600 + DAYS.get() * 86400).unwrap()
    }

    #[test]
    fn certificates_are_renewed_while_they_are_used_and_when_the_clock_was_wrong() {
        clock::set_source(time_of_test);
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::load_or_create(dir.path(), "ca").unwrap());
        let spec = CertificateSpec {
            folder: dir.path().into(),
            file: "apiserver",
            common_name: "kube-apiserver",
            organization: None,
            usage: Usage::Server,
            names: vec!["localhost".into()],
            with_chain: true,
        };
        let kept = ManagedCertificate::new(&authority, spec).unwrap();
        let served = || kept.rotating.current.read().1.cert.clone();
        let first = served();
        assert_eq!(first.len(), 2, "with the authority's own");
        for (day, renewed) in
            [(1, false), (240, false), (250, true), (260, false), (500, true), (10, true), (20, false)]
        {
            DAYS.set(day);
            assert_eq!(kept.renew().unwrap(), renewed, "day {day}");
            let info = parse_certificate(&kept.rotating.identity().certificate_pem).unwrap();
            assert!(!info.needs_rotation() && !info.is_outside_validity(), "day {day}: {info:?}");
        }
        assert_ne!(first[0], served()[0]);
        // What is on the disk is what is served.
        let file = std::fs::read_to_string(dir.path().join("apiserver.crt")).unwrap();
        assert_eq!(file, kept.rotating.identity().certificate_pem);
        // A key that isn't the certificate's is no identity, and what was there before stays.
        let stranger = Identity { key_pem: crate::new_key().unwrap(), ..kept.rotating.identity() };
        assert!(kept.rotating.replace(stranger).is_err());
        assert_eq!(file, kept.rotating.identity().certificate_pem);
    }
}
