//! Seccomp profiles of a node's own, which pods name.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(why) = runtime::seccomp_profile(text) {
        assert!(!why.is_empty());
    }
});
