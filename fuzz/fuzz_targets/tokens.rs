//! Tokens: of service accounts (JWT), signed and not, and of nodes that join.
#![no_main]

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use pki::{JoinToken, TokenKey};
use serde_json::Value;

fn key() -> Option<&'static TokenKey> {
    static KEY: OnceLock<Option<TokenKey>> = OnceLock::new();
    KEY.get_or_init(|| TokenKey::new(&pki::new_key().ok()?).ok()).as_ref()
}

fuzz_target!(|parts: (&str, &str)| {
    let (header, claims) = parts;
    let Some(key) = key() else { return };
    let read = |token: &str| {
        let with = key.read::<Value>(token, "issuer", Some("audience"));
        let without = key.read::<Value>(token, "issuer", None);
        with.is_ok() || without.is_ok()
    };
    assert!(!read(header));
    // As its parts are, with signatures that are none.
    let (header, body) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    for signature in ["", "AAAA", &body] {
        assert!(!read(&format!("{header}.{body}.{signature}")));
    }
    // Claims that the key has signed, so that times and audiences are read.
    if let Ok(token) = serde_json::from_str::<Value>(claims).map_err(|_| ()).and_then(|c| key.issue(&c).map_err(|_| ())) {
        read(&token);
    }
    if let Ok(token) = claims.parse::<JoinToken>() {
        assert!(token.ca_hash.len() == 64 && !token.secret.is_empty());
    }
});
