//! Configurations of network plugins (CNI), and what the plugins answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use network::cni;

fuzz_target!(|parts: (&[u8], bool)| {
    let (bytes, is_list) = parts;
    if let Ok(configuration) = cni::Configuration::read(bytes, is_list) {
        for plugin in &configuration.plugins {
            let name = plugin.get("type").and_then(|name| name.as_str());
            assert!(name.is_some_and(|name| !name.is_empty() && !name.contains('/')));
        }
    }
    if let Ok(result) = serde_json::from_slice(bytes) {
        let _ = cni::addresses(&result);
    }
});
