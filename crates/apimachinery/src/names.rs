//! Syntax of names, labels and the like (RFC 1123, RFC 1035, API conventions). Each check returns upstream's text.

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SEARCH_DOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

type Check = Result<(), String>;

fn max_len(text: &str, max: usize) -> Check {
    if text.len() > max { Err(format!("must be no more than {max} characters")) } else { Ok(()) }
}

fn label_chars(text: &str) -> bool {
    let b = text.as_bytes();
    let alnum = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    b.first().is_some_and(alnum) && b.last().is_some_and(alnum) && b.iter().all(|c| alnum(c) || *c == b'-')
}

/// RFC 1123 label: names of namespaces, pods' host names, containers.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn dns1123_label(text: &str) -> Check {
    max_len(text, 63)?;
    if label_chars(text) { Ok(()) } else { Err(DNS1123_LABEL.into()) }
}

/// RFC 1123 subdomain: names of most objects.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn dns1123_subdomain(text: &str) -> Check {
    max_len(text, 253)?;
    if text.split('.').all(label_chars) { Ok(()) } else { Err(DNS1123_SUBDOMAIN.into()) }
}

/// RFC 1035 label: names of services.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn dns1035_label(text: &str) -> Check {
    max_len(text, 63)?;
    if label_chars(text) && text.as_bytes()[0].is_ascii_lowercase() { Ok(()) } else { Err(DNS1035_LABEL.into()) }
}

/// What may stand in a URL path (RBAC names): no `/`, no `%`, not `.` or `..`.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn path_segment(text: &str) -> Check {
    match text {
        "." | ".." => Err(format!("may not be '{text}'")),
        t if t.contains('/') => Err("may not contain '/'".into()),
        t if t.contains('%') => Err("may not contain '%'".into()),
        _ => Ok(()),
    }
}

fn name_part(text: &str) -> bool {
    let b = text.as_bytes();
    b.first().is_some_and(u8::is_ascii_alphanumeric)
        && b.last().is_some_and(u8::is_ascii_alphanumeric)
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

/// `[prefix/]name`: label and annotation keys, finalizers, resource names.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn qualified_name(text: &str) -> Check {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            dns1123_subdomain(prefix).map_err(|e| format!("prefix part {e}"))?;
            name
        }
        None => text,
    };
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    max_len(name, 63).map_err(|e| format!("name part {e}"))?;
    if name_part(name) { Ok(()) } else { Err(QUALIFIED_NAME.into()) }
}

/// A domain that resolvers look in: labels may begin with an underscore, and have more within (KEP-4427).
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn search_domain(text: &str) -> Check {
    max_len(text, 253)?;
    let label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label).as_bytes();
        let ends =
            [rest.first(), rest.last()].into_iter().all(|c| c.is_some_and(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9')));
        ends && rest.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    if text.split('.').all(label) { Ok(()) } else { Err(SEARCH_DOMAIN.into()) }
}

/// A value of a label: at most 63 bytes, and empty or alphanumeric at both ends.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn label_value(text: &str) -> Check {
    max_len(text, 63)?;
    if text.is_empty() || name_part(text) { Ok(()) } else { Err(LABEL_VALUE.into()) }
}

/// A port's name (IANA service name, RFC 6335).
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn port_name(text: &str) -> Check {
    if text.len() > 15 {
        return Err("must be no more than 15 characters".into());
    }
    if !label_chars(text) {
        return Err("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        return Err("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") { Err("must not contain consecutive hyphens".into()) } else { Ok(()) }
}

/// What is kept of a `generateName`, so that a suffix has its place within 63 characters.
pub const GENERATED_PREFIX: usize = 58;
/// Letters and digits that upstream's generated suffixes use: no vowels, no look-alikes.
pub const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Turns a hash into upstream's "safe" text (`rand.SafeEncodeString`), as in `pod-template-hash`.
pub fn safe_encode(decimal: &str) -> String {
    decimal.bytes().map(|b| SUFFIX_ALPHABET[b as usize % SUFFIX_ALPHABET.len()] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_to_their_rfc() {
        assert!(dns1123_label("web-0").is_ok());
        for bad in ["", "Web", "-a", "a-", "a.b", "a_b"] {
            assert!(dns1123_label(bad).is_err(), "{bad:?}");
        }
        assert!(dns1123_subdomain("a.b-c.d0").is_ok());
        assert!(dns1123_subdomain("a..b").is_err());
        assert!(dns1035_label("0web").is_err());
        for (domain, good) in [
            ("a.b", true),
            ("_sip._tcp.x", true),
            ("a_b.c", true),
            ("", false),
            ("a..b", false),
            ("a_", false),
            ("-a", false),
            ("__a", false),
        ] {
            assert_eq!(search_domain(domain).is_ok(), good, "{domain:?}");
        }
        assert!(qualified_name("kubernetes.io/role").is_ok());
        assert!(qualified_name("/role").is_err());
        assert!(label_value("").is_ok());
        assert!(label_value("a b").is_err());
        assert!(port_name("80").is_err());
        assert!(port_name("http-2").is_ok());
    }
}
