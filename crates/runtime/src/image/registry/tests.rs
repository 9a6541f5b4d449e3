use super::manifest::MOST_LAYERS;
use super::*;

fn digest(c: char) -> String {
    format!("sha256:{}", c.to_string().repeat(64))
}

#[test]
fn manifests_name_parts_that_can_be_ones() {
    let (a, b) = (digest('a'), digest('b'));
    let arch = architecture();
    let part = |digest: &str, size: u64| format!(r#"{{"digest": "{digest}", "size": {size}}}"#);
    let image = |layers: &[String]| format!(r#"{{"config": {}, "layers": [{}]}}"#, part(&a, 2), layers.join(","));
    let of = |digest: &str, arch: &str| {
        format!(r#"{{"digest": "{digest}", "platform": {{"architecture": "{arch}", "os": "linux"}}}}"#)
    };
    let read = |text: &str| read_manifest(text.as_bytes());
    assert!(matches!(read(&image(&[part(&b, 1)])), Ok(Found::Image(m)) if m.layers.len() == 1));
    let index = format!(r#"{{"manifests": [{}, {}]}}"#, of(&a, "none"), of(&b, arch));
    assert_eq!(read(&index), Ok(Found::Elsewhere(b.clone())));
    let many = vec![part(&b, 1); MOST_LAYERS + 1];
    for (text, why) in [
        ("{}".to_string(), "unknown kind"),
        ("[1".to_string(), "malformed"),
        (format!(r#"{{"manifests": [{}]}}"#, of(&a, "none")), "no image for linux/"),
        (format!(r#"{{"manifests": [{}]}}"#, of("../../x", arch)), "no digest"),
        (image(&[part("sha256:../..", 1)]), "no digest"),
        (image(&[part(&b, u64::MAX)]), "more than"),
        (image(&[format!(r#"{{"digest": "{b}", "size": -1}}"#)]), "malformed"),
        (image(&many), "501 layers"),
        ("[".repeat(100_000), "malformed"),
    ] {
        let said = read(&text).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn challenges_are_read_as_registries_write_them() {
    let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
        let (realm, service, scope) = (realm.to_string(), service.map(String::from), scope.map(String::from));
        Some(Challenge::Bearer { realm, service, scope })
    };
    for (header, want) in [
        ("Basic realm=\"Registry\"", Some(Challenge::Basic)),
        ("basic", Some(Challenge::Basic)),
        (
            "Bearer realm=\"https://auth/token\",service=\"r\",scope=\"repository:a/b:pull,push\"",
            bearer("https://auth/token", Some("r"), Some("repository:a/b:pull,push")),
        ),
        ("bearer service=x, realm=https://t", bearer("https://t", Some("x"), None)),
        ("Bearer service=\"x\"", None),
        ("Bearer realm=\"never ends", None),
        ("Negotiate abc", None),
        ("", None),
    ] {
        assert_eq!(read_challenge(header), want, "{header}");
    }
}

/// A server that gives everybody the same answer, for as long as somebody takes it.
async fn endless(head: &'static str) -> Endpoint {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = client.read(&mut [0; 4096]).await;
                let _ = client.write_all(head.as_bytes()).await;
                let body = vec![b' '; 1 << 16];
                while client.write_all(&body).await.is_ok() {}
            });
        }
    });
    Endpoint { host, plain_http: true, insecure: false, ca_pem: None }
}

#[tokio::test]
async fn no_more_of_an_answer_is_read_than_may_be() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let reference: Reference = "any/image:1".parse().unwrap();
    for head in
        ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n"]
    {
        let endpoint = endless(head).await;
        let registry = Registry::new(&endpoint, &reference, Credentials::Anonymous).unwrap();
        let refused = registry.manifest("1").await.unwrap_err();
        assert!(matches!(refused, RegistryError::TooLarge(DOCUMENT)), "{refused}");
        let part = Descriptor { digest: digest('a'), size: 1, platform: None };
        let refused = registry.document(&part).await.unwrap_err();
        assert!(matches!(refused, RegistryError::TooLarge(DOCUMENT)), "{refused}");
        let url = format!("http://{}/token", endpoint.host);
        let refused = registry.token(&url, None, None, &Credentials::Anonymous).await.unwrap_err();
        assert!(matches!(refused, RegistryError::TooLarge(MAX_TOKEN_BYTES)), "{refused}");
    }
    // A refusal is one, however much comes with it.
    let endpoint = endless("HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n").await;
    let registry = Registry::new(&endpoint, &reference, Credentials::Anonymous).unwrap();
    let refused = registry.manifest("1").await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused { reasons, .. } if reasons.is_empty()), "{refused}");
}
