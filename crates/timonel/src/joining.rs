//! How an agent becomes a node of its server, and stays one: the server's authority, the node's name, its certificates.
//!
//! The server is waited for, however long it takes: nothing on this machine would be better without the agent. Only what waiting
//! can't mend ends it: a token that is wrong, a name that another machine has.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use informer::Selection;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use pki::{JoinToken, RotatingCertificate};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::transport::{Identity, Limits, Transport, Trust};
use crate::waiting::Waiting;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// How often certificates are looked at; clocks jump.
const CHECK_PERIOD: Duration = Duration::from_secs(60);
/// How long the control plane may take to sign.
const SIGNING_TIMEOUT: Duration = Duration::from_secs(60);

/// Why joining didn't work.
#[derive(Debug)]
pub enum JoinError {
    /// A retry can't help.
    Permanent(anyhow::Error),
    /// A retry may help.
    Retriable(anyhow::Error),
}

impl From<anyhow::Error> for JoinError {
    fn from(error: anyhow::Error) -> Self {
        JoinError::Retriable(error)
    }
}

/// An agent's way in.
#[derive(Clone)]
pub struct Joining {
    pub server: String,
    pub token: JoinToken,
    pub name: String,
    /// This machine's own, made once.
    pub password: String,
    /// Where the certificates are.
    pub folder: PathBuf,
    pub limits: Limits,
}

/// A node that is in.
#[derive(Clone)]
pub struct Joined {
    pub client: Client,
    pub authority_pem: String,
    transport: Transport,
    identity: Arc<RotatingCertificate>,
}

impl Joining {
    fn user(&self) -> String {
        format!("system:node:{}", self.name)
    }

    /// Tries once.
    pub async fn once(&self) -> Result<Joined, JoinError> {
        let authority_pem = self.authority().await?;
        if !self.token.trusts(&authority_pem) {
            return Err(JoinError::Permanent(anyhow::anyhow!(
                "the server at {} isn't the one that the token is of (its CA certificate has another hash): check --server, or take the token from that server's file server/node-token",
                self.server
            )));
        }
        if let Some(identity) = self.kept(&authority_pem).filter(|identity| !needs_rotation(identity)) {
            let joined = self.joined(authority_pem.clone(), identity)?;
            // The name is this machine's, which the server may not know yet.
            if self.claim(&joined.client).await?.is_some() {
                return Ok(joined);
            }
            // By the server's clock the certificate isn't good.
            let identity = self.obtain_by_token(&authority_pem).await?;
            return Ok(self.joined(authority_pem, identity)?);
        }
        let identity = self.obtain(&authority_pem).await?;
        Ok(self.joined(authority_pem, identity)?)
    }

