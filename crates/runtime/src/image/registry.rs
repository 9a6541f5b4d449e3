//! One repository of one registry (distribution-spec). Everything that a registry sends is bound in bytes before it is kept.

use std::time::Duration;

use bytes::Bytes;
use oci_spec::distribution::Reference;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::archive::{DOCUMENT, is_digest};
use super::layers::{LARGEST, hex};
use super::registries::{Credentials, Endpoint};

/// The most that is read of a token server's answer, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// The same of the reasons that come with a refusal.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Layers of one image: the kernel stacks no more for one overlay (`OVL_MAX_STACK`).
const MOST_LAYERS: usize = 500;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A registry that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What manifests may be (image-spec, and what Docker had before it).
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{}", chain(.0))]
    Request(#[from] reqwest::Error),
    #[error("the registry says {status}{reasons}")]
    Refused { status: StatusCode, reasons: String },
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    Nonsense(String),
}

impl RegistryError {
    /// Whether a registry says that it was asked too often (RFC 6585, section 4; distribution-spec, "Error Codes").
    fn is_limit(&self) -> bool {
        match self {
            RegistryError::Refused { status, reasons } => {
                *status == StatusCode::TOO_MANY_REQUESTS || reasons.contains("TOOMANYREQUESTS")
            }
            _ => false,
        }
    }

    /// The registry's words, and what to do where it wants credentials.
    pub fn told(&self) -> String {
        let remedy = match self {
            RegistryError::Refused { status: StatusCode::UNAUTHORIZED, .. } => {
                " (unauthorized: give credentials with an imagePullSecret or in registries.yaml)"
            }
            error if error.is_limit() => {
                " (the registry's rate limit: who gives credentials, with an imagePullSecret or in registries.yaml, has a higher one, and mirrors have their own)"
            }
            _ => "",
        };
        format!("{self}{remedy}")
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A part of an image, named by its content (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// An index of images for several platforms, or the manifest of one (image-spec, image-index.md and manifest.md).
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// What a manifest says of an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Either the manifest of an image, or the digest of that for this machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Image(Manifest),
    Elsewhere(String),
}

/// The names that images have for this machine's kind of processor.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads what a registry says an image is.
///
/// # Errors
/// When it is no manifest and no index, or has nothing for this machine, or names what can't be a part of an image.
pub fn read_manifest(bytes: &[u8]) -> Result<Found, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| format!("the manifest is malformed: {e}"))?;
    if let Some(manifests) = document.manifests {
        let fits =
            |m: &Descriptor| m.platform.as_ref().is_some_and(|p| p.architecture == architecture() && p.os == "linux");
        let chosen = manifests.into_iter().find(fits);
        let chosen = chosen.ok_or_else(|| format!("no image for linux/{} in the manifest list", architecture()))?;
        return match is_digest(&chosen.digest) {
            true => Ok(Found::Elsewhere(chosen.digest)),
            false => Err(format!("the index names a manifest {:?}, which is no digest", chosen.digest)),
        };
    }
    let (Some(config), Some(layers)) = (document.config, document.layers) else {
        return Err("the manifest names no configuration and no layers: it is of an unknown kind".into());
    };
    if layers.len() > MOST_LAYERS {
        return Err(format!("the manifest names {} layers, more than {MOST_LAYERS}", layers.len()));
    }
    for part in layers.iter().chain([&config]) {
        if !is_digest(&part.digest) {
            return Err(format!("the manifest names a part {:?}, which is no digest", part.digest));
        }
        if part.size > LARGEST {
            return Err(format!("the part {} has {} bytes, more than {LARGEST}", part.digest, part.size));
        }
    }
    Ok(Found::Image(Manifest { config, layers }))
}

/// How a registry wants to be signed in to (RFC 9110, section 11.6.1; distribution-spec's token authentication).
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads the header in which a registry asks for credentials; nothing, if it wants something else.
pub fn read_challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "realm" => Some(&mut realm),
            "service" => Some(&mut service),
            "scope" => Some(&mut scope),
            _ => None,
        };
        if let Some(place) = place {
            *place = Some(value.trim().to_string());
        }
        rest = after.trim_start_matches([',', ' ', '\t']);
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// A repository of a registry, as somebody who is known to it or not.
pub struct Registry {
    http: reqwest::Client,
    /// `https://HOST/v2/REPOSITORY`
    base: String,
    repository: String,
    plain_http: bool,
    credentials: Credentials,
    authorization: Mutex<Option<HeaderValue>>,
}

fn secret(text: &str) -> Result<HeaderValue, RegistryError> {
    let malformed = |_| RegistryError::Nonsense("the credentials hold what no header may".into());
    let mut value = HeaderValue::from_str(text).map_err(malformed)?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, RegistryError> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(&format!("Basic {encoded}"))
}

impl Registry {
    /// # Errors
    /// When the endpoint's certificate authority can't be read.
    pub fn new(endpoint: &Endpoint, reference: &Reference, credentials: Credentials) -> Result<Self, RegistryError> {
        let mut client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
        if let Some(pem) = &endpoint.ca_pem {
            client = client.tls_certs_merge([reqwest::Certificate::from_pem(pem)?]);
        }
        if endpoint.insecure {
            client = client.tls_danger_accept_invalid_certs(true);
        }
        let scheme = if endpoint.plain_http { "http" } else { "https" };
        let authorization = match &credentials {
            Credentials::Bearer(token) => Some(secret(&format!("Bearer {token}"))?),
            _ => None,
        };
        Ok(Registry {
            http: client.build()?,
            base: format!("{scheme}://{}/v2/{}", endpoint.host, reference.repository()),
            repository: reference.repository().into(),
            plain_http: endpoint.plain_http,
            credentials,
            authorization: Mutex::new(authorization),
        })
    }

