//! Variables of containers that name one another, a line each.
#![no_main]

use kubelet::readers::expansion;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut all = expansion::Variables::default();
    let lines: Vec<String> = text.split('\n').map(String::from).collect();
    for line in &lines {
        let Some((name, value)) = line.split_once('=') else { continue };
        if let Ok(value) = expansion::expand(value, all.known()) {
            let _ = all.insert(name.into(), value);
        }
    }
    let size: usize = all.known().iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(size <= 4 << 20, "{size}");
    let _ = expansion::expand_all(&lines, all.known());
});
