//! One repository of one registry (distribution-spec). Everything that a registry sends is bound in bytes before it is kept.

mod challenge;
mod manifest;

use std::time::Duration;

use bytes::Bytes;
use oci_spec::distribution::Reference;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::archive::{DOCUMENT, is_digest};
use super::layers::hex;
use super::registries::{Credentials, Endpoint};
pub use challenge::{Challenge, read_challenge};
pub(super) use manifest::architecture;
pub use manifest::{Descriptor, Found, Manifest, read_manifest};

/// The most that is read of a token server's answer, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// The same of the reasons that come with a refusal.
const MAX_ERROR_BYTES: u64 = 64 << 10;
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

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// A repository of a registry, with credentials or anonymously.
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
mod tests;
