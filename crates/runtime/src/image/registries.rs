//! `registries.yaml`: mirrors, credentials and CAs of registries, in k3s' format.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// Mirrors and credentials of registries (`--private-registry`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By registry host; `*` for all others.
    #[serde(default)]
    mirrors: BTreeMap<String, Mirror>,
    /// By host of the endpoint.
    #[serde(default)]
    configs: BTreeMap<String, Settings>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mirror {
    #[serde(default)]
    endpoint: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    auth: Option<Auth>,
    #[serde(default)]
    tls: Tls,
}

#[derive(Clone, Default, Deserialize)]
struct Auth {
    username: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

/// Never shows a secret.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(…)")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Tls {
    ca_file: Option<String>,
    #[serde(default)]
    insecure_skip_verify: bool,
}

/// How to sign in to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// None.
    Anonymous,
    /// User and password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

/// A place that may have an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host[:port]`
    pub host: String,
    pub plain_http: bool,
    pub insecure: bool,
    pub ca_pem: Option<Vec<u8>>,
}

impl Registries {
    /// Reads the file; one that doesn't exist is an empty one.
    ///
    /// # Errors
    /// With the line and field that is wrong.
    pub fn read(path: &Path) -> Result<Self, String> {
        match bounded::text(path, bounded::MAX_OWN_FILE_BYTES) {
            Ok(text) if text.trim().is_empty() => Ok(Self::default()),
            Ok(text) => apimachinery::yaml::from_str(&text).map_err(|e| format!("{}: {e}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// The places to ask for an image of `registry`, in order; the registry itself comes last.
    pub fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut endpoints: Vec<Endpoint> =
            mirror.iter().flat_map(|m| &m.endpoint).map(|url| self.endpoint(url)).collect();
        let own = if registry == "docker.io" { "index.docker.io" } else { registry };
        if !endpoints.iter().any(|e| e.host == own) {
            endpoints.push(self.endpoint(own));
        }
        endpoints
    }

    fn endpoint(&self, url: &str) -> Endpoint {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let host = rest.split('/').next().unwrap_or(rest).to_string();
        let tls = self.configs.get(&host).map(|c| c.tls.clone()).unwrap_or_default();
        let loopback = matches!(host.split(':').next(), Some("localhost" | "127.0.0.1"));
        Endpoint {
            plain_http: scheme == "http" || (scheme.is_empty() && loopback),
            insecure: tls.insecure_skip_verify,
            ca_pem: tls.ca_file.and_then(|f| bounded::bytes(f, bounded::MAX_OWN_FILE_BYTES).ok()),
            host,
        }
    }

    /// The credentials for a registry's host.
    pub fn credentials(&self, host: &str) -> Credentials {
        let Some(auth) = self.configs.get(host).and_then(|c| c.auth.as_ref()) else { return Credentials::Anonymous };
        match (&auth.username, &auth.password, &auth.token) {
            (Some(user), Some(password), _) => Credentials::Basic(user.clone(), password.clone()),
            (_, _, Some(token)) => Credentials::Bearer(token.clone()),
            _ => Credentials::Anonymous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_before_the_registry_itself() {
        let text = "mirrors:\n  docker.io:\n    endpoint: ['http://127.0.0.1:5000']\nconfigs:\n  '127.0.0.1:5000':\n    auth: {username: u, password: p}\n";
        let registries: Registries = apimachinery::yaml::from_str(text).unwrap();
        let hosts = |r: &str| registries.endpoints(r).into_iter().map(|e| (e.host, e.plain_http)).collect::<Vec<_>>();
        assert_eq!(hosts("docker.io"), [("127.0.0.1:5000".into(), true), ("index.docker.io".into(), false)]);
        assert_eq!(hosts("quay.io"), [("quay.io".to_string(), false)]);
        assert!(registries.credentials("127.0.0.1:5000") == Credentials::Basic("u".into(), "p".into()));
    }

    #[test]
    fn a_typo_is_refused_with_its_name() {
        let error = apimachinery::yaml::from_str::<Registries>("mirror: {}").unwrap_err().to_string();
        assert!(error.contains("mirror"), "{error}");
    }
}
