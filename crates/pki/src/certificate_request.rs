//! Certificate signing requests (PKCS #10, RFC 2986). A request is parsed once, into a [`CertificateRequest`]; the approver and the signer
//! judge that value, and the certificate is made of it alone. So nothing that wasn't judged gets into a certificate, and no second
//! parser can see another name.

use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SanType, SubjectPublicKeyInfo};
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;

use crate::ca::{Authority, LEAF_DAYS, PkiError, Usage, valid_for};

/// Limits of a request: bytes, and subject alternative names.
const MAX_BYTES: usize = 64 << 10;
const MAX_NAMES: usize = 100;

/// The content of a certificate signing request whose signature is valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organizations; at most one.
    pub organizations: Vec<String>,
    /// DNS names of the subject alternative name.
    pub dns_names: Vec<String>,
    /// IP addresses of the subject alternative name.
    pub addresses: Vec<IpAddr>,
    /// Whether it has alternative names of other types (e-mail addresses, URIs, …), with which no certificate is issued.
    pub has_other_names: bool,
    /// The public key (SubjectPublicKeyInfo, DER).
    pub key: Vec<u8>,
}

/// Usages and validity that a signer grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigningProfile {
    /// Extended key usage.
    pub usage: Usage,
    /// Whether the key usage `keyEncipherment` is granted beside `digitalSignature`.
    pub key_encipherment: bool,
    /// Validity in seconds, at most a year; a year if there is none.
    pub seconds: Option<i64>,
}

/// Parses a request and verifies its signature.
///
/// # Errors
/// [`PkiError::Parse`] when `pem` isn't one certificate signing request, its signature is wrong, or its subject is ambiguous: the
/// subject must have one common name, and nothing beside it but one organization.
pub fn parse_certificate_request(pem: &str) -> Result<CertificateRequest, PkiError> {
    let malformed = |why: &str| PkiError::Parse(format!("the certificate request {why}"));
    if pem.len() > MAX_BYTES {
        return Err(malformed("is too large"));
    }
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    let block = blocks.next().and_then(Result::ok).ok_or_else(|| malformed("is no PEM block"))?;
    if block.label != "CERTIFICATE REQUEST" || blocks.next().is_some() {
        return Err(malformed("must be one PEM block of type CERTIFICATE REQUEST"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|e| PkiError::Parse(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("has bytes after its end"));
    }
    request.verify_signature().map_err(|_| malformed("isn't signed by its own key"))?;
    let parsed = &request.certification_request_info;
    let mut info = CertificateRequest { key: parsed.subject_pki.raw.to_vec(), ..CertificateRequest::default() };
    let mut common_names = Vec::new();
    for attribute in parsed.subject.iter_attributes() {
        let text = attribute.as_str().map_err(|_| malformed("has a subject that is no text"))?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(malformed("has a subject with an empty or unprintable part"));
        }
        match attribute.attr_type() {
            oid if *oid == OID_X509_COMMON_NAME => common_names.push(text.to_string()),
            oid if *oid == OID_X509_ORGANIZATION_NAME => info.organizations.push(text.to_string()),
            oid => return Err(malformed(&format!("has a subject with {oid}, beside common name and organizations"))),
        }
    }
    info.common_name = match <[String; 1]>::try_from(common_names) {
        Ok([name]) => name,
        Err(names) => return Err(malformed(&format!("must have one common name, and has {}", names.len()))),
    };
    if info.organizations.len() > 1 {
        return Err(malformed("may have one organization, and has several"));
    }
    alternative_names(&request, &mut info)?;
    Ok(info)
}

fn alternative_names(request: &X509CertificationRequest<'_>, info: &mut CertificateRequest) -> Result<(), PkiError> {
    let attributes = request.certification_request_info.iter_attributes();
    let extensions = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
        _ => None,
    });
    let names = extensions.flatten().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    for name in names.flatten() {
        match name {
            GeneralName::DNSName(name) => info.dns_names.push((*name).to_string()),
            GeneralName::IPAddress(raw) => match crate::ca::address(raw) {
                Some(address) => info.addresses.push(address),
                None => return Err(PkiError::Parse("an address in the certificate request is malformed".into())),
            },
            _ => info.has_other_names = true,
        }
        if info.dns_names.len().saturating_add(info.addresses.len()) > MAX_NAMES {
            return Err(PkiError::Parse("the certificate request has too many names".into()));
        }
    }
    Ok(())
}