    /// Tries until it works, or never will.
    ///
    /// # Errors
    /// When it never will.
    pub async fn insist(&self, mut waiting: Waiting, stop: &CancellationToken) -> anyhow::Result<Option<Joined>> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(waiting.next()) => {}
                () = stop.cancelled() => return Ok(None),
            }
            match self.once().await {
                Ok(joined) => {
                    tracing::info!(server = self.server, "the server answers");
                    return Ok(Some(joined));
                }
                Err(JoinError::Permanent(error)) => return Err(error),
                Err(JoinError::Retriable(error)) => self.tell(&mut waiting, &error),
            }
        }
    }

    pub fn tell(&self, waiting: &mut Waiting, error: &anyhow::Error) {
        let why = format!("{error:#}");
        if waiting.is_news(&why) {
            tracing::warn!(server = self.server, why, "failed to join the cluster; retrying");
        }
    }

    /// The way in with what is on the disk, for a server that can't be asked now.
    pub fn as_before(&self, authority_pem: &str) -> Option<Joined> {
        let identity = self.kept(authority_pem)?;
        self.joined(authority_pem.to_string(), identity).ok()
    }

    fn joined(&self, authority_pem: String, identity: pki::Identity) -> anyhow::Result<Joined> {
        let identity = RotatingCertificate::new(identity, "")?;
        let shown = Identity::Certificate(identity.clone());
        let transport = Transport::new(&self.server, &Trust::Authority(&authority_pem), shown, self.limits)?;
        Ok(Joined { client: transport.kube(), authority_pem, transport, identity })
    }

    /// The server's CA certificate, over a connection that isn't trusted yet; the token tells whether it is the right one.
    async fn authority(&self) -> anyhow::Result<String> {
        let transport = Transport::new(&self.server, &Trust::Anybody, Identity::Nobody, self.limits)?;
        let request = http::Request::get("/cacerts").body(Vec::new())?;
        let asked = transport.kube().request_text(request).await;
        asked.map_err(plain).with_context(|| format!("the server at {} can't be reached", self.server))
    }

    /// The certificate on the disk, if it is this node's, of this authority, and with its key.
    fn kept(&self, authority_pem: &str) -> Option<pki::Identity> {
        let read = |file: &str| bounded::text(self.folder.join(file), bounded::MAX_OWN_FILE_BYTES).ok();
        let identity = pki::Identity { certificate_pem: read("client.crt")?, key_pem: read("client.key")? };
        let facts = pki::parse_certificate(&identity.certificate_pem).ok()?;
        let is_ours = facts.common_name == self.user()
            && pki::is_signed_by(authority_pem, &identity.certificate_pem)
            && pki::key_matches(&identity.certificate_pem, &identity.key_pem);
        is_ours.then_some(identity)
    }

    /// Has a client certificate made: as the node itself as long as it has a good one, else with the token.
    async fn obtain(&self, authority_pem: &str) -> Result<pki::Identity, JoinError> {
        let own = self.kept(authority_pem).filter(|identity| {
            pki::parse_certificate(&identity.certificate_pem).is_ok_and(|facts| !facts.is_outside_validity())
        });
        if let Some(own) = own {
            let joined = self.joined(authority_pem.to_string(), own)?;
            match self.sign(&joined.client).await {
                Ok(identity) => return Ok(identity),
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::info!(why, "failed to renew the node's certificate with itself; using the token");
                }
            }
        }
        self.obtain_by_token(authority_pem).await
    }

    async fn obtain_by_token(&self, authority_pem: &str) -> Result<pki::Identity, JoinError> {
        let Some(ticket) = self.claim(&self.by_token(authority_pem, &self.token.secret)?).await? else {
            return Err(JoinError::Permanent(anyhow::anyhow!(
                "the server refuses the token: its secret is wrong; the right one is in the server's file server/node-token"
            )));
        };
        Ok(self.sign(&self.by_token(authority_pem, &ticket)?).await?)
    }

    fn by_token(&self, authority_pem: &str, token: &str) -> anyhow::Result<Client> {
        let trust = Trust::Authority(authority_pem);
        Ok(Transport::new(&self.server, &trust, Identity::Token(token.into()), self.limits)?.kube())
    }

    /// Says that the name is this machine's. Who comes with the token gets a ticket for it; who isn't known, nothing.
    async fn claim(&self, client: &Client) -> Result<Option<String>, JoinError> {
        let request = http::Request::post(format!("/timonel/join/{}", self.name))
            .header("timonel-node-password", &self.password)
            .body(Vec::new())
            .map_err(|e| JoinError::Permanent(e.into()))?;
        match client.request_text(request).await {
            Ok(ticket) => Ok(Some(ticket)),
            Err(kube::Error::Api(status)) if status.code == 401 => Ok(None),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403) => {
                Err(JoinError::Permanent(anyhow::anyhow!("{}", status.message)))
            }
            Err(error) => Err(JoinError::Retriable(plain(error))),
        }
    }

    /// Has a new client certificate signed, and writes it down.
    async fn sign(&self, client: &Client) -> anyhow::Result<pki::Identity> {
        let key_pem = pki::new_key()?;
        let certificate_pem = sign(client, &key_pem, &self.user(), CLIENT_SIGNER, &[]).await?;
        let identity = pki::Identity { certificate_pem, key_pem };
        self.write("client", &identity)?;
        Ok(identity)
    }

    fn write(&self, file: &str, identity: &pki::Identity) -> anyhow::Result<()> {
        write(&self.folder, file, identity)
    }

    /// Renews the client certificate when it is time, and says when the server has become another one, for as long as the process lives.
    pub async fn keep(self, joined: Joined) {
        let (mut waiting, mut other) = (Waiting::default(), Waiting::default());
        let mut wait = CHECK_PERIOD;
        loop {
            tokio::time::sleep(wait).await;
            wait = CHECK_PERIOD;
            if joined.transport.distrusts()
                && let Err(JoinError::Permanent(error)) = self.once().await
            {
                let why = format!("{error:#}");
                if other.is_news(&why) {
                    tracing::error!(
                        why,
                        "this node isn't its server's any more; its pods go on. To join what is there now, restart the agent with the token that `timonel token` prints on the server"
                    );
                }
                continue;
            }
            if !needs_rotation(&joined.identity.identity()) {
                continue;
            }
            match self.obtain(&joined.authority_pem).await {
                Ok(identity) => {
                    if let Err(error) = joined.identity.replace(identity) {
                        tracing::error!(%error, "failed to load the node's new certificate");
                        continue;
                    }
                    joined.transport.reconnect();
                    waiting = Waiting::default();
                    tracing::info!("renewed the node's client certificate");
                }
                Err(JoinError::Permanent(error) | JoinError::Retriable(error)) => {
                    let why = format!("{error:#}");
                    if waiting.is_news(&why) {
                        tracing::error!(
                            why,
                            "the node's certificate can't be renewed; it is tried again, and by hand so: restart the agent with the token that `timonel token` prints on the server"
                        );
                    }
                    wait = waiting.next();
                }
            }
        }
    }
}

fn needs_rotation(identity: &pki::Identity) -> bool {
    pki::parse_certificate(&identity.certificate_pem).is_ok_and(|facts| facts.needs_rotation())
}

