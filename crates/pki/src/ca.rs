//! The certificate authority.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const CA_DAYS: i64 = 3650;
pub(crate) const LEAF_DAYS: i64 = 365;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("can't read or write {path}")]
    File { path: String, source: std::io::Error },
    #[error("can't make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("not a certificate: {0}")]
    Parse(String),
}

/// A certificate with its private key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Server,
    Client,
}

impl Usage {
    pub(crate) fn purpose(self) -> ExtendedKeyUsagePurpose {
        match self {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `NAME.crt` and `NAME.key` from `folder`, or makes both.
    ///
    /// # Errors
    /// When a file can't be read, written or understood.
    pub fn load_or_create(folder: &Path, name: &str) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        let file_error = |path: &Path| {
            let path = path.display().to_string();
            move |source| PkiError::File { path, source }
        };
        if !cert_path.exists() || !key_path.exists() {
            let (certificate, key) = new_authority(name)?;
            bounded::durable::create(&key_path, key.as_bytes()).map_err(file_error(&key_path))?;
            bounded::durable::create(&cert_path, certificate.as_bytes()).map_err(file_error(&cert_path))?;
        }
        let certificate = bounded::text(&cert_path, bounded::OWN).map_err(file_error(&cert_path))?;
        let key = bounded::text(&key_path, bounded::OWN).map_err(file_error(&key_path))?;
        Self::from_pem(certificate, &key)
    }

    fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, KeyPair::from_pem(key_pem)?)?;
        Ok(Authority { certificate_pem, issuer })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a certificate for `common_name` in `organization` (a group, for clients), valid for a year.
    ///
    /// # Errors
    /// When a name can't stand in a certificate.
    pub fn issue(
        &self,
        common_name: &str,
        organization: Option<&str>,
        usage: &[Usage],
        names: &[String],
    ) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = parameters(common_name, organization, names)?;
        params.extended_key_usages = usage.iter().map(|u| u.purpose()).collect();
        valid_for(&mut params, LEAF_DAYS);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Reads an identity from `folder`, or issues and writes it when it is missing, its key is another's, another authority signed it,
    /// it lacks one of `names`, isn't valid yet, or has used up two thirds of its life.
    ///
    /// # Errors
    /// Those of [`issue`](Self::issue) and of the file system.
    pub fn keep(
        &self,
        folder: &Path,
        file: &str,
        common_name: &str,
        organization: Option<&str>,
        usage: &[Usage],
        names: &[String],
    ) -> Result<Identity, PkiError> {
        let (cert_path, key_path) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        if let (Ok(certificate_pem), Ok(key_pem)) =
            (bounded::text(&cert_path, bounded::OWN), bounded::text(&key_path, bounded::OWN))
            && let Ok(facts) = certificate_facts(&certificate_pem)
            && signed_by(&self.certificate_pem, &certificate_pem)
            && !facts.is_due()
            && belongs(&certificate_pem, &key_pem)
            && names.iter().all(|n| facts.names.contains(n))
        {
            return Ok(Identity { certificate_pem, key_pem });
        }
        let identity = self.issue(common_name, organization, usage, names)?;
        for (path, content) in [(&key_path, &identity.key_pem), (&cert_path, &identity.certificate_pem)] {
            bounded::durable::create(path, content.as_bytes())
                .map_err(|source| PkiError::File { path: path.display().to_string(), source })?;
        }
        Ok(identity)
    }
}

/// Whether an authority's key signed a certificate (both PEM), which a name alone doesn't say.
pub fn signed_by(authority_pem: &str, certificate_pem: &str) -> bool {
    let Some((ca, leaf)) = parse_pem(authority_pem).zip(parse_pem(certificate_pem)) else { return false };
    let (Ok((_, ca)), Ok((_, leaf))) =
        (X509Certificate::from_der(&ca.contents), X509Certificate::from_der(&leaf.contents))
    else {
        return false;
    };
    leaf.verify_signature(Some(ca.public_key())).is_ok()
}

/// Whether a private key is that of a certificate (both PEM). They are two files, and a process may die between writing them.
pub fn belongs(certificate_pem: &str, key_pem: &str) -> bool {
    crate::certified_key(certificate_pem.as_bytes(), key_pem.as_bytes()).is_ok()
}

fn parse_pem(text: &str) -> Option<Pem> {
    Pem::iter_from_buffer(text.as_bytes()).next()?.ok()
}

