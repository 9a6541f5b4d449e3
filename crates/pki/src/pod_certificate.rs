//! Certificates of pods (KEP-4317): the keys that the kubelet makes, the requests that it sends for them, and what the API looks at in
//! requests, in the chains that signers give back, and in trust bundles (KEP-3257).

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rsa::pkcs8::EncodePrivateKey as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::ca::PkiError;
use crate::pem::{pem_blocks, to_pem};

const OID_P256: &str = "1.2.840.10045.3.1.7";
const OID_P384: &str = "1.3.132.0.34";
const OID_P521: &str = "1.3.132.0.35";
const OID_EC: &str = "1.2.840.10045.2.1";
const OID_ED25519: &str = "1.3.101.112";

/// A type of keys that a pod may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// RSA of so many bits.
    Rsa(usize),
    /// ECDSA on NIST's P-256.
    P256,
    /// ECDSA on NIST's P-384.
    P384,
    /// ECDSA on NIST's P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

/// As volumes name them.
pub const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

impl KeyType {
    /// The type that a volume names.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RSA3072" => KeyType::Rsa(3072),
            "RSA4096" => KeyType::Rsa(4096),
            "ECDSAP256" => KeyType::P256,
            "ECDSAP384" => KeyType::P384,
            "ECDSAP521" => KeyType::P521,
            "ED25519" => KeyType::Ed25519,
            _ => return None,
        })
    }
}

/// A new key (PKCS #8, PEM) and a request without content (PKCS #10, DER), which shows that its sender has the key.
#[derive(Clone)]
pub struct KeyAndRequest {
    /// The private key.
    pub key_pem: String,
    /// The request, signed with it.
    pub request: Vec<u8>,
}

/// Makes a key and its request. One for RSA takes seconds.
///
/// # Errors
/// [`PkiError::Issue`] when the key can't be made.
pub fn new_key_and_request(kind: KeyType) -> Result<KeyAndRequest, PkiError> {
    let key = match kind {
        KeyType::Rsa(bits) => {
            let made = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits);
            let der = made.map_err(|e| e.to_string()).and_then(|key| key.to_pkcs8_der().map_err(|e| e.to_string()));
            let der = der.map_err(|why| PkiError::Parse(format!("no RSA key could be made: {why}")))?;
            KeyPair::try_from(der.as_bytes())?
        }
        KeyType::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        KeyType::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?,
        KeyType::P521 => return p521_key_and_request(),
        KeyType::Ed25519 => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
            return Ok(KeyAndRequest { key_pem: ed25519_pem(&key)?, request: empty_request(&key)? });
        }
    };
    Ok(KeyAndRequest { key_pem: to_pem("PRIVATE KEY", key.serialized_der()), request: empty_request(&key)? })
}

/// A request for nothing: the signer decides what is in the certificate.
fn empty_request(key: &KeyPair) -> Result<Vec<u8>, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// A key of Ed25519 in the first version of PKCS #8 (RFC 8410, section 7): OpenSSL reads no key that has its public half with it.
fn ed25519_pem(key: &KeyPair) -> Result<String, PkiError> {
    const BEGIN: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    // In both versions the algorithm and the 32 bytes of the private key are in the same order.
    let der = key.serialized_der();
    let at = der.windows(4).position(|window| window == [4, 0x22, 4, 0x20]);
    let seed = at.and_then(|at| der.get(at.checked_add(4)?..at.checked_add(36)?));
    let seed = seed.ok_or_else(|| PkiError::Parse("the new key has no private half".into()))?;
    Ok(to_pem("PRIVATE KEY", &[&BEGIN, seed].concat()))
}

/// DER of a value of `tag`.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = (content.len() as u32).to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut all = vec![tag];
    match length.as_slice() {
        [] => all.push(0),
        [short] if *short < 0x80 => all.push(*short),
        long => {
            all.push(0x80 | long.len() as u8);
            all.extend_from_slice(long);
        }
    }
    all.extend_from_slice(&content);
    all
}

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 3;