fn write(folder: &std::path::Path, file: &str, identity: &pki::Identity) -> anyhow::Result<()> {
    bounded::durable::create(&folder.join(format!("{file}.key")), identity.key_pem.as_bytes())?;
    bounded::durable::create(&folder.join(format!("{file}.crt")), identity.certificate_pem.as_bytes())?;
    Ok(())
}

/// Without the name of the layer that found it, which says nothing to people.
fn plain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Service(error) => anyhow::anyhow!("{error}"),
        error => error.into(),
    }
}

/// Has a certificate signed through the API.
async fn sign(client: &Client, key: &str, user: &str, signer: &str, names: &[String]) -> anyhow::Result<String> {
    use base64::Engine as _;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let request = pki::create_certificate_request(key, user, "system:nodes", names)?;
    let usage = if signer == SERVING_SIGNER { "server auth" } else { "client auth" };
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": {"signerName": signer, "usages": ["digital signature", "key encipherment", usage],
                 "request": base64::engine::general_purpose::STANDARD.encode(request)}});
    let created = api.create(&PostParams::default(), &serde_json::from_value(object)?).await.map_err(plain)?;
    let name = created.name_any();
    let decided = |request: Option<CertificateSigningRequest>| {
        let is_refused = |c: &CertificateSigningRequestCondition| matches!(c.type_.as_str(), "Denied" | "Failed");
        request?.status.filter(|s| s.certificate.is_some() || s.conditions.iter().flatten().any(is_refused))
    };
    let waiting = informer::wait_until(client.clone(), Selection::named(api.resource_url(), &name), decided);
    let waited = tokio::time::timeout(SIGNING_TIMEOUT, waiting).await;
    let status = waited.context("the server signed no certificate within a minute")?;
    match status.certificate {
        Some(certificate) => Ok(String::from_utf8(certificate.0)?),
        None => bail!("the server refused to sign a certificate: {:?}", status.conditions),
    }
}

/// The certificate with which a node's kubelet serves.
#[derive(Clone)]
pub struct Serving {
    pub client: Client,
    pub authority_pem: String,
    pub name: String,
    /// The node's name and its addresses.
    pub names: Vec<String>,
    pub folder: PathBuf,
}

impl Serving {
    fn kept(&self) -> Option<pki::Identity> {
        let read = |file: &str| bounded::text(self.folder.join(file), bounded::MAX_OWN_FILE_BYTES).ok();
        let identity = pki::Identity { certificate_pem: read("kubelet.crt")?, key_pem: read("kubelet.key")? };
        let facts = pki::parse_certificate(&identity.certificate_pem).ok()?;
        let is_good = self.names.iter().all(|name| facts.names.contains(name))
            && pki::is_signed_by(&self.authority_pem, &identity.certificate_pem)
            && pki::key_matches(&identity.certificate_pem, &identity.key_pem);
        is_good.then_some(identity)
    }

    async fn obtain(&self) -> anyhow::Result<pki::Identity> {
        let key_pem = pki::new_key()?;
        let user = format!("system:node:{}", self.name);
        let certificate_pem = sign(&self.client, &key_pem, &user, SERVING_SIGNER, &self.names).await?;
        let identity = pki::Identity { certificate_pem, key_pem };
        write(&self.folder, "kubelet", &identity)?;
        Ok(identity)
    }

    /// The certificate to begin with. Where none can be had now, one that nobody vouches for stands in.
    ///
    /// # Errors
    /// When none can be made at all.
    pub async fn begin(&self) -> anyhow::Result<Arc<RotatingCertificate>> {
        let identity = match self.kept() {
            Some(identity) if !needs_rotation(&identity) => identity,
            kept => match self.obtain().await {
                Ok(identity) => identity,
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::warn!(why, "failed to get the kubelet's serving certificate; retrying");
                    kept.map_or_else(|| pki::self_signed(&self.name), Ok)?
                }
            },
        };
        Ok(RotatingCertificate::new(identity, "")?)
    }

    /// Renews it when it is time, for as long as the process lives.
    pub async fn keep(self, rotating: Arc<RotatingCertificate>) {
        let mut waiting = Waiting::default();
        let mut wait = CHECK_PERIOD;
        loop {
            tokio::time::sleep(wait).await;
            wait = CHECK_PERIOD;
            let present = rotating.identity();
            if !needs_rotation(&present) && pki::is_signed_by(&self.authority_pem, &present.certificate_pem) {
                continue;
            }
            let renewed = match self.obtain().await {
                Ok(identity) => rotating.replace(identity).map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            match renewed {
                Ok(()) => {
                    waiting = Waiting::default();
                    tracing::info!("renewed the kubelet's serving certificate");
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if waiting.is_news(&why) {
                        tracing::warn!(why, "failed to renew the kubelet's serving certificate; retrying");
                    }
                    wait = waiting.next();
                }
            }
        }
    }
}
