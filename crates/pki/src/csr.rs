//! Certificate signing requests. They are read once, into facts; the facts are judged, and a certificate is made of the
//! facts alone. So nothing can stand in a certificate that nobody looked at, and no second reader can see another name.

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

/// The largest request that is read, in bytes, and the most names in it.
const MAX_BYTES: usize = 64 << 10;
const MAX_NAMES: usize = 100;

/// What a certificate signing request asks for. Its signature was good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFacts {
    pub common_name: String,
    /// One at most.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Alternative names of other sorts: e-mail addresses, URIs, …; no certificate is made with them.
    pub has_other_names: bool,
    /// The public key, as DER.
    pub key: Vec<u8>,
}

/// What a certificate may be used for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub usage: Usage,
    pub key_encipherment: bool,
    /// Seconds; the authority's own limit if none are said, or more.
    pub seconds: Option<i64>,
}

/// # Errors
/// When `pem` is no certificate signing request, its signature is wrong, or its subject can be read in two ways: it
/// must have one common name, and nothing beside it but one organization.
pub fn request_facts(pem: &str) -> Result<RequestFacts, PkiError> {
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
    let info = &request.certification_request_info;
    let mut facts = RequestFacts { key: info.subject_pki.raw.to_vec(), ..RequestFacts::default() };
    let mut common_names = Vec::new();
    for attribute in info.subject.iter_attributes() {
        let text = attribute.as_str().map_err(|_| malformed("has a subject that is no text"))?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(malformed("has a subject with an empty or unprintable part"));
        }
        match attribute.attr_type() {
            oid if *oid == OID_X509_COMMON_NAME => common_names.push(text.to_string()),
            oid if *oid == OID_X509_ORGANIZATION_NAME => facts.organizations.push(text.to_string()),
            oid => return Err(malformed(&format!("has a subject with {oid}, beside common name and organizations"))),
        }
    }
    facts.common_name = match <[String; 1]>::try_from(common_names) {
        Ok([name]) => name,
        Err(names) => return Err(malformed(&format!("must have one common name, and has {}", names.len()))),
    };
    if facts.organizations.len() > 1 {
        return Err(malformed("may have one organization, and has several"));
    }
    alternative_names(&request, &mut facts)?;
    Ok(facts)
}

fn alternative_names(request: &X509CertificationRequest<'_>, facts: &mut RequestFacts) -> Result<(), PkiError> {
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
            GeneralName::DNSName(name) => facts.dns_names.push((*name).to_string()),
            GeneralName::IPAddress(raw) => match crate::ca::address(raw) {
                Some(address) => facts.addresses.push(address),
                None => return Err(PkiError::Parse("an address in the certificate request is malformed".into())),
            },
            _ => facts.has_other_names = true,
        }
        if facts.dns_names.len().saturating_add(facts.addresses.len()) > MAX_NAMES {
            return Err(PkiError::Parse("the certificate request has too many names".into()));
        }
    }
    Ok(())
}

impl Authority {
    /// Makes a certificate of the facts of a request, for its key.
    ///
    /// # Errors
    /// When the key or a name can't stand in a certificate.
    pub fn sign(&self, facts: &RequestFacts, terms: Terms) -> Result<String, PkiError> {
        let mut subject = DistinguishedName::new();
        for organization in &facts.organizations {
            subject.push(DnType::OrganizationName, organization);
        }
        subject.push(DnType::CommonName, &facts.common_name);
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if terms.key_encipherment {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![terms.usage.purpose()];
        for name in &facts.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(facts.addresses.iter().map(|address| SanType::IpAddress(*address)));
        valid_for(&mut params, LEAF_DAYS);
        let end = |seconds| OffsetDateTime::now_utc().checked_add(Duration::seconds(seconds));
        if let Some(end) = terms.seconds.and_then(end) {
            params.not_after = params.not_after.min(end);
        }
        let key = SubjectPublicKeyInfo::from_der(&facts.key)?;
        Ok(params.signed_by(&key, self.issuer())?.pem())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;
    use crate::{certificate_facts, new_key, request};

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
        let pem = request(&new_key().unwrap(), "system:node:n", "system:nodes", &names).unwrap();
        let facts = request_facts(&pem).unwrap();
        assert_eq!(facts.dns_names, ["n"]);
        let terms = Terms { usage: Usage::Server, key_encipherment: false, seconds: Some(600) };
        let made = certificate_facts(&ca.sign(&facts, terms).unwrap()).unwrap();
        assert_eq!((made.common_name.as_str(), made.names.as_slice()), ("system:node:n", names.as_slice()));
        assert_eq!(made.organizations, ["system:nodes"]);
        assert!((made.not_after - made.not_before - 3600 - 600).abs() <= 1);
        let year = ca.sign(&facts, Terms { seconds: Some(i64::MAX), ..terms }).unwrap();
        let year = certificate_facts(&year).unwrap();
        assert_eq!(year.not_after - year.not_before, 3600 + LEAF_DAYS * 86400, "no longer than the authority lets it");
    }

    #[test]
    fn a_request_that_may_be_read_in_two_ways_is_refused() {
        let good = with_subject(&[(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "a")], &[]);
        assert!(request_facts(&good).is_ok());
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
            let error = request_facts(pem).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
        // One that another key signed.
        let (_, other) = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap();
        let mut bytes = other.contents;
        *bytes.last_mut().unwrap() ^= 1;
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(bytes);
        let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(request_facts(&forged).unwrap_err().to_string().contains("own key"));
    }
}
