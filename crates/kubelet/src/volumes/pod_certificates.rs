//! Certificates of pods: the `podCertificate` sources of projected volumes (KEP-4317). The kubelet makes a key, asks a signer for a
//! certificate by a PodCertificateRequest, and asks again when the signer says that it is time to.
//!
//! What it has and what it waits for is in a file of the pod's run folder, which is in memory: another process of this kubelet goes on with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apimachinery::clock;
use informer::Selection;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde::{Deserialize, Serialize};

use super::VolumeError;

/// How long the first certificate is waited for before an event says that it isn't there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Renewals of many pods that began together are spread over this many seconds.
const SPREAD: i64 = 5 * 60;

/// A key and its certificate with those that lead to the authority, as PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub key: String,
    pub chain: String,
    /// When it is to be renewed, as Unix time.
    refresh_at: i64,
}

/// What is known of a source of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    current: Option<Credential>,
    pending: Option<Pending>,
    /// Why the signer gives none. It is final, as upstream.
    refused: Option<String>,
}

/// A request whose answer isn't there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    key: String,
    request: String,
}

/// What has become of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Issued {
        chain: String,
        refresh_at: i64,
    },
    Refused(String),
    /// Somebody deleted the request.
    Gone,
}

/// A source of one pod's volume.
pub struct Source<'a> {
    pub client: &'a Client,
    pub node: &'a str,
    pub pod: &'a Pod,
    pub source: &'a PodCertificateProjection,
    /// The file that is its own.
    pub record: PathBuf,
}

/// Where what is known of the `index`th source of a volume is kept.
pub fn record_path(run: &Path, volume: &str, index: usize) -> PathBuf {
    run.join("certificates").join(format!("{volume}-{index}.json"))
}