impl Authority {
    /// Issues a certificate for the key, subject and names of a request.
    ///
    /// # Errors
    /// [`PkiError::Issue`] when the key or a name can't stand in a certificate.
    pub fn sign(&self, info: &CertificateRequest, profile: SigningProfile) -> Result<String, PkiError> {
        let mut subject = DistinguishedName::new();
        for organization in &info.organizations {
            subject.push(DnType::OrganizationName, organization);
        }
        subject.push(DnType::CommonName, &info.common_name);
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if profile.key_encipherment {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![profile.usage.purpose()];
        for name in &info.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(info.addresses.iter().map(|address| SanType::IpAddress(*address)));
        valid_for(&mut params, LEAF_DAYS);
        let end = |seconds| OffsetDateTime::now_utc().checked_add(Duration::seconds(seconds));
        if let Some(end) = profile.seconds.and_then(end) {
            params.not_after = params.not_after.min(end);
        }
        let key = SubjectPublicKeyInfo::from_der(&info.key)?;
        Ok(params.signed_by(&key, self.issuer())?.pem())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;
    use crate::{create_certificate_request, new_key, parse_certificate};

    /// A request (PEM) with this subject, in this order.
    fn with_subject(parts: &[(DnType, &str)], names: &[SanType]) -> String {
        let mut subject = DistinguishedName::new();
        for (kind, text) in parts {
            subject.push(kind.clone(), *text);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.subject_alt_names = names.to_vec();
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_certificate_has_what_its_request_was_read_as() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(folder.path(), "ca").unwrap();
        let names = ["n".to_string(), "192.0.2.1".to_string(), "2001:db8::1".to_string()];
        let pem = create_certificate_request(&new_key().unwrap(), "system:node:n", "system:nodes", &names).unwrap();
        let info = parse_certificate_request(&pem).unwrap();
        assert_eq!(info.dns_names, ["n"]);
        let profile = SigningProfile { usage: Usage::Server, key_encipherment: false, seconds: Some(600) };
        let made = parse_certificate(&ca.sign(&info, profile).unwrap()).unwrap();
        assert_eq!((made.common_name.as_str(), made.names.as_slice()), ("system:node:n", names.as_slice()));
        assert_eq!(made.organizations, ["system:nodes"]);
        assert!((made.not_after - made.not_before - 3600 - 600).abs() <= 1);
        let year = ca.sign(&info, SigningProfile { seconds: Some(i64::MAX), ..profile }).unwrap();
        let year = parse_certificate(&year).unwrap();
        assert_eq!(year.not_after - year.not_before, 3600 + LEAF_DAYS * 86400, "no longer than the authority lets it");
    }

    #[test]
    fn a_request_that_may_be_read_in_two_ways_is_refused() {
        let good = with_subject(&[(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "a")], &[]);
        assert!(parse_certificate_request(&good).is_ok());
        for (pem, want) in [
            // Two of a kind, which `rcgen` can't write: made by `openssl req -new -subj`.
            (include_str!("testdata/two-names.csr"), "one common name, and has 2"),
            (include_str!("testdata/two-groups.csr"), "one organization, and has several"),
            (&with_subject(&[(DnType::OrganizationName, "x")], &[]), "one common name, and has 0"),
            (&with_subject(&[(DnType::CommonName, "a"), (DnType::OrganizationalUnitName, "b")], &[]), "2.5.4.11"),
            (&with_subject(&[(DnType::CommonName, "")], &[]), "empty"),
            (&with_subject(&[(DnType::CommonName, "a\nb")], &[]), "unprintable"),
            (&format!("{good}{good}"), "one PEM block"),
            (&good.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "one PEM block"),
            ("nonsense", "no PEM block"),
        ] {
            let error = parse_certificate_request(pem).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
        // One that another key signed.
        let (_, other) = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap();
        let mut bytes = other.contents;
        *bytes.last_mut().unwrap() ^= 1;
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(bytes);
        let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(parse_certificate_request(&forged).unwrap_err().to_string().contains("own key"));
    }
}
