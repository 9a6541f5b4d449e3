//! Certificates that are replaced while they are in use.
//!
//! A [`Rotating`] is what listeners and clients show in their handshakes: each new connection gets the certificate of that moment. A
//! [`Kept`] is one that this process issues itself, by an authority whose key it has: looked at now and then, it is renewed once two
//! thirds of its life are over, as upstream's kubelet renews its own.

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

/// A certificate with its key, which may be replaced.
pub struct Rotating {
    /// Shown after the certificate itself.
    chain: Vec<CertificateDer<'static>>,
    current: RwLock<(Identity, Arc<CertifiedKey>)>,
}

impl fmt::Debug for Rotating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotating").finish_non_exhaustive()
    }
}

impl Rotating {
    /// `chain` (PEM) is shown after the certificate.
    ///
    /// # Errors
    /// When one can't be read, or certificate and key don't belong together.
    pub fn new(identity: Identity, chain: &str) -> Result<Arc<Self>, PkiError> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|e| PkiError::Parse(e.to_string()))?;
        let certified = certified(&identity, &chain)?;
        Ok(Arc::new(Rotating { chain, current: RwLock::new((identity, certified)) }))
    }

    pub fn identity(&self) -> Identity {
        self.current.read().0.clone()
    }

    /// New connections get this one from now on.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); then the one before stays.
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

impl ResolvesServerCert for Rotating {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().1.clone())
    }
}

impl ResolvesClientCert for Rotating {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().1.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a certificate that an authority here issues is to say, and where it is kept.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub folder: PathBuf,
    /// Without its ending.
    pub file: &'static str,
    pub common_name: &'static str,
    pub organization: Option<&'static str>,
    pub usage: Usage,
    pub names: Vec<String>,
    /// Whether the authority's own certificate is shown after it.
    pub with_chain: bool,
}

/// A certificate that an authority here issues again when it is time.
#[derive(Clone)]
pub struct Kept {
    authority: Arc<Authority>,
    wanted: Wanted,
    pub rotating: Arc<Rotating>,
}

impl Kept {
    /// Reads it, or issues and writes it.
    ///
    /// # Errors
    /// Those of [`Authority::keep`].
    pub fn new(authority: &Arc<Authority>, wanted: Wanted) -> Result<Self, PkiError> {
        let chain = if wanted.with_chain { authority.certificate_pem() } else { "" };
        let rotating = Rotating::new(identity(authority, &wanted)?, chain)?;
        Ok(Kept { authority: authority.clone(), wanted, rotating })
    }

    /// Renews it if it is time, and says whether.
    ///
    /// # Errors
    /// Those of [`Authority::keep`]; then the one before stays in use.
    pub fn renew(&self) -> Result<bool, PkiError> {
        let now = identity(&self.authority, &self.wanted)?;
        if now.certificate_pem == self.rotating.identity().certificate_pem {
            return Ok(false);
        }
        self.rotating.replace(now)?;
        Ok(true)
    }

    pub fn file(&self) -> &'static str {
        self.wanted.file
    }
}

fn identity(authority: &Authority, wanted: &Wanted) -> Result<Identity, PkiError> {
    let Wanted { folder, file, common_name, organization, usage, names, .. } = wanted;
    authority.keep(folder, file, common_name, *organization, &[*usage], names)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use apimachinery::clock;

    use super::*;
    use crate::certificate_facts;

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
        let wanted = Wanted {
            folder: dir.path().into(),
            file: "apiserver",
            common_name: "kube-apiserver",
            organization: None,
            usage: Usage::Server,
            names: vec!["localhost".into()],
            with_chain: true,
        };
        let kept = Kept::new(&authority, wanted).unwrap();
        let served = || kept.rotating.current.read().1.cert.clone();
        let first = served();
        assert_eq!(first.len(), 2, "with the authority's own");
        for (day, renewed) in
            [(1, false), (240, false), (250, true), (260, false), (500, true), (10, true), (20, false)]
        {
            DAYS.set(day);
            assert_eq!(kept.renew().unwrap(), renewed, "day {day}");
            let facts = certificate_facts(&kept.rotating.identity().certificate_pem).unwrap();
            assert!(!facts.is_due() && !facts.is_invalid(), "day {day}: {facts:?}");
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
