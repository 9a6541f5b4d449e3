//! A control plane in this process, on time that jumps to whatever is due next. It has the real API, controllers and
//! scheduler; its nodes pretend ([`testkit::fake`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::{ApiServer, User};
use http::{Method, Request};
use informer::Informers;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tracing_subscriber::EnvFilter;

use crate::life::{Life, Mortal};

/// How long a test waits for anything, in its own time.
const MAX_VIRTUAL_WAIT: Duration = Duration::from_secs(3600);

thread_local! {
    static BEGUN: RefCell<Option<(Timestamp, Instant)>> = const { RefCell::new(None) };
    static TICKS: Cell<i64> = const { Cell::new(0) };
}

/// The time that tokio's paused clock makes of the start; no two readings are the same.
fn time() -> Timestamp {
    let tick = TICKS.get();
    TICKS.set(tick + 1);
    BEGUN.with_borrow(|begun| match begun {
        Some((wall, instant)) => {
            let elapsed = SignedDuration::try_from(instant.elapsed()).unwrap_or_default();
            *wall + elapsed + SignedDuration::from_nanos(tick)
        }
        None => Timestamp::now(),
    })
}

/// What servers of metrics would answer, by the path without its query.
pub type Metrics = Arc<Mutex<HashMap<String, Value>>>;

pub struct Cluster {
    api: Arc<ApiServer>,
    store: Arc<store::MemoryStore>,
    authority: Arc<pki::Authority>,
    token_key: Arc<pki::TokenKey>,
    client: Client,
    metrics: Metrics,
    _folder: TempDir,
}