    /// The manifest that `reference` (a tag or digest) stands for on this machine, with its digest and, if that is another, the
    /// digest of what the reference itself stands for.
    ///
    /// # Errors
    /// With the registry's words.
    pub async fn manifest(&self, reference: &str) -> Result<(Manifest, Vec<String>), RegistryError> {
        let mut digests = Vec::new();
        let mut at = reference.to_string();
        // An index names images; one that names a further index isn't followed.
        for _ in 0..2 {
            let response = self.get(&format!("{}/manifests/{at}", self.base), MANIFESTS, None).await?;
            let bytes = whole(response, DOCUMENT).await?;
            let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
            if is_digest(&at) && at != digest {
                return Err(RegistryError::Nonsense(format!("the manifest {at} has the digest {digest}")));
            }
            digests.push(digest);
            match read_manifest(&bytes).map_err(RegistryError::Nonsense)? {
                Found::Image(manifest) => return Ok((manifest, digests)),
                Found::Elsewhere(digest) => at = digest,
            }
        }
        Err(RegistryError::Nonsense("the index leads to another index".into()))
    }

    /// A small part of an image, checked by its digest.
    ///
    /// # Errors
    /// With the registry's words.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        let response = self.blob(&descriptor.digest, 0).await?;
        let bytes = whole(response, DOCUMENT).await?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if digest != descriptor.digest {
            return Err(RegistryError::Nonsense(format!("the part {} has the digest {digest}", descriptor.digest)));
        }
        Ok(bytes)
    }

    /// A part of an image from its byte `from` on, if the registry knows how to begin there: the status says so.
    ///
    /// # Errors
    /// With the registry's words.
    pub async fn blob(&self, digest: &str, from: u64) -> Result<Response, RegistryError> {
        let range = (from > 0).then_some(from);
        self.get(&format!("{}/blobs/{digest}", self.base), "*/*", range).await
    }

    /// Asks, and signs in if that is wanted.
    async fn get(&self, url: &str, accept: &str, from: Option<u64>) -> Result<Response, RegistryError> {
        let ask = || {
            let mut request = self.http.get(url).header(ACCEPT, accept);
            if let Some(authorization) = self.authorization.lock().clone() {
                request = request.header(AUTHORIZATION, authorization);
            }
            match from {
                Some(from) => request.header(RANGE, format!("bytes={from}-")),
                None => request,
            }
        };
        let mut response = ask().send().await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.sign_in(&response).await? {
            response = ask().send().await?;
        }
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    /// Gets what a registry that refused a request wants to see; false if there is nothing to show.
    async fn sign_in(&self, response: &Response) -> Result<bool, RegistryError> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let mut challenges = headers.filter_map(|header| read_challenge(header.to_str().ok()?));
        let authorization = match (challenges.next(), &self.credentials) {
            (Some(Challenge::Bearer { realm, service, scope }), credentials) => {
                self.token(&realm, service, scope, credentials).await?
            }
            (Some(Challenge::Basic), Credentials::Basic(user, password)) => basic(user, password)?,
            _ => return Ok(false),
        };
        *self.authorization.lock() = Some(authorization);
        Ok(true)
    }

    /// Asks the server that a registry trusts for a token.
    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
        credentials: &Credentials,
    ) -> Result<HeaderValue, RegistryError> {
        let mut url = Url::parse(realm)
            .map_err(|e| RegistryError::Nonsense(format!("the registry wants a token of {realm:?}: {e}")))?;
        if url.scheme() != "https" && !self.plain_http {
            return Err(RegistryError::Nonsense(format!(
                "the registry wants a token of {realm}, which is no https URL"
            )));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        url.query_pairs_mut().extend_pairs(service.map(|s| ("service", s))).append_pair("scope", &scope);
        let mut request = self.http.get(url);
        if let Credentials::Basic(user, password) = credentials {
            request = request.header(AUTHORIZATION, basic(user, password)?);
        }
        let response = request.send().await?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let bytes = whole(response, MAX_TOKEN_BYTES).await?;
        let malformed = || RegistryError::Nonsense("the registry's token can't be read".into());
        let answer: Token = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty()).ok_or_else(malformed)?;
        secret(&format!("Bearer {token}"))
    }
}

/// All of an answer, if it isn't larger than it may be.
async fn whole(mut response: Response, limit: u64) -> Result<Bytes, RegistryError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(RegistryError::TooLarge(limit));
    }
    let mut all = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        if all.len().saturating_add(bytes.len()) as u64 > limit {
            return Err(RegistryError::TooLarge(limit));
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.into())
}

/// Why a request was refused (distribution-spec, "Error Codes").
async fn refused(response: Response) -> RegistryError {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Reason>,
    }
    #[derive(Deserialize)]
    struct Reason {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    let body = whole(response, MAX_ERROR_BYTES).await.unwrap_or_default();
    let reasons = serde_json::from_slice::<Envelope>(&body).map_or(Vec::new(), |envelope| envelope.errors);
    let reasons: Vec<String> = reasons.into_iter().map(|r| format!("{}: {}", r.code, r.message)).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" [{}]", reasons.join("; ")) };
    RegistryError::Refused { status, reasons }
}

#[cfg(test)]
mod tests {
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
}
