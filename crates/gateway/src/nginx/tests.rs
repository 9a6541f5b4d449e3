use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::{Annotations, CanaryValue, Fault, PREFIX, read};

fn annotations(pairs: &[(&str, &str)]) -> (Annotations, Vec<Fault>) {
    let all: BTreeMap<_, _> =
        pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.to_string())).collect();
    read(&all)
}

#[test]
fn values_are_read_as_nginx_reads_them() {
    let (found, faults) = annotations(&[
        ("proxy-body-size", "8m"),
        ("proxy-read-timeout", "120"),
        ("permanent-redirect", "https://example.com/"),
        ("permanent-redirect-code", "308"),
        ("allowlist-source-range", "10.0.0.0/8, 192.0.2.7,fd00::/8"),
        ("proxy-buffering", "off"),
        ("upstream-vhost", "inner.example.com"),
    ]);
    assert_eq!(faults, []);
    assert_eq!(found.max_body_bytes, Some(8 << 20));
    assert_eq!(found.read_timeout.unwrap().as_secs(), 120);
    assert_eq!(found.redirect, Some((StatusCode::PERMANENT_REDIRECT, "https://example.com/".into())));
    assert_eq!(found.allowed_sources.len(), 3);
    assert!(found.ssl_redirect && !found.force_ssl_redirect && found.refused.is_none());
    let unlimited = annotations(&[("proxy-body-size", "0")]);
    assert!(unlimited.0.max_body_bytes.is_none() && unlimited.1.is_empty());
}

#[test]
fn wrong_values_are_named_with_what_would_be_right() {
    for (name, value) in [
        ("proxy-body-size", "many"),
        ("proxy-body-size", "99999999999999999999g"),
        ("proxy-body-size", "18446744073709551615g"),
        ("proxy-read-timeout", "0"),
        ("proxy-read-timeout", "-1"),
        ("use-regex", "yes"),
        ("permanent-redirect", "javascript:alert(1)"),
        ("permanent-redirect", "https://a/\r\nSet-Cookie: a"),
        ("permanent-redirect-code", "200"),
        ("app-root", "app"),
        ("backend-protocol", "FCGI"),
        ("cors-allow-origin", "example.com"),
        ("cors-allow-methods", "GET\nX: y"),
        ("canary-weight", "101"),
        ("canary-weight-total", "0"),
        ("canary-by-header", "a b"),
        ("upstream-vhost", "a b"),
    ] {
        let (found, faults) = annotations(&[(name, value)]);
        let [fault] = &faults[..] else { panic!("{name}={value}: {faults:?}") };
        assert_eq!(fault.reason(), "InvalidAnnotation");
        assert!(
            fault.to_string().contains(&format!("{PREFIX}{name}")) && fault.to_string().contains(" must be "),
            "{fault}"
        );
        assert!(found.refused.is_none());
    }
}

#[test]
fn restrictions_that_arent_served_let_nobody_in() {
    for name in ["auth-url", "auth-type", "auth-tls-secret"] {
        let (found, faults) = annotations(&[(name, "x")]);
        assert!(found.refused.is_some_and(|why| why.contains(name)));
        assert_eq!(faults[0].reason(), "AnnotationNotServed");
    }
    let (found, faults) = annotations(&[("whitelist-source-range", "10.0.0.0/8,10.0.0.0/33")]);
    assert!(found.refused.is_some() && found.allowed_sources.is_empty() && faults.len() == 1);
    // What only shapes traffic is passed over, and said.
    let (found, faults) = annotations(&[("limit-rps", "5"), ("configuration-snippet", "more_set_headers x;")]);
    assert!(found.refused.is_none() && faults.len() == 2);
    let foreign = BTreeMap::from([("example.com/auth-url".to_string(), "x".to_string())]);
    assert_eq!(read(&foreign).1, []);
}

#[test]
fn origins_are_allowed_by_name_and_by_one_label() {
    let (found, faults) = annotations(&[
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://a.example, https://*.b.example:8443, no"),
    ]);
    assert_eq!(faults.len(), 1);
    let cors = found.cors.unwrap();
    let allowed = |origin: &str| {
        let headers = HeaderMap::from_iter([(http::header::ORIGIN, HeaderValue::from_str(origin).unwrap())]);
        cors.allowed(&headers).is_some()
    };
    assert!(allowed("https://a.example") && allowed("HTTPS://A.Example") && allowed("https://x.b.example:8443"));
    for other in
        ["http://a.example", "https://a.example.evil", "https://x.y.b.example:8443", "https://.b.example:8443", "null"]
    {
        assert!(!allowed(other), "{other}");
    }
    assert!(cors.allowed(&HeaderMap::new()).is_none());
    let any = annotations(&[("enable-cors", "true")]).0.cors.unwrap();
    assert_eq!(any.allowed(&HeaderMap::new()).unwrap(), "*");
    assert!(annotations(&[("cors-allow-origin", "*")]).0.cors.is_none());
    assert!(annotations(&[("enable-cors", "true"), ("cors-allow-origin", "no")]).0.cors.is_none());
}

#[test]
fn canaries_have_a_header_a_cookie_and_a_weight() {
    let (found, faults) = annotations(&[
        ("canary", "true"),
        ("canary-by-header", "X-Canary"),
        ("canary-by-header-value", "yes"),
        ("canary-by-cookie", "canary"),
        ("canary-weight", "150"),
        ("canary-weight-total", "200"),
    ]);
    assert_eq!(faults, []);
    let canary = found.canary.unwrap();
    assert_eq!(canary.header.unwrap().1, CanaryValue::Exact("yes".into()));
    assert_eq!((canary.cookie.as_deref(), canary.weight, canary.total), (Some("canary"), 150, 200));
    assert!(annotations(&[("canary-weight", "10")]).0.canary.is_none());
}
