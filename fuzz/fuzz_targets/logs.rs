//! Logs as runtimes write them: their last words are bounded, whatever is in them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let log = folder.path().join("0.log");
    if std::fs::write(&log, bytes).is_err() {
        return;
    }
    for limit in [0, 7, 4096] {
        let words = kubelet::readers::last_words(&log, limit).unwrap_or_default();
        // A byte that is no text is shown by three.
        assert!(words.len() <= 3 * limit);
    }
});
