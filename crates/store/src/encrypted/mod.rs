//! Encryption at rest (`EncryptionConfiguration`).
//!
//! It wraps another store: values are encrypted when they are written, and decrypted for the observer. Values begin with upstream's
//! prefixes (`k8s:enc:aescbc:v1:NAME:`), which name the key.
//!
//! Keys are rotated as upstream documents: put a new key first and restart. Values with other keys are then re-encrypted in the
//! background.

mod ciphers;
mod config;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

pub use config::{ConfigError, Encryption};

use crate::{Change, KeyValue, Most, Observer, Page, ReadError, Store, Write, WriteError};

/// A store that encrypts the values of another one.
pub struct EncryptedStore<S> {
    inner: Arc<S>,
    encryption: Arc<Encryption>,
}

impl<S: Store + 'static> EncryptedStore<S> {
    /// Wraps a store.
    pub fn new(inner: S, encryption: Encryption) -> Self {
        EncryptedStore { inner: Arc::new(inner), encryption: Arc::new(encryption) }
    }
}

/// Decrypts values for the wrapped observer.
struct Decrypting {
    observer: Arc<dyn Observer>,
    encryption: Arc<Encryption>,
    /// Stale values, which another key encrypts; or why one can't be decrypted.
    found: Mutex<Result<Vec<(KeyValue, Bytes)>, String>>,
}

impl Observer for Decrypting {
    fn snapshot(&self, items: Vec<KeyValue>, revision: u64) {
        let (mut plain, mut stale) = (Vec::with_capacity(items.len()), Vec::new());
        for item in items {
            match self.encryption.open(&item.key, &item.value) {
                Ok(value) => {
                    if !self.encryption.is_current(&item.key, &item.value) {
                        stale.push((item.clone(), value.clone()));
                    }
                    plain.push(KeyValue { value, ..item });
                }
                Err(why) => {
                    *self.found.lock() = Err(format!("{} can't be decrypted: {why}", item.key));
                    return;
                }
            }
        }
        *self.found.lock() = Ok(stale);
        self.observer.snapshot(plain, revision);
    }

    fn changes(&self, batch: &[Change]) {
        let open = |change: &Change| {
            let value = change.value.as_ref().map(|v| self.encryption.open(&change.key, v));
            // This process has encrypted the value with a key that it has.
            let value = value.transpose().unwrap_or_default();
            Change { key: change.key.clone(), revision: change.revision, value }
        };
        self.observer.changes(&batch.iter().map(open).collect::<Vec<_>>());
    }
}

#[async_trait]
impl<S: Store + 'static> Store for EncryptedStore<S> {
    async fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), ReadError> {
        let found = Mutex::new(Ok(Vec::new()));
        let decrypting = Arc::new(Decrypting { observer, encryption: self.encryption.clone(), found });
        self.inner.attach(decrypting.clone()).await?;
        let stale = std::mem::replace(&mut *decrypting.found.lock(), Ok(Vec::new())).map_err(ReadError::Failed)?;
        if !stale.is_empty() {
            tracing::info!(count = stale.len(), "re-encrypting values with the first key of the configuration");
            tasks::spawn("rewrite-encrypted", rewrite(self.inner.clone(), self.encryption.clone(), stale));
        }
        Ok(())
    }

    async fn write(&self, write: Write) -> Result<u64, WriteError> {
        let seal = |key: &str, value: Bytes| self.encryption.seal(key, &value).map_err(WriteError::Failed);
        let write = match write {
            Write::Create { key, value } => Write::Create { value: seal(&key, value)?, key },
            Write::Update { key, value, expected } => Write::Update { value: seal(&key, value)?, key, expected },
            delete @ Write::Delete { .. } => delete,
        };
        self.inner.write(write).await
    }

    async fn page_at(&self, prefix: &str, revision: u64, after: &str, most: Most) -> Result<Page, ReadError> {
        let Page { items, is_cut } = self.inner.page_at(prefix, revision, after, most).await?;
        let open = |item: KeyValue| {
            let value = self.encryption.open(&item.key, &item.value).map_err(ReadError::Failed)?;
            Ok(KeyValue { value, ..item })
        };
        Ok(Page { items: items.into_iter().map(open).collect::<Result<_, _>>()?, is_cut })
    }

    async fn compact(&self, revision: u64) -> Result<(), WriteError> {
        self.inner.compact(revision).await
    }
}

