//! Formats of texts that have a rule of their own upstream (kube-openapi's `strfmt`).

use std::net::IpAddr;

use apimachinery::{ObjectExt as _, names};
use serde_json::Value;

/// All formats of texts that mean something (upstream's `supportedFormats`); `password` allows everything.
const KNOWN: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "date-time",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8s-long-name",
    "k8s-short-name",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// What the writer of a definition is warned of: formats that nobody checks (upstream's `WarningsOnCreate`, `WarningsOnUpdate`).
pub fn warnings(definition: &Value) -> Vec<String> {
    let mut unknown: Vec<String> = Vec::new();
    let versions = definition.array_at(&["spec", "versions"]).iter();
    let mut schemas: Vec<&Value> = versions.map(|version| version.at(&["schema", "openAPIV3Schema"])).collect();
    while let Some(schema) = schemas.pop() {
        let format = schema["format"].as_str().unwrap_or("");
        if schema["type"] == "string" && !format.is_empty() && !KNOWN.contains(&format) {
            let warning = format!("unrecognized format {format:?}");
            if !unknown.contains(&warning) {
                unknown.push(warning);
            }
        }
        schemas.extend(schema["properties"].as_object().into_iter().flat_map(|all| all.values()));
        schemas.extend(
            ["items", "additionalProperties", "not"].map(|key| &schema[key]).into_iter().filter(|s| s.is_object()),
        );
        schemas.extend(["allOf", "anyOf", "oneOf"].into_iter().flat_map(|key| schema.array_at(&[key])));
    }
    unknown.sort();
    unknown
}

/// The format of a schema that is checked; the others, and those of other types, are only a hint (upstream's
/// `StripUnsupportedFormatsPostProcess`).
pub fn of_schema(schema: &Value) -> &str {
    let format = schema["format"].as_str().unwrap_or("");
    let is_checked = match schema["type"].as_str() {
        _ if schema[super::INT_OR_STRING] == true => KNOWN.contains(&format),
        None | Some("" | "string") => KNOWN.contains(&format),
        Some("integer") => matches!(format, "int32" | "int64"),
        Some("number") => matches!(format, "float" | "double"),
        Some(_) => false,
    };
    if is_checked { format } else { "" }
}

/// Whether a text has a format. What isn't known here is only a hint.
pub fn fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "rgbcolor" => is_rgb(text),
        "ssn" => is_ssn(text),
        "isbn" => is_isbn(text, 10) || is_isbn(text, 13),
        "isbn10" => is_isbn(text, 10),
        "isbn13" => is_isbn(text, 13),
        "creditcard" => is_card(text),
        "ipv4" => matches!(text.parse(), Ok(IpAddr::V4(_))),
        "ipv6" => matches!(text.parse(), Ok(IpAddr::V6(_))),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uri" => text.starts_with('/') || url_like(text),
        "hostname" => is_hostname(text),
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !user.contains(char::is_whitespace) && is_hostname(host)),
        "mac" => is_mac(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|c| c.is_ascii_hexdigit())
        }
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|c| c.is_ascii_hexdigit()),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(b'3')),
        "uuid4" => is_uuid(text, Some(b'4')),
        "uuid5" => is_uuid(text, Some(b'5')),
        "k8s-short-name" => names::dns1123_label(text).is_ok(),
        "k8s-long-name" => names::dns1123_subdomain(text).is_ok(),
        _ => true,
    }
}

/// An absolute URL: a scheme, and something after it.
fn url_like(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
    let good = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme);
    good && !rest.is_empty() && !text.contains(|c: char| c == ' ' || c.is_control())
}

fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && label.chars().all(is_part)
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

/// Six or more bytes, with colons, dashes or dots between them (Go's `net.ParseMAC`).
fn is_mac(text: &str) -> bool {
    let of = |between: char, digits: usize| {
        let parts: Vec<&str> = text.split(between).collect();
        let bytes = parts.len() * digits / 2;
        let is_hex = |part: &&str| part.len() == digits && part.bytes().all(|c| c.is_ascii_hexdigit());
        matches!(bytes, 6 | 8 | 20) && parts.iter().all(is_hex)
    };
    of(':', 2) || of('-', 2) || of('.', 4)
}