/// `ring` knows nothing of P-521, so key and request are made here (RFC 2986).
fn p521_key_and_request() -> Result<KeyAndRequest, PkiError> {
    use p521::ecdsa::signature::Signer as _;
    use p521::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _};
    let failed = |why: String| PkiError::Parse(format!("no P-521 key could be made: {why}"));
    let secret = p521::SecretKey::random(&mut p521::elliptic_curve::rand_core::OsRng);
    let key = secret.to_pkcs8_der().map_err(|e| failed(e.to_string()))?;
    let public = secret.public_key().to_public_key_der().map_err(|e| failed(e.to_string()))?;
    // Version 0, no subject, the key, no attributes.
    let info = der(SEQUENCE, &[&[2, 1, 0], &der(SEQUENCE, &[]), public.as_bytes(), &der(0xa0, &[])]);
    let signing = p521::ecdsa::SigningKey::from_bytes(&secret.to_bytes()).map_err(|e| failed(e.to_string()))?;
    let signature: p521::ecdsa::Signature = signing.sign(&info);
    // ecdsa-with-SHA512
    let algorithm = der(SEQUENCE, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4]]);
    let request = der(SEQUENCE, &[&info, &algorithm, &der(BIT_STRING, &[&[0], signature.to_der().as_bytes()])]);
    Ok(KeyAndRequest { key_pem: to_pem("PRIVATE KEY", key.as_bytes()), request })
}

/// What is wrong with a key or with what its owner signed, where upstream tells these apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFault {
    /// It can't be read.
    Malformed,
    /// A key of another type than RSA, ECDSA and Ed25519.
    UnknownType,
    /// ECDSA on a curve that isn't taken; its name as Go knows it.
    Curve(&'static str),
    /// RSA with a modulus of so many bits.
    Modulus(usize),
    /// Its owner didn't sign it.
    Signature,
}

/// Reads a request (PKCS #10, DER) and checks its key and its signature. Returns the key (SubjectPublicKeyInfo, DER).
///
/// # Errors
/// The first rule that it breaks.
pub fn key_of_request(request: &[u8]) -> Result<Vec<u8>, KeyFault> {
    let (rest, request) = X509CertificationRequest::from_der(request).map_err(|_| KeyFault::Malformed)?;
    if !rest.is_empty() {
        return Err(KeyFault::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    let kind = key_type(key)?;
    let signed = request.certification_request_info.raw;
    let is_signed = match kind {
        KeyType::P521 => p521_verifies(&key.subject_public_key.data, signed, &request.signature_value.data),
        _ => request.verify_signature().is_ok(),
    };
    if is_signed { Ok(key.raw.to_vec()) } else { Err(KeyFault::Signature) }
}

/// Whether a key on P-521 signed a message (ECDSA with SHA-512).
fn p521_verifies(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use p521::ecdsa::signature::Verifier as _;
    let Ok(key) = p521::ecdsa::VerifyingKey::from_sec1_bytes(point) else { return false };
    p521::ecdsa::Signature::from_der(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
}

/// The type of a key, if pods may have such.
fn key_type(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyType, KeyFault> {
    match key.algorithm.algorithm.to_id_string().as_str() {
        OID_ED25519 if key.subject_public_key.data.len() == 32 => return Ok(KeyType::Ed25519),
        OID_ED25519 => return Err(KeyFault::Malformed),
        OID_EC => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            return match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some(OID_P256) => Ok(KeyType::P256),
                Some(OID_P384) => Ok(KeyType::P384),
                Some(OID_P521) => Ok(KeyType::P521),
                Some("1.3.132.0.33") => Err(KeyFault::Curve("P-224")),
                _ => Err(KeyFault::Malformed),
            };
        }
        _ => {}
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => match rsa.key_size() {
            bits @ (3072 | 4096) => Ok(KeyType::Rsa(bits)),
            bits => Err(KeyFault::Modulus(bits)),
        },
        Ok(PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) | PublicKey::Unknown(_)) => {
            Err(KeyFault::UnknownType)
        }
        _ => Err(KeyFault::Malformed),
    }
}

/// The first certificate of a chain that a signer gives back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Its key (SubjectPublicKeyInfo, DER).
    pub key: Vec<u8>,
    /// DNS names of the subject alternative name.
    pub dns_names: Vec<String>,
    /// E-mail addresses of the subject alternative name.
    pub emails: Vec<String>,
    /// Start of the validity, as Unix time in seconds.
    pub not_before: i64,
    /// End of the validity, as Unix time in seconds.
    pub not_after: i64,
}

