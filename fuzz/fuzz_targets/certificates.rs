//! Certificate signing requests: what is read of one is what its certificate says. Certificates that clients and secrets have.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = pki::parse_certificate_request(&String::from_utf8_lossy(bytes));
    // Most of what chance makes is no PEM, so the frame is given.
    let frame = |what: &str| format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(bytes));
    if let Ok(facts) = pki::parse_certificate_request(&frame("CERTIFICATE REQUEST")) {
        assert!(facts.organizations.len() <= 1 && !facts.common_name.is_empty());
    }
    let _ = pki::parse_certificate(&frame("CERTIFICATE"));
    let _ = pki::parse_certificate_der(bytes);
    let _ = pki::certified_key(frame("CERTIFICATE").as_bytes(), frame("PRIVATE KEY").as_bytes());
    let _ = pki::public_key(&frame("PRIVATE KEY"));
    // What signers give back, pods ask for and bundles hold.
    let _ = (pki::key_of_request(bytes), pki::leaf(bytes));
    for text in [frame("CERTIFICATE"), String::from_utf8_lossy(bytes).into_owned()] {
        if let Ok(anchors) = pki::trust_anchors(&text) {
            assert!(!anchors.is_empty() && anchors.iter().all(|der| pki::is_certificate(der)));
        }
    }
});