/// Each of its dashes may be left out; of versions 4 and 5 the variant is that of RFC 9562.
fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let mut digits = Vec::new();
    for c in text.bytes() {
        match c {
            b'-' if matches!(digits.len(), 8 | 12 | 16 | 20) => {}
            c if c.is_ascii_hexdigit() => digits.push(c.to_ascii_lowercase()),
            _ => return false,
        }
    }
    let has_variant =
        !matches!(version, Some(b'4' | b'5')) || matches!(digits.get(16), Some(b'8' | b'9' | b'a' | b'b'));
    digits.len() == 32 && !text.contains("--") && has_variant && version.is_none_or(|v| digits.get(12) == Some(&v))
}

/// A duration as Go writes it, or in words: `1 day`, `2w`, `PT5M`. As upstream, one amount with a unit that is known is enough.
pub fn is_duration(text: &str) -> bool {
    // The last of each group stands for all that begins with it.
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    let known = |unit: &str| {
        UNITS.iter().any(|group| group.contains(&unit) || group.last().is_some_and(|word| unit.starts_with(word)))
    };
    if apimachinery::duration::parse(text).is_some() {
        return true;
    }
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if rest[..end].parse::<i64>().is_err() {
            return false;
        }
        let words = rest[end..].trim_start();
        let end = words.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(words.len());
        if known(&words[..end].to_lowercase()) {
            return true;
        }
        rest = &words[end..];
    }
    false
}

/// `rgb(1, 2, 3)`.
pub fn is_rgb(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')) else { return false };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    let is_part = |p: &&str| {
        (*p == "0" || !p.starts_with('0')) && p.bytes().all(|c| c.is_ascii_digit()) && p.parse::<u8>().is_ok()
    };
    parts.len() == 3 && parts.iter().all(is_part)
}

/// A number of the social security of the United States.
pub fn is_ssn(text: &str) -> bool {
    let plain: Vec<u8> = text.bytes().filter(u8::is_ascii_digit).collect();
    let between = |at: usize| text.as_bytes().get(at).is_some_and(|c| matches!(c, b'-' | b' '));
    let first = usize::from(between(3));
    let second = usize::from(between(5 + first));
    plain.len() == 9 && text.len() == 9 + first + second
}

/// The digits of a number of ten or thirteen, without spaces and hyphens.
fn digits(text: &str) -> Option<Vec<u32>> {
    let kept: Vec<char> = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let last = kept.len().checked_sub(1)?;
    let digit = |(i, c): (usize, &char)| if *c == 'X' && i == last { Some(10) } else { c.to_digit(10) };
    kept.iter().enumerate().map(digit).collect()
}

/// An ISBN of ten digits or of thirteen, by its check digit.
pub fn is_isbn(text: &str, length: usize) -> bool {
    let Some(digits) = digits(text).filter(|d| d.len() == length) else { return false };
    match length {
        10 => digits.iter().zip(1..).map(|(d, weight)| d * weight).sum::<u32>().is_multiple_of(11),
        _ => {
            let sum: u32 = digits.iter().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { d * 3 }).sum();
            digits.iter().all(|d| *d < 10) && sum.is_multiple_of(10)
        }
    }
}

/// The number of a credit card, by its length and check digit.
pub fn is_card(text: &str) -> bool {
    let Some(digits) = digits(text).filter(|d| (13..=16).contains(&d.len()) && d.iter().all(|d| *d < 10)) else {
        return false;
    };
    let doubled = |(i, d): (usize, &u32)| match (i % 2, d * 2) {
        (0, _) => *d,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    };
    digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(judge: impl Fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        good.iter().for_each(|text| assert!(judge(text), "{text:?} is refused"));
        bad.iter().for_each(|text| assert!(!judge(text), "{text:?} is taken"));
    }

    #[test]
    fn formats_are_judged_as_upstream_judges_them() {
        check(is_duration, &["1h", "1.5s", "1 day", "2w", "3 weeks", "PT5M", "0"], &["", "abc", "5", "5 x"]);
        check(is_rgb, &["rgb(0,128,255)", "rgb( 1 , 2,3)"], &["rgb(1,2)", "rgb(256,0,0)", "rgb(01,0,0)", "x"]);
        check(is_ssn, &["111-22-3333", "111223333", "111 22 3333"], &["1", "11-122-3333", "111-22-333a"]);
        check(|t| is_isbn(t, 10), &["0306406152", "0-306-40615-2", "080442957X"], &["0306406153", "1", "X306406152"]);
        check(|t| is_isbn(t, 13), &["9780306406157", "978-0-306-40615-7"], &["9780306406158", "0306406152"]);
        check(is_card, &["4111111111111111", "4111 1111 1111 1111"], &["4111111111111112", "1", "x"]);
    }
}
