//! `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`): which resources are encrypted, and with which keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::ciphers::{Cipher, cipher};

const PREFIX: &str = "k8s:enc:";

/// Why an `EncryptionConfiguration` is invalid: the field and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {why}")]
pub struct ConfigError {
    field: String,
    why: String,
}

fn wrong<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { field: field.into(), why: why.into() })
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<std::collections::BTreeMap<String, Provider>>,
}

#[derive(Deserialize, Default)]
struct Provider {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

/// A provider with a key, or `identity`.
struct Transformer {
    /// `k8s:enc:aescbc:v1:NAME:`; empty for `identity`.
    prefix: String,
    cipher: Option<Box<dyn Cipher>>,
}

struct Rule {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` (all of the core group) or `*.*`.
    resources: Vec<String>,
    transformers: Vec<Transformer>,
}

/// A parsed `EncryptionConfiguration`.
pub struct Encryption {
    rules: Vec<Rule>,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys must not be logged.
        f.debug_struct("Encryption").field("rules", &self.rules.len()).finish()
    }
}

impl Encryption {
    /// Reads a configuration (YAML or JSON).
    ///
    /// # Errors
    /// When it is malformed, encrypts nothing, or wants a provider that isn't there (`kms`); names the field.
    pub fn read(text: &str) -> Result<Self, ConfigError> {
        let document: Document = match apimachinery::yaml::from_str(text) {
            Ok(document) => document,
            Err(error) => return wrong("EncryptionConfiguration", error.to_string()),
        };
        if document.kind != "EncryptionConfiguration" {
            return wrong("kind", format!("must be EncryptionConfiguration, not {:?}", document.kind));
        }
        if document.resources.is_empty() {
            return wrong("resources", "must name at least one resource");
        }
        let read = |(i, resources): (usize, Resources)| Rule::read(&format!("resources[{i}]"), resources);
        let rules = document.resources.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Encryption { rules })
    }

    /// The rule for a key of the store: `/registry/secrets/…`.
    fn rule(&self, key: &str) -> Option<&Rule> {
        let resource = key.strip_prefix("/registry/")?.split('/').next()?;
        let group = resource.split_once('.').map_or("", |(_, group)| group);
        let fits = |wanted: &String| match wanted.strip_prefix("*.") {
            Some("*") => true,
            Some(wanted) => wanted == group,
            None => wanted == resource,
        };
        self.rules.iter().find(|rule| rule.resources.iter().any(fits))
    }

    /// Encrypts a value.
    pub(super) fn seal(&self, key: &str, value: &[u8]) -> Result<Bytes, String> {
        let first = self.rule(key).and_then(|rule| rule.transformers.first());
        let Some(Transformer { prefix, cipher: Some(cipher) }) = first else {
            return Ok(Bytes::copy_from_slice(value));
        };
        let sealed = cipher.seal(key, value).ok_or("a value can't be encrypted")?;
        Ok([prefix.as_bytes(), &sealed].concat().into())
    }

    /// Decrypts a value.
    pub(super) fn open(&self, key: &str, value: &[u8]) -> Result<Bytes, String> {
        if !value.starts_with(PREFIX.as_bytes()) {
            return Ok(Bytes::copy_from_slice(value));
        }
        let transformers = self.rule(key).map(|rule| rule.transformers.as_slice()).unwrap_or_default();
        for Transformer { prefix, cipher } in transformers {
            if let (Some(cipher), Some(sealed)) = (cipher, value.strip_prefix(prefix.as_bytes())) {
                let opened = cipher.open(key, sealed);
                return opened
                    .map(Bytes::from)
                    .ok_or_else(|| format!("the key of {prefix} doesn't fit, or it is damaged"));
            }
        }
        let named =
            String::from_utf8_lossy(&value[..value.len().min(80)]).splitn(6, ':').take(5).collect::<Vec<_>>().join(":");
        Err(format!("it was written with {named:?}, which the configuration doesn't have any more: add that key again"))
    }

    /// Whether a value is encrypted with the first key of its rule.
    pub(super) fn is_current(&self, key: &str, value: &[u8]) -> bool {
        match self.rule(key).and_then(|rule| rule.transformers.first()) {
            Some(Transformer { prefix, cipher: Some(_) }) => value.starts_with(prefix.as_bytes()),
            _ => !value.starts_with(PREFIX.as_bytes()),
        }
    }
}

impl Rule {
    fn read(at: &str, from: Resources) -> Result<Self, ConfigError> {
        if from.resources.is_empty() {
            return wrong(format!("{at}.resources"), "must name at least one resource");
        }
        if from.providers.is_empty() {
            return wrong(format!("{at}.providers"), "must have at least one provider");
        }
        let mut transformers = Vec::new();
        for (i, provider) in from.providers.into_iter().enumerate() {
            let at = format!("{at}.providers[{i}]");
            let mut named = provider.into_iter();
            let (Some((kind, provider)), None) = (named.next(), named.next()) else {
                return wrong(at, "must have exactly one of aescbc, aesgcm, secretbox and identity");
            };
            match kind.as_str() {
                "identity" => transformers.push(Transformer { prefix: String::new(), cipher: None }),
                "aescbc" | "aesgcm" | "secretbox" => keys(&format!("{at}.{kind}"), &kind, provider, &mut transformers)?,
                "kms" => return wrong(format!("{at}.kms"), "isn't served by this version of timonel"),
                _ => return wrong(at, format!("{kind:?} is none of aescbc, aesgcm, secretbox and identity")),
            }
        }
        Ok(Rule { resources: from.resources, transformers })
    }
}

fn keys(at: &str, kind: &str, provider: Provider, transformers: &mut Vec<Transformer>) -> Result<(), ConfigError> {
    if provider.keys.is_empty() {
        return wrong(format!("{at}.keys"), "must have at least one key");
    }
    for (i, key) in provider.keys.into_iter().enumerate() {
        let at = format!("{at}.keys[{i}]");
        if key.name.is_empty() || key.name.contains(':') {
            return wrong(format!("{at}.name"), "must not be empty or contain a colon");
        }
        let Ok(bytes) = STANDARD.decode(key.secret.trim()) else {
            return wrong(format!("{at}.secret"), "must be base64");
        };
        let Some(cipher) = cipher(kind, &bytes) else {
            let lengths = if kind == "secretbox" { "32" } else { "16, 24 or 32" };
            return wrong(format!("{at}.secret"), format!("has {} bytes, must have {lengths}", bytes.len()));
        };
        transformers.push(Transformer { prefix: format!("{PREFIX}{kind}:v1:{}:", key.name), cipher: Some(cipher) });
    }
    Ok(())
}