/// Reads a certificate (DER); none if it isn't one.
pub fn leaf(der: &[u8]) -> Option<Leaf> {
    let certificate = certificate(der)?;
    let mut leaf = Leaf {
        key: certificate.public_key().raw.to_vec(),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        ..Leaf::default()
    };
    let names = certificate.subject_alternative_name().ok()?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => leaf.dns_names.push((*name).to_string()),
            GeneralName::RFC822Name(address) => leaf.emails.push((*address).to_string()),
            _ => {}
        }
    }
    Some(leaf)
}

/// Whether these bytes are a certificate.
pub fn is_certificate(der: &[u8]) -> bool {
    certificate(der).is_some()
}

fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

/// The authorities of a trust bundle (DER), in their order.
///
/// # Errors
/// Upstream's words on each block that isn't the certificate of an authority; or, if all are, on those that aren't the only ones of theirs, and on there being none.
pub fn trust_anchors(bundle: &str) -> Result<Vec<Vec<u8>>, Vec<String>> {
    let (mut faults, mut anchors) = (Vec::new(), Vec::new());
    for (i, block) in pem_blocks(bundle).enumerate() {
        if block.label != "CERTIFICATE" {
            faults.push(format!("entry {i} has bad block type: {}", block.label));
        } else if block.has_headers {
            faults.push(format!("entry {i} has PEM block headers"));
        } else {
            match certificate(&block.contents) {
                None => faults.push(format!("entry {i} does not parse as X.509")),
                Some(read) if !read.is_ca() => faults.push(format!("entry {i} does not have the CA bit set")),
                Some(_) => anchors.push((i, block.contents)),
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    if anchors.is_empty() {
        return Err(vec!["at least one trust anchor must be provided".into()]);
    }
    let mut places: std::collections::BTreeMap<&[u8], Vec<String>> = std::collections::BTreeMap::new();
    for (i, der) in &anchors {
        places.entry(der).or_default().push(i.to_string());
    }
    let doubled = places.values().filter(|places| places.len() > 1);
    let faults: Vec<String> =
        doubled.map(|places| format!("duplicate trust anchor (indices [{}])", places.join(" "))).collect();
    if faults.is_empty() { Ok(anchors.into_iter().map(|(_, der)| der).collect()) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Usage};

    #[test]
    fn every_type_of_keys_has_a_request_that_the_api_takes() {
        for (name, kind) in KEY_TYPES.iter().map(|name| (name, KeyType::named(name).unwrap())) {
            if *name == "RSA4096" {
                continue; // The same as the shorter one, and half a minute without optimization.
            }
            let made = new_key_and_request(kind).unwrap();
            assert!(made.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"), "{name}");
            let key = key_of_request(&made.request).unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
            let (_, read) = SubjectPublicKeyInfo::from_der(&key).unwrap();
            assert_eq!(key_type(&read), Ok(kind), "{name}");
            let mut forged = made.request.clone();
            *forged.last_mut().unwrap() ^= 1;
            assert!(key_of_request(&forged).is_err(), "{name}");
            assert_eq!(key_of_request(&[made.request.as_slice(), b"x"].concat()), Err(KeyFault::Malformed), "{name}");
        }
        assert_eq!(KeyType::named("RSA2048"), None);
    }

    #[test]
    fn a_trust_bundle_is_made_of_authorities_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let authority = |name: &str| Authority::load_or_create(folder.path(), name).unwrap();
        let (a, b) = (authority("a"), authority("b"));
        let leaf = a.issue("x", None, &[Usage::Client], &[]).unwrap();
        let (a, b) = (a.certificate_pem().to_string(), b.certificate_pem().to_string());
        assert_eq!(trust_anchors(&format!("words\n{a}{b}")).unwrap().len(), 2);
        let with_headers = a.replacen("-----\n", "-----\nA: b\n\n", 1);
        for (bundle, why) in [
            (String::new(), "at least one trust anchor must be provided"),
            (format!("{b}{a}{b}"), "duplicate trust anchor (indices [0 2])"),
            (format!("{a}{}", leaf.certificate_pem), "entry 1 does not have the CA bit set"),
            (leaf.key_pem.clone(), "entry 0 has bad block type: PRIVATE KEY"),
            (to_pem("CERTIFICATE", b"nonsense"), "entry 0 does not parse as X.509"),
            (with_headers, "entry 0 has PEM block headers"),
        ] {
            assert_eq!(trust_anchors(&bundle), Err(vec![why.to_string()]));
        }
    }
}
