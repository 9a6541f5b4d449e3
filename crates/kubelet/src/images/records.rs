//! Which pods may use an image that was pulled for another one (KEP-2535): what was pulled with a secret is for pods that have that secret, or
//! that the registry gives it to anew. Otherwise a pod could run, and read, what another's credentials succeeded to this node, by naming it.
//!
//! A pull is written down before it begins, so that an image that came just before a crash isn't taken for one that lay here always.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use runtime::image::Credentials;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::CredentialVerification;

/// The secrets that are known of one image and repository; of those beyond, the registry is asked each time. As upstream.
const MAX_SECRETS: usize = 100;

const MAX_FILE_BYTES: u64 = 64 << 20;

/// A pull secret, and a digest of what it says of a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PullSecret {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub name: String,
    /// The Secret's uid; empty for one that can't be read now.
    pub uid: String,
    /// SHA-256 of the credentials, in hexadecimal; empty for one that can't be read now.
    pub digest: String,
}

impl PullSecret {
    /// One with these credentials.
    pub fn new(namespace: &str, name: &str, uid: &str, credentials: &Credentials) -> Self {
        let mut digest = Sha256::new();
        let parts = match credentials {
            Credentials::Basic(user, password) => [user.as_str(), password.as_str()],
            Credentials::Bearer(token) => ["", token.as_str()],
            Credentials::Anonymous => ["", ""],
        };
        for part in parts {
            // Neither can be taken for a part of the other.
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        PullSecret { namespace: namespace.into(), name: name.into(), uid: uid.into(), digest }
    }

    /// One that can't be read now, as the API doesn't answer.
    pub fn unread(namespace: &str, name: &str) -> Self {
        PullSecret { namespace: namespace.into(), name: name.into(), uid: String::new(), digest: String::new() }
    }

    /// The same secret, whatever it says now, or the same credentials.
    fn is(&self, known: &PullSecret) -> bool {
        let is_named = (&self.namespace, &self.name) == (&known.namespace, &known.name);
        let is_known = if self.digest.is_empty() { is_named } else { is_named && self.uid == known.uid };
        is_known || self.digest == known.digest
    }
}

/// Which pods may use an image by the name of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// It was pulled without credentials.
    everyone: bool,
    secrets: BTreeSet<PullSecret>,
}

/// By repository.
type AccessByRepository = BTreeMap<String, Access>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    /// Names of images whose pull began, each with how often.
    pulling: BTreeMap<String, u32>,
    /// Images that were pulled, by id.
    pulled: BTreeMap<String, AccessByRepository>,
}

/// What is known of pulls. It is on the disk.
pub struct PullRecords {
    file: PathBuf,
    policy: CredentialVerification,
    known: Mutex<Known>,
}

/// A name without its tag or digest.
fn repository(name: &str) -> String {
    let whole = runtime::image::normalize(name).unwrap_or_else(|_| name.into());
    let bare = whole.split('@').next().unwrap_or_default();
    // A colon before the last slash is that of a port.
    match bare.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository.into(),
        _ => bare.into(),
    }
}

impl PullRecords {
    /// Reads what is known. Pulls that a process before this one began count as pulls of images that are here under these names now: `find` tells
    /// the id of an image of that name.
    pub fn open(folder: &Path, policy: CredentialVerification, find: impl Fn(&str) -> Option<String>) -> Self {
        let file = folder.join("image-pulls.json");
        let mut known: Known = match bounded::bytes(&file, MAX_FILE_BYTES) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::error!(%error, file = %file.display(), "who may use which image can't be read; images that are here count as those of everyone");
                Known::default()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Known::default(),
            Err(error) => {
                tracing::error!(%error, file = %file.display(), "failed to read who may use which image; images that are here count as those of everyone");
                Known::default()
            }
        };
        for name in std::mem::take(&mut known.pulling).into_keys() {
            if let Some(id) = find(&name) {
                known.pulled.entry(id).or_default();
            }
        }
        PullRecords { file, policy, known: Mutex::new(known) }
    }

    /// Whether the registry must be asked before a pod with these secrets uses the image `id`, which is here, by this name.
    pub fn must_pull(&self, name: &str, id: &str, secrets: &[PullSecret]) -> bool {
        let known = self.known.lock();
        let record = known.pulled.get(id);
        let by_kubelet = record.is_some() || known.pulling.contains_key(name);
        let verified = match self.policy {
            CredentialVerification::NeverVerify => false,
            CredentialVerification::NeverVerifyPreloadedImages => by_kubelet,
            CredentialVerification::AlwaysVerify => true,
        };
        if !verified {
            return false;
        }
        let Some(access) = record.and_then(|record| record.get(&repository(name))) else { return true };
        !access.everyone && !secrets.iter().any(|own| access.secrets.iter().any(|known| own.is(known)))
    }

    fn begin(&self, name: &str) -> std::io::Result<()> {
        let mut known = self.known.lock();
        *known.pulling.entry(name.into()).or_default() += 1;
        self.save(&known).inspect_err(|_| forget(&mut known, name))
    }

    fn end(&self, name: &str, came: Option<(&str, Option<PullSecret>)>, is_here: impl Fn(&str) -> bool) {
        let mut known = self.known.lock();
        if let Some((id, secret)) = came {
            known.pulled.retain(|known, _| known == id || is_here(known));
            let access = known.pulled.entry(id.into()).or_default().entry(repository(name)).or_default();
            match secret {
                None => access.everyone = true,
                Some(secret) if access.secrets.len() < MAX_SECRETS => {
                    // What the same secret said before is replaced.
                    access.secrets.retain(|s| (&s.namespace, &s.name) != (&secret.namespace, &secret.name));
                    access.secrets.insert(secret);
                }
                Some(_) => {}
            }
        }
        let before = known.clone();
        forget(&mut known, name);
        if let Err(error) = self.save(&known) {
            // The pull that began stays written down, so the image isn't taken for everyone's.
            tracing::error!(%error, image = name, "who may use an image can't be written");
            *known = before;
        }
    }

    /// Writes down that a pull begins.
    ///
    /// # Errors
    /// When it can't be written: then nothing may be pulled.
    pub fn pulling<'a>(&'a self, name: &'a str) -> std::io::Result<Pulling<'a>> {
        self.begin(name)?;
        Ok(Pulling { pulled: self, name, is_over: false })
    }

    fn save(&self, known: &Known) -> std::io::Result<()> {
        bounded::durable::replace(&self.file, &serde_json::to_vec(known).map_err(std::io::Error::from)?)
    }
}

