//! YAML from anywhere; what is read must survive being written.
#![no_main]

use apimachinery::bounded::Limits;
use apimachinery::yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(documents) = yaml::all(data, Limits::REQUEST) else { return };
    for document in documents {
        let text = yaml::write(&document.value);
        let again = yaml::first(text.as_bytes(), Limits::FILE);
        assert_eq!(again.map(|d| d.value).as_ref(), Ok(&document.value), "{text}");
    }
});
