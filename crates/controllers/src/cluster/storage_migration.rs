//! StorageVersionMigrations are carried out (KEP-4192): every object of the resource that was there when the migration began is written once
//! more, unchanged, and so in the version that objects are kept in now. Of migrations of one resource the oldest runs, and the others wait.

use std::sync::Arc;
use std::time::Duration;

use api::kinds;
use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::storagemigration::v1::{StorageVersionMigration, StorageVersionMigrationStatus};
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::toolkit::conditions::{self, NewCondition};
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::discovery::{self, Resource, root, segment};
use crate::toolkit::dynamic::{path, request};
use crate::toolkit::status::patch_status_of_version;
use crate::toolkit::{Context, Result, ignore};

/// What a resource must be able to do.
const NEEDED: [&str; 3] = ["get", "list", "patch"];
/// How long a resource may be unknown, as one of a new definition is.
const UNKNOWN: SignedDuration = SignedDuration::from_mins(1);
const RETRY: Duration = Duration::from_secs(5);
/// How many objects are listed at a time, and of these only their metadata.
const PAGE: usize = 500;

pub fn start(context: Context) {
    let migrations = context.informers.of::<StorageVersionMigration>();
    let mut controller = Controller::about(&context, &migrations);
    let all = migrations.clone();
    // Its end is the beginning of the next one.
    controller.watch(&migrations, move |change| {
        let resource = resource_of(change.object());
        let same = all.list().into_iter().filter(|other| resource_of(other) == resource);
        same.map(|other| other.key()).chain([change.object().key()]).collect::<Vec<_>>()
    });
    controller.run("storage-version-migrator", 2, StorageVersionMigrator { context, migrations });
}

struct StorageVersionMigrator {
    context: Context,
    migrations: Informer<StorageVersionMigration>,
}

/// What comes next for a migration.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It has ended, or another one of its resource runs.
    Nothing,
    /// It is its turn.
    Begin,
    /// Up to which version objects are migrated is to be found out.
    FindVersion,
    Migrate,
    /// It has ended, and doesn't run any more.
    End,
}

/// Group and plural of what is migrated.
fn resource_of(migration: &StorageVersionMigration) -> (&str, &str) {
    let spec = migration.spec.as_ref();
    spec.map_or(("", ""), |spec| (spec.resource.group.as_str(), spec.resource.resource.as_str()))
}

fn is(migration: &StorageVersionMigration, kind: &str) -> bool {
    let conditions = migration.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions::find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

fn has_ended(migration: &StorageVersionMigration) -> bool {
    is(migration, "Succeeded") || is(migration, "Failed")
}

fn plan(this: &StorageVersionMigration, all: &[Arc<StorageVersionMigration>]) -> Step {
    match (is(this, "Running"), has_ended(this)) {
        (true, true) => return Step::End,
        (false, true) => return Step::Nothing,
        (true, false) if version(this).is_empty() => return Step::FindVersion,
        (true, false) => return Step::Migrate,
        (false, false) => {}
    }
    let others = || all.iter().filter(|other| resource_of(other) == resource_of(this) && !has_ended(other));
    let order = |of: &StorageVersionMigration| {
        (of.metadata.creation_timestamp.as_ref().map(|at| at.0), of.metadata.name.clone())
    };
    let waits = others().any(|other| is(other, "Running")) || others().any(|other| order(other) < order(this));
    if waits { Step::Nothing } else { Step::Begin }
}

fn version(migration: &StorageVersionMigration) -> &str {
    migration.status.as_ref().and_then(|status| status.resource_version.as_deref()).unwrap_or("")
}

impl Reconcile for StorageVersionMigrator {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(migration) = self.migrations.get(key) else { return Ok(None) };
        match plan(&migration, &self.migrations.list()) {
            Step::Nothing => Ok(None),
            Step::Begin => {
                self.mark_definition(&migration, None).await?;
                self.set(&migration, &[RUNNING]).await.map(|()| None)
            }
            Step::FindVersion => self.find_version(&migration).await,
            Step::Migrate => self.migrate(&migration).await,
            Step::End => {
                self.mark_definition(&migration, Some(is(&migration, "Succeeded"))).await?;
                let ended = NewCondition::new("Running", "False", "MigrationCompleted", "Migration completed");
                self.set(&migration, &[ended]).await.map(|()| None)
            }
        }
    }
}

