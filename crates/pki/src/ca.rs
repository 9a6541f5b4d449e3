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

/// Lifetimes of certificates, in days.
const CA_DAYS: i64 = 3650;
pub(crate) const LEAF_DAYS: i64 = 365;

/// Why a key or certificate can't be read or made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the certificate or its key.
    #[error("can't read or write {path}")]
    File {
        /// The file.
        path: String,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// A key or name can't stand in a certificate, or there is no randomness for a key.
    #[error("can't issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The input isn't what it should be; the text says why.
    #[error("not a certificate: {0}")]
    Parse(String),
}

/// A certificate with its private key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, without its chain.
    pub certificate_pem: String,
    /// The private key (PKCS #8).
    pub key_pem: String,
}

/// Extended key usage (RFC 5280, section 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// `serverAuth`.
    Server,
    /// `clientAuth`.
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

/// A certificate authority: its certificate and its key.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `NAME.crt` and `NAME.key` from `folder`, or generates both.
    ///
    /// # Errors
    /// [`PkiError::File`] when a file can't be read or written, [`PkiError::Issue`] when its content is malformed.
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
        let certificate = bounded::text(&cert_path, bounded::MAX_OWN_FILE_BYTES).map_err(file_error(&cert_path))?;
        let key = bounded::text(&key_path, bounded::MAX_OWN_FILE_BYTES).map_err(file_error(&key_path))?;
        Self::from_pem(certificate, &key)
    }

    fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, KeyPair::from_pem(key_pem)?)?;
        Ok(Authority { certificate_pem, issuer })
    }

    /// The authority's own certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a certificate with the subject `common_name` and `organization` (a client's user and group) and the subject alternative
    /// `names`, valid for a year.
    ///
    /// # Errors
    /// [`PkiError::Issue`] when a name can't stand in a certificate.
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

    /// Loads a certificate and key from `folder`, or issues and writes new ones if they are missing, don't belong together, were signed by
    /// another authority, lack one of `names`, or are due for rotation ([`CertificateInfo::needs_rotation`]).
    ///
    /// # Errors
    /// As [`issue`](Self::issue), and [`PkiError::File`] when a file can't be written.
    pub fn load_or_issue(
        &self,
        folder: &Path,
        file: &str,
        common_name: &str,
        organization: Option<&str>,
        usage: &[Usage],
        names: &[String],
    ) -> Result<Identity, PkiError> {
        let (cert_path, key_path) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        if let (Ok(certificate_pem), Ok(key_pem)) = (
            bounded::text(&cert_path, bounded::MAX_OWN_FILE_BYTES),
            bounded::text(&key_path, bounded::MAX_OWN_FILE_BYTES),
        ) && let Ok(info) = parse_certificate(&certificate_pem)
            && is_signed_by(&self.certificate_pem, &certificate_pem)
            && !info.needs_rotation()
            && key_matches(&certificate_pem, &key_pem)
            && names.iter().all(|n| info.names.contains(n))
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

/// Whether an authority's key signed a certificate (both PEM). The issuer's name alone doesn't prove it.
pub fn is_signed_by(authority_pem: &str, certificate_pem: &str) -> bool {
    let Some((ca, leaf)) = parse_pem(authority_pem).zip(parse_pem(certificate_pem)) else { return false };
    let (Ok((_, ca)), Ok((_, leaf))) =
        (X509Certificate::from_der(&ca.contents), X509Certificate::from_der(&leaf.contents))
    else {
        return false;
    };
    leaf.verify_signature(Some(ca.public_key())).is_ok()
}

/// Whether a private key is that of a certificate (both PEM). They are two files, and a process may crash between writing them.
pub fn key_matches(certificate_pem: &str, key_pem: &str) -> bool {
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

/// A self-signed server certificate, for a kubelet that has no signed one yet.
///
/// # Errors
/// [`PkiError::Issue`] when no key can be generated or the name can't stand in a certificate.
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

/// Sets the validity, from an hour ago, as clocks of machines differ.
pub(crate) fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = apimachinery::clock::now().as_second();
    let now = OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
}

/// Subject, subject alternative names and validity of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The subject's common name: the user, of clients.
    pub common_name: String,
    /// The subject's organizations: the groups, of clients.
    pub organizations: Vec<String>,
    /// DNS names and IP addresses of the subject alternative name.
    pub names: Vec<String>,
    /// Start of the validity, as Unix time in seconds.
    pub not_before: i64,
    /// End of the validity, as Unix time in seconds.
    pub not_after: i64,
}