/// Re-encrypts stale values. One that was changed meanwhile is up to date already.
async fn rewrite<S: Store>(inner: Arc<S>, encryption: Arc<Encryption>, stale: Vec<(KeyValue, Bytes)>) {
    for (item, plain) in stale {
        let Ok(value) = encryption.seal(&item.key, &plain) else { return };
        let write = Write::Update { key: item.key.clone(), value, expected: item.revision };
        match inner.write(write).await {
            Ok(_) | Err(WriteError::Conflict { .. } | WriteError::NotFound) => {}
            Err(error) => {
                tracing::warn!(%error, "failed to re-encrypt values; they keep their old keys until the next start");
                return;
            }
        }
    }
    tracing::info!("all values are encrypted with the first key of the configuration");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const OTHER: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

    fn configuration(providers: &str) -> Encryption {
        let text = format!(
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets, '*.apps']\n  providers: {providers}\n"
        );
        Encryption::read(&text).unwrap()
    }

    #[derive(Default)]
    struct Seen(Mutex<Vec<(String, Bytes)>>);

    impl Observer for Seen {
        fn snapshot(&self, items: Vec<KeyValue>, _: u64) {
            self.0.lock().extend(items.into_iter().map(|i| (i.key.to_string(), i.value)));
        }
        fn changes(&self, batch: &[Change]) {
            self.0.lock().extend(batch.iter().map(|c| (c.key.to_string(), c.value.clone().unwrap_or_default())));
        }
    }

    #[tokio::test]
    async fn values_are_encrypted_on_disk_and_plain_for_the_observer() {
        for (provider, prefix) in [
            (format!("[{{aescbc: {{keys: [{{name: k1, secret: {SECRET}}}]}}}}]"), "k8s:enc:aescbc:v1:k1:"),
            (format!("[{{aesgcm: {{keys: [{{name: k1, secret: {SECRET}}}]}}}}]"), "k8s:enc:aesgcm:v1:k1:"),
            (format!("[{{secretbox: {{keys: [{{name: k1, secret: {SECRET}}}]}}}}]"), "k8s:enc:secretbox:v1:k1:"),
        ] {
            let store = EncryptedStore::new(MemoryStore::default(), configuration(&provider));
            let seen = Arc::new(Seen::default());
            store.attach(seen.clone()).await.unwrap();
            for key in ["/registry/secrets/a/b", "/registry/deployments.apps/a/b", "/registry/pods/a/b"] {
                store.write(Write::Create { key: key.into(), value: "hello".into() }).await.unwrap();
            }
            assert!(seen.0.lock().iter().all(|(_, value)| value == "hello"), "{provider}");
            let raw = store.inner.list_at("/registry/", 3).await.unwrap();
            let begins = |key: &str| raw.iter().any(|i| i.key.contains(key) && i.value.starts_with(prefix.as_bytes()));
            assert!(begins("secrets") && begins("deployments.apps") && !begins("pods"), "{provider}");
            assert!(!raw.iter().any(|i| i.key.contains("secrets") && i.value.windows(5).any(|w| w == b"hello")));
            assert_eq!(store.list_at("/registry/secrets/", 3).await.unwrap()[0].value, "hello");
        }
    }

    #[tokio::test]
    async fn a_new_first_key_takes_over_and_a_lost_key_is_told() {
        let old = format!("[{{identity: {{}}}}, {{aescbc: {{keys: [{{name: k1, secret: {SECRET}}}]}}}}]");
        let store = EncryptedStore::new(MemoryStore::default(), configuration(&old));
        store.attach(Arc::new(Seen::default())).await.unwrap();
        store.write(Write::Create { key: "/registry/secrets/a/b".into(), value: "hello".into() }).await.unwrap();
        let inner = Arc::into_inner(store.inner).unwrap();
        let new = format!("[{{aesgcm: {{keys: [{{name: k2, secret: {OTHER}}}]}}}}, {{identity: {{}}}}]");
        let store = EncryptedStore::new(inner, configuration(&new));
        let seen = Arc::new(Seen::default());
        store.attach(seen.clone()).await.unwrap();
        while seen.0.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        let raw = store.inner.list_at("/registry/secrets/", 2).await.unwrap();
        assert!(raw[0].value.starts_with(b"k8s:enc:aesgcm:v1:k2:"));
        let inner = store.inner.clone();
        let lost = format!("[{{aesgcm: {{keys: [{{name: k3, secret: {SECRET}}}]}}}}]");
        let store = EncryptedStore { inner, encryption: Arc::new(configuration(&lost)) };
        let error = store.attach(Arc::new(Seen::default())).await.unwrap_err().to_string();
        assert!(error.contains("/registry/secrets/a/b can't be decrypted") && error.contains("k2"), "{error}");
    }

    #[test]
    fn a_value_moved_to_another_key_is_refused_by_aesgcm() {
        let encryption = configuration(&format!("[{{aesgcm: {{keys: [{{name: k, secret: {SECRET}}}]}}}}]"));
        let sealed = encryption.seal("/registry/secrets/a/b", b"x").unwrap();
        assert_eq!(encryption.open("/registry/secrets/a/b", &sealed).unwrap(), "x");
        assert!(encryption.open("/registry/secrets/a/c", &sealed).is_err());
        let mut bent = sealed.to_vec();
        *bent.last_mut().unwrap() ^= 1;
        assert!(encryption.open("/registry/secrets/a/b", &bent).is_err());
    }

    #[test]
    fn configurations_that_protect_nothing_are_refused() {
        let head = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n";
        for (rest, why) in [
            ("resources: []", "resources"),
            ("resources: [{resources: [], providers: [{identity: {}}]}]", "resources[0].resources"),
            ("resources: [{resources: [secrets], providers: []}]", "resources[0].providers"),
            ("resources: [{resources: [secrets], providers: [{kms: {name: x}}]}]", "kms"),
            ("resources: [{resources: [secrets], providers: [{aescbc: {keys: []}}]}]", "keys"),
            ("resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: '!'}]}}]}]", "base64"),
            ("resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: YQ==}]}}]}]", "bytes"),
            (
                "resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: 'a:b', secret: YQ==}]}}]}]",
                "name",
            ),
        ] {
            let error = Encryption::read(&format!("{head}{rest}\n")).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{rest}: {error}");
        }
        assert!(Encryption::read("kind: Pod\n").is_err());
    }
}