const RUNNING: NewCondition<'static> = NewCondition {
    type_: "Running",
    status: "True",
    reason: "MigrationRunning",
    message: "The migration is running",
    generation: None,
};

impl StorageVersionMigrator {
    async fn set(&self, migration: &StorageVersionMigration, wanted: &[NewCondition<'_>]) -> Result {
        let mut status = migration.status.clone().unwrap_or_default();
        let now = apimachinery::clock::now();
        for condition in wanted {
            conditions::set(status.conditions.get_or_insert_default(), *condition, now);
        }
        self.write(migration, &status).await
    }

    /// A migration that changed meanwhile is looked at again.
    async fn write(&self, migration: &StorageVersionMigration, status: &StorageVersionMigrationStatus) -> Result {
        patch_status_of_version(&self.context, migration, migration.status.as_ref(), status).await.map(|_| ())
    }

    async fn fail(&self, migration: &StorageVersionMigration, why: &str) -> Result<Option<Duration>> {
        let failed = NewCondition::new("Failed", "True", "StorageVersionMigrationFailed", why);
        self.set(migration, &[failed]).await.map(|()| None)
    }

    async fn resource(&self, migration: &StorageVersionMigration) -> Result<Option<Resource>> {
        let (group, plural) = resource_of(migration);
        discovery::resource(&self.context.client, group, plural).await
    }

    async fn find_version(&self, migration: &StorageVersionMigration) -> Result<Option<Duration>> {
        let Some(resource) = self.resource(migration).await? else {
            let created = migration.metadata.creation_timestamp.as_ref();
            let age = created.map_or(UNKNOWN, |at| apimachinery::clock::now().duration_since(at.0));
            if age < UNKNOWN {
                return Ok(Some(RETRY));
            }
            return self.fail(migration, "resource does not exist in discovery").await;
        };
        if !NEEDED.iter().all(|verb| resource.verbs.iter().any(|has| has == verb)) {
            let of = format!("{}, Resource={}", resource.api_version, resource.plural);
            let why = format!("resource {of:?} does not support discovery operations: [{}]", NEEDED.join(" "));
            return self.fail(migration, &why).await;
        }
        let list = self.list(&resource, 1, "").await?;
        let status = StorageVersionMigrationStatus {
            resource_version: list["metadata"]["resourceVersion"].as_str().map(String::from),
            ..migration.status.clone().unwrap_or_default()
        };
        self.write(migration, &status).await.map(|()| None)
    }

    /// Objects of all namespaces, of each its metadata.
    async fn list(&self, resource: &Resource, most: usize, after: &str) -> Result<Value> {
        let root = root(&resource.api_version).unwrap_or_default();
        let path = format!("{root}/{}?limit={most}&continue={}", segment(&resource.plural), segment(after));
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let request = http::Request::get(path).header("Accept", accept).body(Vec::new());
        self.context.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    async fn migrate(&self, migration: &StorageVersionMigration) -> Result<Option<Duration>> {
        let Some(resource) = self.resource(migration).await? else {
            return self
                .fail(migration, "migration encountered unhandled error: unable to obtain GVR from discovery")
                .await;
        };
        let Ok(until) = version(migration).parse::<u64>() else {
            return self
                .fail(migration, "migration encountered unhandled error: resource version is not well formed")
                .await;
        };
        let (mut after, mut total) = (String::new(), 0usize);
        loop {
            let page = match self.list(&resource, PAGE, &after).await {
                // The list is too old to go on: what is migrated is newer than the version, and isn't looked at again.
                Err(kube::Error::Api(status)) if status.code == 410 => return Ok(Some(Duration::ZERO)),
                page => page?,
            };
            for object in page["items"].as_array().into_iter().flatten() {
                total = total.saturating_add(1);
                if !is_older(object, until) {
                    continue;
                }
                match self.rewrite(&resource, object).await {
                    Ok(()) => {}
                    Err(kube::Error::Api(status)) if is_final(status.code) => {
                        let why = format!("migration encountered unhandled error: {}", status.message);
                        return self.fail(migration, &why).await;
                    }
                    Err(error) => {
                        let text = format!("{}; transient error: {error}", RUNNING.message);
                        self.set(migration, &[NewCondition { message: &text, ..RUNNING }]).await?;
                        return Err(error);
                    }
                }
            }
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => after = token.into(),
                None => break,
            }
        }
        let verified = match total {
            0 => RUNNING.message.to_string(),
            total => format!("{}, {total} objects verified migrated", RUNNING.message),
        };
        let done = NewCondition::new("Succeeded", "True", "StorageVersionMigrationSucceeded", "Migration completed");
        self.set(migration, &[NewCondition { message: &verified, ..RUNNING }, done]).await.map(|()| None)
    }

    /// Writes an object as it is. If it changed meanwhile it was written, and if it is gone there is nothing to write.
    async fn rewrite(&self, resource: &Resource, object: &Value) -> Result {
        let meta = |key: &str| segment(object["metadata"][key].as_str().unwrap_or(""));
        let root = root(&resource.api_version).unwrap_or_default();
        let plural = segment(&resource.plural);
        let path = match meta("namespace").as_str() {
            "" => format!("{root}/{plural}/{}", meta("name")),
            namespace => format!("{root}/namespaces/{namespace}/{plural}/{}", meta("name")),
        };
        let body = json!({"apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]}});
        let request = http::Request::patch(format!("{path}?fieldManager=storage-version-migrator-controller"))
            .header("Content-Type", "application/merge-patch+json")
            .body(body.to_string().into_bytes());
        ignore(self.context.client.request::<Value>(request.map_err(kube::Error::HttpError)?).await, &[404, 409])
    }

    /// Tells the definition of a custom kind that its objects are migrated, or that they were; then they are kept in one version alone, if the
    /// definition hasn't changed meanwhile.
    async fn mark_definition(&self, migration: &StorageVersionMigration, ended: Option<bool>) -> Result {
        let (group, plural) = resource_of(migration);
        let name = segment(&format!("{plural}.{group}"));
        let place = format!("{}/{name}", path(kinds::CUSTOM_RESOURCE_DEFINITIONS));
        let definition = match request(&self.context.client, "GET", &place, &Value::Null).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            definition => definition?,
        };
        let Some(status) = marked(&definition, &migration.name_any(), ended) else { return Ok(()) };
        let body =
            json!({"metadata": {"resourceVersion": definition["metadata"]["resourceVersion"]}, "status": status});
        let request = http::Request::patch(format!("{place}/status"))
            .header("Content-Type", "application/merge-patch+json")
            .body(body.to_string().into_bytes());
        ignore(self.context.client.request::<Value>(request.map_err(kube::Error::HttpError)?).await, &[404])
    }
}

const MIGRATING: &str = "StorageMigrating";

/// The status of a definition whose objects are migrated, or were with or without success; none if it says so already.
fn marked(definition: &Value, migration: &str, ended: Option<bool>) -> Option<Value> {
    let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().find(|condition| condition["type"] == MIGRATING);
    let generation = &definition["metadata"]["generation"];
    let is_same = before.is_some_and(|condition| condition["observedGeneration"] == *generation);
    let (state, reason, message) = match ended {
        None => ("True", "MigrationRunning", format!("Migration {migration} is running")),
        Some(true) if is_same => (
            "False",
            "MigrationSucceeded",
            "The migration has succeeded and the stored versions have been updated".into(),
        ),
        Some(true) => {
            let why = "but the stored versions have not been updated due to a generation mismatch";
            ("False", "MigrationSucceeded", format!("The migration has succeeded {why}"))
        }
        Some(false) => ("False", "MigrationFailed", "The migration has failed".into()),
    };
    if before.is_some_and(|condition| condition["status"] == state && condition["message"] == message.as_str()) {
        return None;
    }
    let mut conditions: Vec<Value> = conditions.into_iter().filter(|of| of["type"] != MIGRATING).collect();
    conditions.push(json!({"type": MIGRATING, "status": state, "reason": reason, "message": message,
        "lastTransitionTime": apimachinery::clock::now_rfc3339(), "observedGeneration": generation}));
    let mut status = json!({"conditions": conditions});
    if ended == Some(true) && is_same {
        let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
        let stored: Vec<&Value> = versions.filter(|version| version["storage"] == true).map(|v| &v["name"]).collect();
        status["storedVersions"] = json!(stored);
    }
    Some(status)
}

/// Whether an object was written last before the migration began.
fn is_older(object: &Value, until: u64) -> bool {
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok());
    version.is_none_or(|version| version <= until)
}

/// Whether an answer will be the same next time.
fn is_final(code: u16) -> bool {
    code < 500 && code != 429
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, conditions: &[&str], version: &str) -> Arc<StorageVersionMigration> {
        let condition = |kind: &&str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let conditions: Vec<Value> = conditions.iter().map(condition).collect();
        let object = json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"resource": {"group": "example.com", "resource": "things"}},
            "status": {"conditions": conditions, "resourceVersion": version}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn one_migration_of_a_resource_runs_at_a_time() {
        let (a, b) = (migration("a", &[], ""), migration("b", &[], ""));
        let both = [b.clone(), a.clone()];
        assert_eq!((plan(&a, &both), plan(&b, &both)), (Step::Begin, Step::Nothing));
        let running = migration("b", &["Running"], "");
        let both = [a.clone(), running.clone()];
        assert_eq!((plan(&a, &both), plan(&running, &both)), (Step::Nothing, Step::FindVersion));
        let ended = migration("b", &["Running", "Succeeded"], "5");
        let both = [a.clone(), ended.clone()];
        assert_eq!((plan(&a, &both), plan(&ended, &both)), (Step::Begin, Step::End));
        assert_eq!(plan(&migration("b", &["Running"], "5"), &both), Step::Migrate);
        assert_eq!(plan(&migration("b", &["Failed"], ""), &both), Step::Nothing);
    }