impl Source<'_> {
    /// The pod's certificate, which is asked for if there is none or if it is time to.
    ///
    /// # Errors
    /// When the signer gave none, or hasn't yet, or the API refuses.
    pub async fn current(&self) -> Result<Credential, VolumeError> {
        let mut record = self.read();
        if let Some(why) = &record.refused {
            return Err(VolumeError::Refused(why.clone()));
        }
        let now = clock::now().as_second();
        if let Some(current) = record.current.as_ref().filter(|current| now < current.refresh_at) {
            return Ok(current.clone());
        }
        let renewed = self.ask(&mut record).await;
        match (renewed, record.current) {
            (Ok(()), Some(current)) => Ok(current),
            (Err(error @ VolumeError::Refused(_)), _) if record.refused.is_some() => Err(error),
            // The old one is good until it expires; the next minute asks again.
            (Err(_), Some(current)) => Ok(current),
            (Err(error), None) => Err(error),
            (Ok(()), None) => Err(VolumeError::Refused("credential bundle is not issued yet".into())),
        }
    }

    /// Requests a certificate, unless one is requested, and looks whether it is there.
    async fn ask(&self, record: &mut Record) -> Result<(), VolumeError> {
        let pending = match record.pending.clone() {
            Some(pending) => pending,
            None => {
                let pending = self.request().await?;
                record.pending = Some(pending.clone());
                self.write(record)?;
                pending
            }
        };
        let patience = if record.current.is_some() { Duration::ZERO } else { PATIENCE };
        let Some(answer) = self.answer(&pending.request, patience).await? else { return Ok(()) };
        record.pending = None;
        let result = match answer {
            Answer::Issued { chain, refresh_at } => {
                let refresh_at = refresh_at.saturating_add(self.spread());
                record.current = Some(Credential { key: pending.key, chain, refresh_at });
                Ok(())
            }
            Answer::Refused(why) => {
                record.refused = Some(why.clone());
                Err(VolumeError::Refused(why))
            }
            Answer::Gone => {
                let key = format!("{}/{}", self.namespace(), pending.request);
                Err(VolumeError::Refused(format!("PodCertificateRequest {key:?} appears to have been deleted")))
            }
        };
        self.write(record)?;
        result
    }

    /// What has become of a request, now or within a time; none if nothing yet.
    async fn answer(&self, name: &str, patience: Duration) -> Result<Option<Answer>, VolumeError> {
        let namespace = self.namespace();
        if patience.is_zero() {
            let api: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), &namespace);
            return Ok(answer_of(api.get_opt(name).await?));
        }
        let selection = Selection::named(PodCertificateRequest::url_path(&(), Some(&namespace)), name);
        let answered = informer::wait_until(self.client.clone(), selection, answer_of);
        Ok(tokio::time::timeout(patience, answered).await.ok())
    }

    async fn request(&self) -> Result<Pending, VolumeError> {
        let kind = &self.source.key_type;
        let Some(kind) = pki::KeyType::named(kind) else {
            return Err(VolumeError::Refused(format!("unknown key type {kind:?}")));
        };
        let made = tokio::task::spawn_blocking(move || pki::new_key_and_request(kind)).await?;
        let made = made.map_err(|error| VolumeError::Refused(format!("while generating keypair: {error}")))?;
        let (namespace, pod) = (self.namespace(), self.pod);
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.unwrap_or_else(|| "default".into());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let account_uid = accounts.get_metadata(&account).await?.uid().unwrap_or_default();
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node_uid = nodes.get_metadata(self.node).await?.uid().unwrap_or_default();
        let (pod_name, pod_uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod_name.clone(),
            uid: pod_uid.clone(),
            ..OwnerReference::default()
        };
        let request = PodCertificateRequest {
            metadata: ObjectMeta {
                generate_name: Some("req-".into()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: PodCertificateRequestSpec {
                max_expiration_seconds: self.source.max_expiration_seconds,
                node_name: self.node.into(),
                node_uid,
                pod_name,
                pod_uid,
                service_account_name: account,
                service_account_uid: account_uid,
                signer_name: self.source.signer_name.clone(),
                stub_pkc_s10_request: ByteString(made.request),
                unverified_user_annotations: self.source.user_annotations.clone(),
            },
            status: None,
        };
        let api: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), &namespace);
        let created = api.create(&PostParams::default(), &request).await?;
        Ok(Pending { key: made.key_pem, request: created.name_any() })
    }

    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }

    /// How many seconds later than its signer says this pod's certificate is renewed: always the same ones.
    fn spread(&self) -> i64 {
        let of = format!("{}/{}", self.pod.uid().unwrap_or_default(), self.record.display());
        let digest = pki::sha256_hex(of.as_bytes());
        let number = digest.get(..8).and_then(|hex| i64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        number.rem_euclid(SPREAD)
    }

    fn read(&self) -> Record {
        let text = bounded::bytes(&self.record, bounded::MAX_OWN_FILE_BYTES).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn write(&self, record: &Record) -> Result<(), VolumeError> {
        Ok(bounded::durable::create(&self.record, &serde_json::to_vec(record)?)?)
    }
}

/// What a request in this state has come to; none if it hasn't ended.
fn answer_of(request: Option<PodCertificateRequest>) -> Option<Answer> {
    let Some(request) = request else { return Some(Answer::Gone) };
    let status = request.status.unwrap_or_default();
    status.conditions.iter().flatten().find_map(|condition| {
        let refused = |what: &str| {
            let (reason, message) = (&condition.reason, &condition.message);
            let why = format!("PodCertificateRequest was permanently {what}: reason={reason:?} message={message:?}");
            Some(Answer::Refused(why))
        };
        match condition.type_.as_str() {
            "Denied" => refused("denied"),
            "Failed" => refused("failed"),
            "Issued" => Some(Answer::Issued {
                chain: clean(status.certificate_chain.as_deref().unwrap_or("")),
                refresh_at: status.begin_refresh_at.as_ref().map_or(0, |at| at.0.as_second()),
            }),
            _ => None,
        }
    })
}

/// The certificates of a chain without what stands around them.
fn clean(chain: &str) -> String {
    pki::pem_blocks(chain).map(|block| pki::to_pem("CERTIFICATE", &block.contents)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(condition: &str) -> PodCertificateRequest {
        let conditions: Vec<Value> = (!condition.is_empty())
            .then(|| {
                json!({"type": condition, "status": "True", "reason": "R", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .into_iter()
            .collect();
        serde_json::from_value(
            json!({"metadata": {}, "spec": {"nodeName": "", "nodeUID": "", "podName": "", "podUID": "",
            "serviceAccountName": "", "serviceAccountUID": "", "signerName": "", "stubPKCS10Request": ""},
            "status": {"conditions": conditions, "beginRefreshAt": "1970-01-01T00:01:00Z",
                "certificateChain": format!("words\n{}", pki::to_pem("CERTIFICATE", b"x"))}}),
        )
        .unwrap()
    }

    #[test]
    fn what_has_become_of_a_request_is_read_of_its_condition() {
        assert_eq!(answer_of(None), Some(Answer::Gone));
        assert_eq!(answer_of(Some(request(""))), None);
        let refused = |what: &str| {
            let why = format!("PodCertificateRequest was permanently {what}: reason=\"R\" message=\"m\"");
            Some(Answer::Refused(why))
        };
        assert_eq!(answer_of(Some(request("Denied"))), refused("denied"));
        assert_eq!(answer_of(Some(request("Failed"))), refused("failed"));
        let issued = Answer::Issued { chain: pki::to_pem("CERTIFICATE", b"x"), refresh_at: 60 };
        assert_eq!(answer_of(Some(request("Issued"))), Some(issued));
    }

    /// An API that answers every request with `answer`.
    fn client(answer: impl Fn(&str, &str) -> Value + Clone + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (method, path) = (request.method().to_string(), request.uri().path().to_string());
            let body = answer(&method, &path);
            let code = body["code"].as_u64().unwrap_or(200) as u16;
            let response = http::Response::builder()
                .status(code)
                .header("Content-Type", "application/json")
                .body(http_body_util::Full::new(bytes::Bytes::from(body.to_string())));
            std::future::ready(response)
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_when_its_signer_says_and_the_old_one_stays_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let record = record_path(folder.path(), "v", 0);
        let write = |record_of: &Record| {
            bounded::durable::create(&record, &serde_json::to_vec(record_of).unwrap()).unwrap();
        };
        let now = clock::now().as_second();
        let old = |refresh_at| Credential { key: "old".into(), chain: "old".into(), refresh_at };
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let source = PodCertificateProjection {
            key_type: "ED25519".into(),
            signer_name: "example.com/s".into(),
            ..PodCertificateProjection::default()
        };
        let ended = |condition: &'static str| {
            client(move |method, path| match (method, path) {
                ("GET", path) if path.contains("podcertificaterequests") => match condition {
                    "gone" => {
                        json!({"kind": "Status", "code": 404, "status": "Failure", "reason": "NotFound", "message": "x"})
                    }
                    condition => serde_json::to_value(request(condition)).unwrap(),
                },
                ("POST", _) => {
                    let mut made = serde_json::to_value(request("")).unwrap();
                    made["metadata"]["name"] = "req-1".into();
                    made
                }
                _ => {
                    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x", "uid": "x"}})
                }
            })
        };
        let current = |client: Client| {
            let (pod, source, record) = (pod.clone(), source.clone(), record.clone());
            async move { Source { client: &client, node: "node", pod: &pod, source: &source, record }.current().await }
        };
        // Fresh: nobody is asked.
        write(&Record { current: Some(old(now + 100)), ..Record::default() });
        assert_eq!(current(ended("Denied")).await.unwrap(), old(now + 100));
        // Due, and the signer hasn't answered, or the request is gone: the old one is good, and it is asked again.
        write(&Record { current: Some(old(now - 1)), ..Record::default() });
        assert_eq!(current(ended("")).await.unwrap().key, "old");
        let read = || -> Record { serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap() };
        let pending = read().pending.unwrap();
        assert_eq!(pending.request, "req-1");
        assert_eq!(current(ended("gone")).await.unwrap().key, "old");
        assert_eq!(read().pending, None);
        // Answered.
        let new = current(ended("Issued")).await.unwrap();
        assert!(new.key.contains("PRIVATE KEY") && new.chain == pki::to_pem("CERTIFICATE", b"x"), "{new:?}");
        assert!((60..60 + SPREAD).contains(&new.refresh_at), "{new:?}");
        // Refused: that is final.
        assert!(current(ended("Denied")).await.unwrap_err().to_string().contains("permanently denied"));
        assert!(current(ended("Issued")).await.unwrap_err().to_string().contains("permanently denied"));
    }
}
