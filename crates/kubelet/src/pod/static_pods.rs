//! Static pods: those of a folder on this machine. They run whatever the API says of them, and before it says anything; what
//! stands for them there is a mirror, which may come and go without harm to a container.

mod manifest;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::static_pods::MIRROR;
use informer::Key;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use runtime::files;
use tokio::sync::{Notify, mpsc};

use crate::pod::manager::PodManager;
use crate::pod::worker::delete_now;
use crate::pod::workers::Wanted;
use crate::spec::is_mirror;
pub use manifest::{ManifestError, read};

/// Between two tries to write a mirror.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the folder has, and what stands for it in the API.
#[derive(Default)]
pub struct StaticPods {
    pods: Mutex<HashMap<Key, Arc<Pod>>>,
    /// Workers that have still to end their pod before the next of that name begins.
    ending: Mutex<HashMap<Key, tokio::sync::watch::Sender<Wanted>>>,
    /// The mirror's uid by the static pod's.
    mirrors: Mutex<HashMap<String, String>>,
    news: Notify,
}

fn key(pod: &Pod) -> Key {
    Key::new(&pod.namespace().unwrap_or_default(), &pod.name_any())
}

impl StaticPods {
    /// The static pod of that name.
    pub fn get(&self, key: &Key) -> Option<Arc<Pod>> {
        self.pods.lock().get(key).cloned()
    }

    /// All static pods.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().values().cloned().collect()
    }

    /// The uid in the API of what stands for a static pod there, if anything does.
    pub fn mirror(&self, uid: &str) -> Option<String> {
        self.mirrors.lock().get(uid).cloned()
    }

    /// Something happened to a mirror.
    pub fn wake_mirrors(&self) {
        self.news.notify_one();
    }
}

/// What each file of the folder said last: a pod that is kept while its file is broken, and its error, logged once.
#[derive(Default)]
pub struct Manifests(BTreeMap<PathBuf, (Option<Arc<Pod>>, String)>);

impl Manifests {
    /// Reads the folder's files in the order of their names.
    fn read(&mut self, folder: &Path, node: &str) -> HashMap<Key, Arc<Pod>> {
        let is_hidden = |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let mut paths = files::manifests(folder);
        paths.retain(|path| !is_hidden(path));
        self.0.retain(|path, _| paths.contains(path));
        let mut pods: HashMap<Key, Arc<Pod>> = HashMap::new();
        for path in paths {
            let (last, told) = self.0.entry(path.clone()).or_default();
            let said = bounded::text(&path, bounded::MAX_OWN_FILE_BYTES).map_err(ManifestError::from);
            let said = said.and_then(|text| read(&text, &path, node));
            let complaint = match said {
                Ok(pod) if pods.contains_key(&key(&pod)) => {
                    *last = None;
                    format!("metadata.name: another file has a pod {} already", pod.name_any())
                }
                Ok(pod) => {
                    *last = Some(Arc::new(pod));
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            if *told != complaint && !complaint.is_empty() {
                let kept = last.is_some();
                tracing::warn!(file = %path.display(), error = complaint, kept, "ignored the manifest of a static pod");
            }
            *told = complaint;
            if let Some(pod) = last {
                pods.entry(key(pod)).or_insert_with(|| pod.clone());
            }
        }
        pods
    }
}

/// The same pod, to be ended as its own grace period says.
fn terminating(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

/// Starts what is in the folder now, and keeps to the folder from then on.
pub fn start(manager: &Arc<PodManager>) {
    let folder = manager.context.config.static_pods.clone();
    let made = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)));
    if let Err(error) = made {
        tracing::warn!(folder = %folder.display(), %error, "failed to read the folder of static pods");
        return;
    }
    let files = Arc::new(Mutex::new(Manifests::default()));
    // Watched from before the first look, so that nothing is missed in between.
    let changes = files::watch(&folder, files::Kind::Files);
    reconcile(manager, files.lock().read(&folder, &manager.context.config.node_name));
    let (of, changes) = (manager.clone(), Arc::new(tokio::sync::Mutex::new(changes)));
    tasks::until_done("static-pods", move || follow(of.clone(), folder.clone(), files.clone(), changes.clone()));
    let of = manager.clone();
    tasks::supervise("mirror-pods", move || follow_mirrors(of.clone()));
}

/// Keeps to the folder for as long as its changes are noticed.
async fn follow(
    manager: Arc<PodManager>,
    folder: PathBuf,
    files: Arc<Mutex<Manifests>>,
    changes: Arc<tokio::sync::Mutex<mpsc::Receiver<()>>>,
) {
    while changes.lock().await.recv().await.is_some() {
        let found = files.lock().read(&folder, &manager.context.config.node_name);
        reconcile(&manager, found);
    }
}

/// Ends what isn't in the folder any more, and starts what is new.
fn reconcile(manager: &Arc<PodManager>, found: HashMap<Key, Arc<Pod>>) {
    let statics = &manager.context.statics;
    let before = std::mem::replace(&mut *statics.pods.lock(), found.clone());
    let is_same = |key: &Key, pod: &Arc<Pod>, other: &HashMap<Key, Arc<Pod>>| {
        other.get(key).is_some_and(|p| p.uid() == pod.uid())
    };
    for (key, pod) in before.iter().filter(|(key, pod)| !is_same(key, pod, &found)) {
        if let Some(worker) = manager.context.workers.get(&pod.uid().unwrap_or_default()) {
            worker.send_replace(Some(Arc::new(terminating(pod))));
            statics.ending.lock().insert(key.clone(), worker);
        }
    }
    for (key, _) in found.iter().filter(|(key, pod)| !is_same(key, pod, &before)) {
        tasks::spawn("static-pod-begin", begin(manager.clone(), key.clone()));
    }
    statics.wake_mirrors();
}

