//! Names of signers of certificates, and what else requests to them have in common (upstream's `ValidateSignerName`,
//! `ValidateClusterTrustBundleName`, `ValidateUserAnnotations`).

use apimachinery::{Cause, names};
use serde_json::json;

use super::field::{Causes, Field, invalid_text, too_long};
use super::meta::annotations_size;

/// The longest name of a signer: a domain, a slash, the name of a namespace, a dot and the name of an object.
const LONGEST: usize = 253 + 1 + 63 + 1 + 253;

/// The shortest validity of a pod's certificate, in seconds.
pub const MIN_VALIDITY_SECONDS: i64 = 60 * 60;
/// The longest validity of a pod's certificate, in seconds.
pub const MAX_VALIDITY_SECONDS: i64 = 91 * 24 * 60 * 60;
/// The same where Kubernetes itself signs.
pub const MAX_KUBERNETES_VALIDITY_SECONDS: i64 = 24 * 60 * 60;

/// A signer's name, which must be there: `example.com/what`.
pub fn name(field: &Field<'_>, causes: &mut Causes) {
    let whole = field.text();
    if whole.is_empty() {
        causes.push(Cause::required(&field.path, ""));
        return;
    }
    let segments: Vec<&str> = whole.split('/').collect();
    let [domain, path] = segments.as_slice() else {
        field.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'", causes);
        return;
    };
    if domain.len() > 253 {
        causes.push(too_long(&field.path, 253));
    }
    labels(field, domain, names::dns1123_label, causes);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        causes.push(invalid_text(&field.path, domain, why));
    }
    labels(field, path, names::dns1123_subdomain, causes);
    if whole.len() > LONGEST {
        causes.push(too_long(&field.path, LONGEST));
    }
}

/// The first part of a half of a name that isn't one is told.
fn labels(field: &Field<'_>, half: &str, check: fn(&str) -> Result<(), String>, causes: &mut Causes) {
    if let Some((label, why)) = half.split('.').find_map(|label| check(label).err().map(|why| (label, why))) {
        causes.push(invalid_text(&field.path, half, &format!("validating label {label:?}: {why}")));
    }
}

/// Whether a signer is one of Kubernetes itself.
fn is_of_kubernetes(signer: &str) -> bool {
    let host = signer.split('/').next().unwrap_or("");
    host == "kubernetes.io" || host.ends_with(".kubernetes.io")
}

/// How long the certificates of a signer may be good for.
pub fn max_validity_seconds(signer: &str) -> i64 {
    if is_of_kubernetes(signer) { MAX_KUBERNETES_VALIDITY_SECONDS } else { MAX_VALIDITY_SECONDS }
}

/// Checks the name of a ClusterTrustBundle of `signer`, or of none.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn trust_bundle_name(signer: &str, name: &str) -> Result<(), String> {
    if signer.is_empty() {
        if name.contains(':') {
            return Err("ClusterTrustBundle without signer name must not have \":\" in its name".into());
        }
        return names::dns1123_subdomain(name);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => names::dns1123_subdomain(rest),
        None => Err(format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")),
    }
}

/// What a pod tells the signer of itself: keys have a domain.
pub fn user_annotations(field: &Field<'_>, causes: &mut Causes) {
    for (key, _) in field.entries() {
        let key = key.to_ascii_lowercase();
        if key.is_empty() {
            causes.push(Cause::required(&field.path, ""));
        } else if let Err(why) = names::qualified_name(&key) {
            causes.push(Cause::invalid(&field.path, &json!(key), &why));
        } else if !key.contains('/') {
            let why = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            causes.push(Cause::invalid(&field.path, &json!(key), why));
        }
    }
    annotations_size(field.value, &field.path, causes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_signers_have_a_domain_and_a_path() {
        let why = |text: &str| {
            let (value, mut causes) = (json!(text), Vec::new());
            name(&Field::new(&value, "f"), &mut causes);
            causes.into_iter().map(|cause| cause.message).collect::<Vec<_>>().join("; ")
        };
        for good in ["example.com/a", "a.b.c/ns.name", "kubernetes.io/kubelet-serving"] {
            assert_eq!(why(good), "", "{good}");
        }
        for (bad, part) in [
            ("", "Required"),
            ("example.com", "fully qualified domain and path"),
            ("example.com/a/b", "fully qualified domain and path"),
            ("local/a", "at least two segments"),
            ("Example.com/a", "validating label \"Example\""),
            ("example.com/A", "validating label \"A\""),
            ("example.com/", "validating label \"\""),
            (&format!("example.com/{}", ["a"; 300].join(".")), "may not be more than 571 bytes"),
            (&format!("{}/a", ["a"; 200].join(".")), "may not be more than 253 bytes"),
        ] {
            assert!(why(bad).contains(part), "{bad}: {}", why(bad));
        }
    }

    #[test]
    fn names_of_bundles_begin_with_their_signers() {
        assert_eq!(trust_bundle_name("", "a.b"), Ok(()));
        assert_eq!(trust_bundle_name("example.com/s", "example.com:s:v1"), Ok(()));
        assert!(trust_bundle_name("", "a:b").unwrap_err().contains("must not have"));
        assert!(trust_bundle_name("example.com/s", "v1").unwrap_err().contains("prefix example.com:s:"));
        assert!(trust_bundle_name("example.com/s", "example.com:s:V1").unwrap_err().contains("RFC 1123"));
    }
}
