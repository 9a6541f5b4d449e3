//! Names that the server generates.

use apimachinery::names::{GENERATED_PREFIX, SUFFIX_ALPHABET};
use rand::RngExt as _;

/// `prefix` with five random characters, as `generateName` makes names (upstream's `SimpleNameGenerator`). A long prefix is cut.
pub fn generated_name(prefix: &str) -> String {
    let mut rng = rand::rng();
    let suffix: String = (0..5).map(|_| SUFFIX_ALPHABET[rng.random_range(0..SUFFIX_ALPHABET.len())] as char).collect();
    let kept: String = prefix.chars().take(GENERATED_PREFIX).collect();
    format!("{kept}{suffix}")
}
