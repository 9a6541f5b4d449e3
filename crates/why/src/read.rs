//! Reads a snapshot of any cluster, as who asks: in pages, in parallel, and only so much.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::kinds::{Kind, RESOURCES, Resource};
use crate::object::{short, text};
use crate::rules;
use crate::snapshot::{Coverage, LogOf, NOT_LISTED, Snapshot};

/// So many objects are asked for at once.
const PAGE: usize = 500;
/// So many objects of a kind are read. Of more nothing is said that depends on all of them.
const MAX_OBJECTS: usize = 50_000;
/// So many bytes an answer may have.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// So many requests are under way at once.
const PARALLEL: usize = 8;
/// So many logs are read.
const MAX_LOGS: usize = 40;
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
/// Where this program writes its own kubeconfig.
const OWN: &str = "/etc/timonel/kubeconfig.yaml";

/// Which part of a cluster is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Cluster,
    /// One namespace, and of others what this one may depend on.
    Namespace(String),
}

/// A connection, and the namespace that its context names.
pub struct Connection {
    client: Client,
    /// The namespace of the context.
    pub namespace: String,
    /// The address of the server.
    pub server: String,
}

impl Connection {
    /// By a kubeconfig: the given one, those of `KUBECONFIG`, the user's, this program's own; else as a pod of the cluster.
    ///
    /// # Errors
    /// When there is none, or it can't be used.
    pub async fn open(file: Option<&Path>, context: Option<String>) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let mut config = match kubeconfig(file)? {
            Some(kubeconfig) => {
                Config::from_custom_kubeconfig(kubeconfig, &options).await.context("the kubeconfig can't be used")?
            }
            None => Config::incluster().with_context(|| {
                format!("there is no kubeconfig (KUBECONFIG, ~/.kube/config, {OWN}), and this is no pod; --kubeconfig names one")
            })?,
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        let (namespace, server) = (config.default_namespace.clone(), config.cluster_url.to_string());
        Ok(Connection { client: Client::try_from(config)?, namespace, server })
    }

    async fn send(&self, request: http::Request<Vec<u8>>) -> anyhow::Result<(u16, Vec<u8>)> {
        let request = request.map(kube::client::Body::from);
        let answer = tokio_timeout(self.client.send(request)).await?.context("the API server can't be asked")?;
        let status = answer.status().as_u16();
        let body = tokio_timeout(bounded::body(answer.into_body(), MAX_ANSWER_BYTES)).await?;
        Ok((status, body.context("the answer can't be read")?.to_vec()))
    }

    async fn get(&self, path: &str, accept: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        self.send(http::Request::get(path).header("Accept", accept).body(Vec::new())?).await
    }

    /// A page of metrics in text, where one may read it.
    pub async fn metrics(&self) -> Option<String> {
        let (status, body) = self.get("/metrics", "text/plain").await.ok()?;
        (status == 200).then(|| String::from_utf8_lossy(&body).into_owned())
    }
}

async fn tokio_timeout<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(ANSWER, work).await.with_context(|| format!("no answer within {} s", ANSWER.as_secs()))
}

fn kubeconfig(file: Option<&Path>) -> anyhow::Result<Option<Kubeconfig>> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    let read = |path: &Path| -> anyhow::Result<Option<Kubeconfig>> {
        let text = bounded::text(path, bounded::MAX_OWN_FILE_BYTES)
            .with_context(|| format!("{} can't be read; --kubeconfig names another file", path.display()))?;
        Ok(Some(Kubeconfig::from_yaml(&text).with_context(|| format!("{} is no kubeconfig", path.display()))?))
    };
    if let Some(file) = file {
        return read(file);
    }
    if std::env::var_os("KUBECONFIG").is_some_and(|list| !list.is_empty()) {
        // A list of files is merged.
        return Ok(Some(Kubeconfig::read().context("KUBECONFIG names what can't be read")?));
    }
    match home.into_iter().chain([OWN.into()]).find(|path| path.is_file()) {
        Some(path) => read(&path),
        None => Ok(None),
    }
}

fn said(status: u16, value: &Value, body: &[u8]) -> String {
    let message = text(value, "/message");
    let message = if message.is_empty() { String::from_utf8_lossy(body).into_owned() } else { message.into() };
    format!("the API server says {status}: {}", short(&message, 200))
}

/// Reads a snapshot.
///
/// # Errors
/// When the server doesn't answer, or says that it doesn't know who asks.
pub async fn snapshot(connection: &Connection, scope: &Scope) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot::new(apimachinery::clock::now());
    let asked = connection.get("/version", "application/json").await;
    let (status, version) = asked.with_context(|| {
        format!(
            "{} doesn't answer: is the server running there (systemctl status timonel), and is the kubeconfig its own?",
            connection.server
        )
    })?;
    if status == 401 {
        bail!("{} doesn't know who you are (401): it refuses the credentials of the kubeconfig", connection.server);
    }
    // Who may not ask for the version may list something all the same.
    let version: Value = serde_json::from_slice(&version).ok().filter(|_| status < 300).unwrap_or_default();
    snapshot.version = text(&version, "/gitVersion").into();
    snapshot.user = user(connection).await.unwrap_or_default();
    let reads = RESOURCES.iter().map(|resource| read_kind(connection, resource, scope));
    let mut reads = futures::stream::iter(reads).buffer_unordered(PARALLEL);
    while let Some((kind, coverage, objects)) = reads.next().await {
        snapshot.put(kind, coverage, objects);
    }
    Ok(snapshot)
}

