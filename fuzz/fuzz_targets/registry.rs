//! What registries say: manifests and indices, and how they want to be signed in to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::image::{Found, read_challenge, read_manifest};

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

fuzz_target!(|bytes: &[u8]| {
    match read_manifest(bytes) {
        // Digests become names of files.
        Ok(Found::Image(manifest)) => {
            assert!(manifest.layers.iter().chain([&manifest.config]).all(|part| is_digest(&part.digest)));
        }
        Ok(Found::Elsewhere(digest)) => assert!(is_digest(&digest)),
        Err(why) => assert!(!why.is_empty()),
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = read_challenge(text);
    }
});