fn new_authority(name: &str) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let stamp = apimachinery::clock::now().as_second();
    let mut params = parameters(&format!("timonel-{name}@{stamp}"), None, &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, CA_DAYS);
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// A certificate that nobody vouches for, for servers that have no other.
///
/// # Errors
/// When no key can be made.
pub fn self_signed(common_name: &str) -> Result<Identity, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = parameters(common_name, None, &[])?;
    params.extended_key_usages = vec![Usage::Server.purpose()];
    valid_for(&mut params, LEAF_DAYS);
    Ok(Identity { certificate_pem: params.self_signed(&key)?.pem(), key_pem: key.serialize_pem() })
}

fn parameters(common_name: &str, organization: Option<&str>, names: &[String]) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    Ok(params)
}

/// From an hour ago, as clocks differ.
pub(crate) fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = apimachinery::clock::now().as_second();
    let now = OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
}

/// What a certificate says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// DNS names and IP addresses.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

impl CertificateFacts {
    /// Whether it is time for another: two thirds of its life are over, or it isn't valid yet, as it was made while a clock was ahead.
    pub fn is_due(&self) -> bool {
        let now = apimachinery::clock::now().as_second();
        let life = self.not_after.saturating_sub(self.not_before);
        now < self.not_before || now > self.not_before.saturating_add(life / 3 * 2)
    }

    /// Whether nobody takes it any more, or yet.
    pub fn is_invalid(&self) -> bool {
        let now = apimachinery::clock::now().as_second();
        now < self.not_before || now > self.not_after
    }
}

/// # Errors
/// When `pem` holds no certificate.
pub fn certificate_facts(pem: &str) -> Result<CertificateFacts, PkiError> {
    let pem = parse_pem(pem).ok_or_else(|| PkiError::Parse("no PEM block".into()))?;
    certificate_names(&pem.contents)
}

/// Like [`certificate_facts`], from DER.
///
/// # Errors
/// When `der` is no certificate.
pub fn certificate_names(der: &[u8]) -> Result<CertificateFacts, PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| PkiError::Parse(e.to_string()))?;
    let subject = certificate.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or("").to_string();
    let mut names = Vec::new();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        for name in &alternatives.value.general_names {
            match name {
                x509_parser::extensions::GeneralName::DNSName(n) => names.push((*n).to_string()),
                x509_parser::extensions::GeneralName::IPAddress(raw) => {
                    names.extend(address(raw).map(|address| address.to_string()))
                }
                _ => {}
            }
        }
    }
    Ok(CertificateFacts {
        common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        names,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

pub(crate) fn address(raw: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(raw) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(raw).ok().map(IpAddr::from)
}

/// A new private key as PEM (P-256, PKCS #8).
///
/// # Errors
/// When the system's random generator fails.
pub fn new_key() -> Result<String, PkiError> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// The public half of a private key, as PEM.
///
/// # Errors
/// When the key is malformed.
pub fn public_key(key_pem: &str) -> Result<String, PkiError> {
    Ok(KeyPair::from_pem(key_pem)?.public_key_pem())
}

/// A certificate signing request (PEM) for `key_pem`.
///
/// # Errors
/// When the key or a name is malformed.
pub fn request(key_pem: &str, common_name: &str, organization: &str, names: &[String]) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key_pem)?;
    Ok(parameters(common_name, Some(organization), names)?.serialize_request(&key)?.pem()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_issues_keeps_and_signs() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path(), "ca").unwrap();
        let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
        let keep = |names: &[String]| ca.keep(dir.path(), "api", "api", None, &[Usage::Server], names).unwrap();
        let first = keep(&names);
        assert_eq!(keep(&names).certificate_pem, first.certificate_pem, "a good certificate is kept");
        let more = vec!["localhost".to_string(), "10.0.0.1".to_string()];
        assert_ne!(keep(&more).certificate_pem, first.certificate_pem, "a new name needs a new certificate");

        let again = Authority::load_or_create(dir.path(), "ca").unwrap();
        assert_eq!(again.certificate_pem(), ca.certificate_pem());
        let other = tempfile::tempdir().unwrap();
        let stranger = Authority::load_or_create(other.path(), "ca").unwrap();
        assert!(!signed_by(stranger.certificate_pem(), &first.certificate_pem));
        assert!(signed_by(ca.certificate_pem(), &first.certificate_pem));
        // A key of somebody else's beside the certificate.
        let kept = keep(&more);
        std::fs::write(dir.path().join("api.key"), new_key().unwrap()).unwrap();
        let mended = keep(&more);
        assert_ne!(mended.certificate_pem, kept.certificate_pem);
        assert!(belongs(&mended.certificate_pem, &mended.key_pem));
    }
}