async fn user(connection: &Connection) -> Option<String> {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string().into_bytes();
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("Content-Type", "application/json")
        .header("Accept", "application/json")
        .body(body)
        .ok()?;
    let (status, body) = connection.send(request).await.ok()?;
    let value: Value = serde_json::from_slice(&body).ok().filter(|_| status < 300)?;
    Some(text(&value, "/status/userInfo/username").into())
}

/// Kinds of which only names, labels and deletion are read: what is in them is nobody's business here.
fn by_metadata(kind: Kind) -> bool {
    matches!(kind, Kind::Secret | Kind::ConfigMap | Kind::ServiceAccount | Kind::Role | Kind::ClusterRole)
}

/// Kinds that are read of all namespaces, as those of one depend on them: room on nodes, names of Services, who answers for a webhook.
fn everywhere(kind: Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::Lease | Kind::Gateway)
}

async fn read_kind(connection: &Connection, resource: &Resource, scope: &Scope) -> (Kind, Coverage, Vec<Value>) {
    let kind = resource.kind;
    let (whole, own) = match scope {
        Scope::Cluster => (true, None),
        Scope::Namespace(space) => (!resource.namespaced || everywhere(kind), Some(space.as_str())),
    };
    let namespace = match (kind, own) {
        (Kind::Lease, _) => Some("kube-node-lease"),
        (_, own) if !whole => own,
        _ => None,
    };
    match (pages(connection, resource, namespace).await, own) {
        (Ok(Some((objects, true))), _) => {
            let coverage = namespace.map_or(Coverage::All, |space| Coverage::Namespace(space.into()));
            (kind, coverage, objects)
        }
        (Ok(Some((objects, false))), _) => {
            let why = format!("there are more than {MAX_OBJECTS}: only the first were read");
            (kind, Coverage::Unseen(why), objects)
        }
        (Ok(None), _) => (kind, Coverage::NotServed, Vec::new()),
        // Who may not list all may list those of the namespace.
        (Err(_), Some(space)) if namespace.is_none() && resource.namespaced => {
            match pages(connection, resource, Some(space)).await {
                Ok(Some((objects, true))) => (kind, Coverage::Namespace(space.into()), objects),
                Ok(_) => (kind, Coverage::NotServed, Vec::new()),
                Err(error) => (kind, Coverage::Unseen(format!("{error:#}")), Vec::new()),
            }
        }
        (Err(error), _) => (kind, Coverage::Unseen(format!("{error:#}")), Vec::new()),
    }
}

/// All objects of a kind, and whether these are all; nothing where the cluster has no such kind.
async fn pages(
    connection: &Connection,
    resource: &Resource,
    namespace: Option<&str>,
) -> anyhow::Result<Option<(Vec<Value>, bool)>> {
    let root = if resource.group.is_empty() { "/api".into() } else { format!("/apis/{}", resource.group) };
    let space = namespace.map_or(String::new(), |space| format!("/namespaces/{space}"));
    let accept = if by_metadata(resource.kind) {
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
    } else {
        "application/json"
    };
    let mut all = Vec::new();
    let mut next = String::new();
    loop {
        let token = if next.is_empty() { String::new() } else { format!("&continue={}", encode(&next)) };
        let path = format!("{root}/{}{space}/{}?limit={PAGE}{token}", resource.version, resource.plural);
        let (status, body) = connection.get(&path, accept).await?;
        let mut page: Value = serde_json::from_slice(&body).unwrap_or_default();
        drop(body);
        match status {
            404 => return Ok(None),
            401 => bail!("the API server doesn't know who you are (401): the kubeconfig's credentials are refused"),
            403 => {
                let place = namespace.map_or("in the whole cluster".into(), |space| format!("in namespace {space}"));
                bail!("{NOT_LISTED} {} {place}", resource.plural)
            }
            status if status >= 300 => bail!("{}", said(status, &page, b"")),
            _ => {}
        }
        next = text(&page, "/metadata/continue").into();
        if let Some(Value::Array(objects)) = page.get_mut("items").map(Value::take) {
            all.extend(objects.into_iter().map(trimmed));
        }
        if next.is_empty() {
            return Ok(Some((all, true)));
        }
        if all.len() >= MAX_OBJECTS {
            return Ok(Some((all, false)));
        }
    }
}

/// An object without what no rule reads.
fn trimmed(mut object: Value) -> Value {
    if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    object
}

/// A text as a part of a query.
fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Reads the ends of the logs that rules would like to see.
pub async fn logs(connection: &Connection, snapshot: &mut Snapshot, wanted: impl Fn(&LogOf) -> bool) {
    let all = rules::wanted_logs(snapshot, usize::MAX);
    let reads = all.into_iter().filter(|log| wanted(log)).take(MAX_LOGS).map(|log| async {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/log?container={}&tailLines=30&limitBytes=16384&previous={}",
            log.namespace,
            log.pod,
            encode(&log.container),
            log.previous
        );
        let answer = connection.get(&path, "*/*").await;
        let text = answer
            .ok()
            .filter(|(status, _)| *status == 200)
            .map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
        (log, text)
    });
    let mut reads = futures::stream::iter(reads).buffer_unordered(PARALLEL);
    let mut found = Vec::new();
    while let Some((log, text)) = reads.next().await {
        found.extend(text.map(|text| (log, text)));
    }
    drop(reads);
    snapshot.logs.extend(found);
}