impl Cluster {
    /// Starts the API alone. The test must run on a paused clock (`#[tokio::test(start_paused = true)]`).
    pub async fn without_loops() -> Self {
        // RUST_LOG=debug shows what the loops say.
        let _ = tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_test_writer().try_init();
        // A fixed start, so that a schedule's next time is the same in every run.
        let start: Timestamp = "2026-03-02T10:00:30Z".parse().unwrap();
        BEGUN.set(Some((start, Instant::now())));
        apimachinery::clock::set_source(time);
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(pki::Authority::load_or_create(folder.path(), "ca").unwrap());
        let front = pki::Authority::load_or_create(folder.path(), "front-proxy-ca").unwrap();
        let usages = [pki::Usage::Client];
        let token_key = Arc::new(pki::TokenKey::new(&pki::new_key().unwrap()).unwrap());
        let config = apiserver::Config {
            kubelet_client: pki::RotatingCertificate::new(
                authority.load_or_issue(folder.path(), "client", "kubelets", None, &usages, &[]).unwrap(),
                "",
            )
            .unwrap(),
            front_proxy_authority: front.certificate_pem().into(),
            front_proxy: pki::RotatingCertificate::new(
                front.load_or_issue(folder.path(), "front", "front-proxy-client", None, &usages, &[]).unwrap(),
                "",
            )
            .unwrap(),
            authority: authority.clone(),
            token_key: token_key.clone(),
            join_secret: "secret".into(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            cluster_domain: "cluster.local".into(),
            advertise: ("192.0.2.1".parse().unwrap(), 6443),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            audit: None,
            disabled: Vec::new(),
            plugins: Vec::new(),
            external_ips: Vec::new(),
        };
        let store = Arc::new(store::MemoryStore::default());
        let api = ApiServer::start(config, store.clone()).await.unwrap();
        let user = User::new("admin", &["system:masters", "system:authenticated"]);
        let client = Client::new(api.in_process(user), "default");
        Cluster { api, store, authority, token_key, client, metrics: Metrics::default(), _folder: folder }
    }

    /// Lets controllers see metrics at a path.
    pub fn serve_metrics(&self, path: &str, answer: Value) {
        self.metrics.lock().unwrap().insert(path.into(), answer);
    }

    /// A control plane and `nodes` nodes, `fake-0` and so on.
    pub async fn start(nodes: usize) -> Self {
        let cluster = Self::without_loops().await;
        cluster.start_loops(usize::MAX);
        cluster.add_nodes("fake", nodes).await;
        // A new node takes no pods before the node controller has seen that it is ready.
        let is_free = |node: &Value| node["spec"]["taints"].is_null();
        cluster
            .until("/api/v1/nodes", |list| list["items"].as_array().is_some_and(|all| all.iter().all(is_free)))
            .await;
        cluster
    }

    /// Nodes that live until the task is aborted.
    pub async fn add_nodes(&self, prefix: &'static str, count: usize) -> tokio::task::JoinHandle<()> {
        testkit::fake::nodes(self.client.clone(), prefix, count).await.unwrap()
    }

    /// Starts controllers and scheduler. They die with their `writes`th write: it is done, and nobody learns of it.
    pub fn start_loops(&self, writes: usize) -> Arc<Life> {
        self.start_loops_with(writes, &scheduler::profile::Profiles::default())
    }

    /// The same, with profiles of the scheduler.
    pub fn start_loops_with(&self, writes: usize, profiles: &scheduler::profile::Profiles) -> Arc<Life> {
        let life = Life::new(writes);
        let user = User::new("system:kube-controller-manager", &["system:authenticated"]);
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        let mortal = Mortal { inner: self.api.in_process(user), store, metrics, life: life.clone() };
        let informers = Informers::new(Client::new(mortal, "default"));
        let config = controllers::Config {
            authority: self.authority.clone(),
            token_key: self.token_key.clone(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            api_names: Vec::new(),
            node_cidr_mask_size: 24,
            local_storage: true,
            snapshots: false,
            service_lb: true,
            ingress: true,
            api_port: 6443,
        };
        controllers::start(config, informers.clone());
        scheduler::start(profiles, &informers);
        life
    }

    async fn request(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value, kube::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body).unwrap();
        self.client.request(request).await
    }

    /// Creates the objects of a YAML text, in the namespace `default` if they name none.
    pub async fn create(&self, text: &str) {
        for document in text.split("\n---\n") {
            let object: Value = apimachinery::yaml::from_str(document).unwrap();
            let path = collection(&object);
            self.request(Method::POST, &path, "application/json", &object)
                .await
                .unwrap_or_else(|error| panic!("{object}: {error}"));
        }
    }

    /// What is at a path, `Null` if nothing.
    pub async fn get(&self, path: &str) -> Value {
        match self.request(Method::GET, path, "application/json", &Value::Null).await {
            Ok(object) => object,
            Err(kube::Error::Api(status)) if status.code == 404 => Value::Null,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// The items of a list.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        self.get(path).await["items"].as_array().cloned().unwrap_or_default()
    }

    /// The pods of `default` that have a label `app`, by name; those on their way out left out.
    pub async fn pods(&self, app: &str) -> Vec<Value> {
        let mut pods = self.list(&format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{app}")).await;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Merges a patch.
    pub async fn patch(&self, path: &str, patch: Value) -> Value {
        self.try_patch(path, &patch).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn try_patch(&self, path: &str, patch: &Value) -> Result<Value, kube::Error> {
        self.request(Method::PATCH, path, "application/merge-patch+json", patch).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.request(Method::POST, path, "application/json", &body).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Posts what may be refused.
    pub async fn try_post(&self, path: &str, body: Value) -> Result<Value, Box<kube::core::Status>> {
        match self.request(Method::POST, path, "application/json", &body).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Deletes; options are those of `DeleteOptions`.
    pub async fn delete(&self, path: &str, options: Value) {
        self.request(Method::DELETE, path, "application/json", &options)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Waits until what is at a path is as it should be, and returns it.
    pub async fn until(&self, path: &str, mut fits: impl FnMut(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.get(path).await;
            if fits(&found) {
                return found;
            }
            if begun.elapsed() > MAX_VIRTUAL_WAIT {
                let events = self.events("").await.join("\n");
                let found = serde_json::to_string_pretty(&bare(found)).unwrap();
                panic!("{path} didn't get as it should be; it is {found}\nevents:\n{events}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a list has items as they should be, and returns them.
    pub async fn until_list(&self, path: &str, mut fits: impl FnMut(&[Value]) -> bool) -> Vec<Value> {
        let list = self.until(path, |found| found["items"].as_array().is_some_and(|items| fits(items))).await;
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// What events tell of objects whose name begins so, as `Kind/name Type Reason: message`.
    pub async fn events(&self, name: &str) -> Vec<String> {
        // They are written behind the acts that they tell of.
        sleep(Duration::from_millis(500)).await;
        let events = self.list("/api/v1/events").await;
        let mut told: Vec<(String, String)> = Vec::new();
        for event in events {
            let of = &event["involvedObject"];
            let text = |value: &Value| value.as_str().unwrap_or("").to_string();
            if text(&of["name"]).starts_with(name) {
                let (kind, what) = (text(&of["kind"]), text(&of["name"]));
                let line = format!(
                    "{kind}/{what} {} {}: {}",
                    text(&event["type"]),
                    text(&event["reason"]),
                    text(&event["message"])
                );
                told.push((text(&event["firstTimestamp"]), line));
            }
        }
        told.sort();
        told.into_iter().map(|(_, line)| line).collect()
    }
}

/// Without what nobody wants to read.
fn bare(mut object: Value) -> Value {
    for item in object["items"].as_array_mut().into_iter().flatten() {
        *item = bare(item.take());
    }
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    object
}

pub fn collection(object: &Value) -> String {
    let (version, kind) = (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let found = api::KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind);
    let found = found.unwrap_or_else(|| panic!("there is no kind {kind} in {group}/{version}"));
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let place = if found.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
    format!("{root}{place}/{}", found.plural())
}

/// A pod's or another object's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or("")
}

/// The names of objects.
pub fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(name).collect()
}

/// A condition's status, reason and message; empty if there is none.
pub fn condition(object: &Value, kind: &str) -> (String, String, String) {
    let none = json!({});
    let found = object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind);
    let text = |key: &str| found.unwrap_or(&none)[key].as_str().unwrap_or("").to_string();
    (text("status"), text("reason"), text("message"))
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").0 == "True"
}

/// A change of a template: another image.
pub fn image(name: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": name}]}}}})
}