/// A pull that was written down. One that is broken off brings nothing.
pub struct Pulling<'a> {
    pulled: &'a PullRecords,
    name: &'a str,
    is_over: bool,
}

impl Pulling<'_> {
    /// Writes down that an image came, and the secret that it came with. `is_here` says which images there still are.
    pub fn succeeded(mut self, id: &str, secret: Option<PullSecret>, is_here: impl Fn(&str) -> bool) {
        self.is_over = true;
        self.pulled.end(self.name, Some((id, secret)), is_here);
    }
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.pulled.end(self.name, None, |_| true);
        }
    }
}

/// One pull of this name is over.
fn forget(known: &mut Known, name: &str) {
    match known.pulling.get_mut(name) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            known.pulling.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(namespace: &str, name: &str, password: &str) -> PullSecret {
        PullSecret::new(
            namespace,
            name,
            &format!("uid of {namespace}/{name}"),
            &Credentials::Basic("u".into(), password.into()),
        )
    }

    fn open(folder: &Path, policy: CredentialVerification) -> PullRecords {
        PullRecords::open(folder, policy, |name| (name == "r.io/half:1").then(|| "half".to_string()))
    }

    fn pull(pulled: &PullRecords, name: &str, id: &str, secret: Option<PullSecret>) {
        pulled.pulling(name).unwrap().succeeded(id, secret, |_| true);
    }

    #[test]
    fn image_that_a_secret_brought_is_for_those_who_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let pulled = open(folder.path(), CredentialVerification::default());
        let (own, others) = (secret("a", "s", "right"), secret("b", "t", "wrong"));
        pull(&pulled, "r.io/private:1", "id", Some(own.clone()));
        for pulled in [&pulled, &open(folder.path(), CredentialVerification::default())] {
            let must = |secrets: &[PullSecret]| pulled.must_pull("r.io/private:1", "id", secrets);
            assert!(!must(std::slice::from_ref(&own)));
            assert!(must(&[]) && must(std::slice::from_ref(&others)));
            // The same credentials elsewhere, and the same secret with others.
            assert!(!must(&[secret("b", "t", "right")]) && !must(&[secret("a", "s", "changed")]));
            // While the API doesn't answer a secret's name counts: pods are restarted as ever.
            assert!(!must(&[PullSecret::unread("a", "s")]) && must(&[PullSecret::unread("b", "s")]));
            // Another tag of the repository is the same image's; another repository isn't.
            assert!(!pulled.must_pull("r.io/private:2", "id", std::slice::from_ref(&own)));
            assert!(pulled.must_pull("r.io/other:1", "id", std::slice::from_ref(&own)));
        }
        // Once the registry gave it to everyone, it is everyone's.
        pull(&pulled, "r.io/private:1", "id", None);
        assert!(!pulled.must_pull("r.io/private:1", "id", &[]));
    }

    #[test]
    fn images_that_nobody_pulled_are_for_everyone_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!open(folder.path(), CredentialVerification::NeverVerifyPreloadedImages).must_pull(
            "r.io/a:1",
            "id",
            &[]
        ));
        assert!(open(folder.path(), CredentialVerification::AlwaysVerify).must_pull("r.io/a:1", "id", &[]));
        let never = open(folder.path(), CredentialVerification::NeverVerify);
        pull(&never, "r.io/a:1", "id", Some(secret("a", "s", "p")));
        assert!(!never.must_pull("r.io/a:1", "id", &[]));
    }

    #[test]
    fn image_of_a_pull_that_a_crash_cut_short_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let before = open(folder.path(), CredentialVerification::default());
        std::mem::forget(before.pulling("r.io/half:1").unwrap());
        assert!(before.must_pull("r.io/half:1", "half", &[]), "it is on its way");
        drop(before);
        assert!(open(folder.path(), CredentialVerification::default()).must_pull("r.io/half:1", "half", &[]));
        // One that failed brings nothing.
        let after = open(folder.path(), CredentialVerification::default());
        drop(after.pulling("r.io/b:1").unwrap());
        assert!(!after.must_pull("r.io/b:1", "b", &[]));
    }

    #[test]
    fn nothing_is_kept_of_images_that_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let pulled = open(folder.path(), CredentialVerification::default());
        pull(&pulled, "r.io/a:1", "old", None);
        pulled.pulling("r.io/a:1").unwrap().succeeded("new", None, |id| id != "old");
        assert_eq!(pulled.known.lock().pulled.keys().collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn repositories_are_names_without_tag_and_digest() {
        for (name, expected) in [
            ("nginx", "docker.io/library/nginx"),
            ("r.io:5000/a/b:1", "r.io:5000/a/b"),
            ("r.io:5000/a", "r.io:5000/a"),
            (&format!("r.io/a@sha256:{}", "0".repeat(64)), "r.io/a"),
        ] {
            assert_eq!(repository(name), expected, "{name}");
        }
    }
}