impl CertificateInfo {
    /// Whether it should be replaced: two thirds of its validity are over, or it isn't valid yet, since it was made while a clock was ahead.
    pub fn needs_rotation(&self) -> bool {
        let now = apimachinery::clock::now().as_second();
        let life = self.not_after.saturating_sub(self.not_before);
        now < self.not_before || now > self.not_before.saturating_add(life / 3 * 2)
    }

    /// Whether it isn't valid yet, or has expired.
    pub fn is_outside_validity(&self) -> bool {
        let now = apimachinery::clock::now().as_second();
        now < self.not_before || now > self.not_after
    }
}

/// Reads a certificate (PEM).
///
/// # Errors
/// [`PkiError::Parse`] when `pem` has no certificate.
pub fn parse_certificate(pem: &str) -> Result<CertificateInfo, PkiError> {
    let pem = parse_pem(pem).ok_or_else(|| PkiError::Parse("no PEM block".into()))?;
    parse_certificate_der(&pem.contents)
}

/// [`parse_certificate`] of DER.
///
/// # Errors
/// [`PkiError::Parse`] when `der` isn't a certificate.
pub fn parse_certificate_der(der: &[u8]) -> Result<CertificateInfo, PkiError> {
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
    Ok(CertificateInfo {
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
/// [`PkiError::Issue`] when the system's random generator fails.
pub fn new_key() -> Result<String, PkiError> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// The public half of a private key, as PEM.
///
/// # Errors
/// [`PkiError::Issue`] when the key is malformed.
pub fn public_key(key_pem: &str) -> Result<String, PkiError> {
    Ok(KeyPair::from_pem(key_pem)?.public_key_pem())
}

/// A certificate signing request (PKCS #10, PEM) for `key_pem`.
///
/// # Errors
/// [`PkiError::Issue`] when the key or a name is malformed.
pub fn create_certificate_request(
    key_pem: &str,
    common_name: &str,
    organization: &str,
    names: &[String],
) -> Result<String, PkiError> {
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
        let load_or_issue =
            |names: &[String]| ca.load_or_issue(dir.path(), "api", "api", None, &[Usage::Server], names).unwrap();
        let first = load_or_issue(&names);
        assert_eq!(load_or_issue(&names).certificate_pem, first.certificate_pem, "a good certificate is kept");
        let more = vec!["localhost".to_string(), "10.0.0.1".to_string()];
        assert_ne!(load_or_issue(&more).certificate_pem, first.certificate_pem, "a new name needs a new certificate");

        let again = Authority::load_or_create(dir.path(), "ca").unwrap();
        assert_eq!(again.certificate_pem(), ca.certificate_pem());
        let other = tempfile::tempdir().unwrap();
        let stranger = Authority::load_or_create(other.path(), "ca").unwrap();
        assert!(!is_signed_by(stranger.certificate_pem(), &first.certificate_pem));
        assert!(is_signed_by(ca.certificate_pem(), &first.certificate_pem));
        // A key of somebody else's beside the certificate.
        let kept = load_or_issue(&more);
        std::fs::write(dir.path().join("api.key"), new_key().unwrap()).unwrap();
        let mended = load_or_issue(&more);
        assert_ne!(mended.certificate_pem, kept.certificate_pem);
        assert!(key_matches(&mended.certificate_pem, &mended.key_pem));
    }
}