    #[test]
    fn a_definition_keeps_one_version_alone_unless_it_changed_meanwhile() {
        let definition = |observed: i64| {
            json!({"metadata": {"generation": 3}, "spec": {"versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]},
                "status": {"storedVersions": ["v1", "v2"], "conditions": [{"type": "Established", "status": "True"},
                    {"type": "StorageMigrating", "status": "True", "message": "Migration m is running", "observedGeneration": observed}]}})
        };
        assert_eq!(marked(&definition(3), "m", None), None);
        let same = marked(&definition(3), "m", Some(true)).unwrap();
        assert_eq!(same["storedVersions"], json!(["v2"]));
        assert_eq!(same["conditions"][1]["status"], "False");
        let other = marked(&definition(2), "m", Some(true)).unwrap();
        assert_eq!(other.get("storedVersions"), None);
        assert!(other["conditions"][1]["message"].as_str().unwrap().contains("generation mismatch"));
        assert_eq!(marked(&definition(3), "m", Some(false)).unwrap().get("storedVersions"), None);
    }

    #[test]
    fn only_what_was_there_before_is_written_once_more() {
        let object = |version: &str| json!({"metadata": {"resourceVersion": version}});
        assert!(is_older(&object("9"), 10) && is_older(&object("10"), 10) && !is_older(&object("11"), 10));
    }
}