/// Starts a pod once the one that had its name before has ended.
async fn begin(manager: Arc<PodManager>, key: Key) {
    let statics = &manager.context.statics;
    let before = statics.ending.lock().get(&key).cloned();
    if let Some(worker) = before {
        worker.closed().await;
        statics.ending.lock().retain(|_, w| !w.is_closed());
    }
    if let Some(pod) = statics.get(&key) {
        manager.deliver(&pod.uid().unwrap_or_default(), Some(pod.clone()));
    }
}

async fn follow_mirrors(manager: Arc<PodManager>) {
    manager.pods.synced().await;
    loop {
        let done = mirror_all(&manager).await;
        if let Err(error) = &done {
            tracing::warn!(%error, "failed to write the mirror pods of this node's static pods; retrying");
        }
        tokio::select! {
            () = manager.context.statics.news.notified() => {}
            () = tokio::time::sleep(RETRY_AFTER), if done.is_err() => {}
        }
    }
}

/// Makes the mirrors that are missing, and removes those that show what isn't so any more.
async fn mirror_all(manager: &PodManager) -> Result<(), kube::Error> {
    let statics = &manager.context.statics;
    for pod in statics.list() {
        let (key, uid) = (key(&pod), pod.uid().unwrap_or_default());
        let shown = match manager.pods.get(&key) {
            None => create(manager, &pod).await?,
            Some(there) if !is_mirror(&there) => {
                tracing::warn!(pod = %key, "failed to create the mirror pod of a static pod: another pod has its name");
                None
            }
            Some(there) if shows(&there, &uid) => there.uid(),
            Some(there) => {
                statics.mirrors.lock().remove(&uid);
                delete(manager, &there).await?;
                continue;
            }
        };
        let Some(shown) = shown else { continue };
        let before = statics.mirrors.lock().insert(uid.clone(), shown.clone());
        if before.as_ref() != Some(&shown)
            && let Some(worker) = manager.context.workers.get(&uid)
        {
            // It has a status to write.
            worker.send_modify(|_| ());
        }
    }
    let orphans = manager.pods.list().into_iter().filter(|pod| {
        let of = pod.annotations().get(MIRROR);
        of.is_some_and(|uid| statics.get(&key(pod)).is_none() && manager.context.workers.get(uid).is_none())
    });
    for orphan in orphans {
        delete(manager, &orphan).await?;
    }
    Ok(())
}

fn shows(mirror: &Pod, uid: &str) -> bool {
    mirror.annotations().get(MIRROR).is_some_and(|of| of == uid) && mirror.metadata.deletion_timestamp.is_none()
}

/// Makes the mirror of a pod; none where there is one that the watch hasn't shown yet.
async fn create(manager: &PodManager, pod: &Pod) -> Result<Option<String>, kube::Error> {
    let context = &manager.context;
    let node = Api::<Node>::all(context.client.clone()).get(&context.config.node_name).await?;
    let mut mirror = pod.clone();
    let uid = mirror.metadata.uid.take().unwrap_or_default();
    mirror.status = None;
    mirror.annotations_mut().insert(MIRROR.into(), uid);
    // Goes with its node.
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    match pods.create(&PostParams::default(), &mirror).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        made => Ok(made?.uid()),
    }
}

async fn delete(manager: &PodManager, mirror: &Pod) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(manager.context.client.clone(), &mirror.namespace().unwrap_or_default());
    match pods.delete(&mirror.name_any(), &delete_now(mirror.uid())).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use api::static_pods::HASH;

    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";

    #[test]
    fn a_file_is_read_as_the_api_would() {
        let path = Path::new("/p/web.yaml");
        let pod = read(POD, path, "node-1").unwrap();
        assert_eq!((pod.name_any().as_str(), pod.namespace().as_deref()), ("web-node-1", Some("default")));
        assert_eq!(pod.annotations().get(HASH), pod.metadata.uid.as_ref());
        assert!(crate::spec::is_static(&pod) && !is_mirror(&pod));
        assert_eq!(pod.status.unwrap().qos_class.as_deref(), Some("BestEffort"));
        assert_eq!(pod.spec.unwrap().restart_policy.as_deref(), Some("Always"));
        assert_ne!(read(&POD.replace("image: x", "image: z"), path, "node-1").unwrap().metadata.uid, pod.metadata.uid);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let wrong = |text: &str| read(text, Path::new("/p/web.yaml"), "n").unwrap_err().to_string();
        assert!(wrong("a: [").contains("line"), "{}", wrong("a: ["));
        assert!(wrong("apiVersion: v1\nkind: Service\n").starts_with("kind: it must be a Pod"));
        assert!(wrong(&POD.replace("name: web", "labels: {}")).starts_with("metadata.name"));
        assert!(wrong(&POD.replace("image: x", "image: 3")).contains("image"));
        assert!(wrong(&POD.replace("name: c,", "")).starts_with("spec.containers[0].name"));
        let account = POD.replace("{containers", "{serviceAccountName: x, containers");
        assert!(wrong(&account).starts_with("spec.serviceAccountName: "), "{}", wrong(&account));
    }

    #[test]
    fn a_broken_file_leaves_its_pod_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let mut files = Manifests::default();
        put("a.yaml", POD);
        put("b.yaml", POD);
        put(".c.yaml", &POD.replace("web", "hidden"));
        put("notes.txt", "x");
        let first = files.read(folder.path(), "n");
        assert_eq!(first.len(), 1);
        put("a.yaml", "apiVersion: v1\nkind: Pod\n");
        std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
        assert_eq!(files.read(folder.path(), "n"), first);
        std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
        assert!(files.read(folder.path(), "n").is_empty());
    }
}
