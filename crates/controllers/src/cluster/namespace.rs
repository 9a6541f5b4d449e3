//! Namespaces that are deleted: everything in them goes first.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{KINDS, Kind, Verbs};
use informer::{Change, CustomResourceDefinition, Informer, Key};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use serde_json::{Value, json};

use crate::cluster::custom_resources;
use crate::toolkit::conditions::NewCondition;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::dynamic::{path_in, request};
use crate::toolkit::status::patch_status_of_version;
use crate::toolkit::{Context, Result, conditions, ignore};

/// How often it is looked whether the rest is gone: what is held by finalizers goes without telling us.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What holds a namespace until its content is gone.
const FINALIZER: &str = "kubernetes";

struct NamespaceController {
    context: Context,
    namespaces: Informer<Namespace>,
    definitions: Informer<CustomResourceDefinition>,
    services: Informer<APIService>,
}

pub fn start(context: Context) {
    let namespaces = NamespaceController {
        namespaces: context.informers.of(),
        definitions: context.informers.of(),
        services: context.informers.of(),
        context,
    };
    let mut controller = Controller::of_some(
        &namespaces.context,
        &namespaces.namespaces,
        |change| matches!(change, Change::Applied { new, .. } if new.metadata.deletion_timestamp.is_some()),
    );
    controller.needs(&namespaces.definitions);
    controller.needs(&namespaces.services);
    controller.run("namespace", 2, namespaces);
}

/// What is left of a namespace's content, and what went wrong on the way.
#[derive(Debug, Default)]
struct Findings {
    /// How many objects of a resource (`configmaps.`, `deployments.apps`) are left.
    left: BTreeMap<String, usize>,
    /// How many objects wait for a finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Groups whose API server doesn't answer.
    unknown: Vec<String>,
    failures: Vec<String>,
}

impl Findings {
    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.unknown.is_empty() && self.failures.is_empty()
    }

    /// The conditions, in upstream's words (`namespace_conditions.go`).
    fn conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let counted = |map: &BTreeMap<String, usize>, verb: &str| {
            map.iter().map(|(what, n)| format!("{what} {verb} {n} resource instances")).collect::<Vec<_>>().join(", ")
        };
        let (unknown, failed) = (!self.unknown.is_empty(), !self.failures.is_empty());
        let (left, held) = (!self.left.is_empty(), !self.finalizers.is_empty());
        let pick = |is: bool, yes: String, no: &str| if is { yes } else { no.to_string() };
        let discovery = format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            self.unknown.len(),
            self.unknown.join(", ")
        );
        let remaining = format!("Some resources are remaining: {}", counted(&self.left, "has"));
        let finalizers =
            format!("Some content in the namespace has finalizers remaining: {}", counted(&self.finalizers, "in"));
        [
            (
                "NamespaceDeletionDiscoveryFailure",
                unknown,
                if unknown { "DiscoveryFailed" } else { "ResourcesDiscovered" },
                pick(unknown, discovery, "All resources successfully discovered"),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".into(),
            ),
            (
                "NamespaceDeletionContentFailure",
                failed,
                if failed { "ContentDeletionFailed" } else { "ContentDeleted" },
                pick(
                    failed,
                    format!(
                        "Failed to delete all resource types, {} remaining: {}",
                        self.failures.len(),
                        self.failures.join(", ")
                    ),
                    "All content successfully deleted, may be waiting on finalization",
                ),
            ),
            (
                "NamespaceContentRemaining",
                left,
                if left { "SomeResourcesRemain" } else { "ContentRemoved" },
                pick(left, remaining, "All content successfully removed"),
            ),
            (
                "NamespaceFinalizersRemaining",
                held,
                if held { "SomeFinalizersRemain" } else { "ContentHasNoFinalizers" },
                pick(held, finalizers, "All content-preserving finalizers finished"),
            ),
        ]
    }
}

/// A resource that a namespace may have objects of.
struct Resource {
    /// `configmaps.`, `deployments.apps`.
    name: String,
    path: String,
    /// Its kind may go away while it is looked at.
    fleeting: bool,
}

impl NamespaceController {
    /// All resources that namespaces have; those of further API servers by asking them.
    async fn resources(&self, namespace: &str, findings: &mut Findings) -> Vec<Resource> {
        let of_kind = |kind: &Kind| Resource {
            name: format!("{}.{}", kind.plural(), kind.group),
            path: path_in(kind, namespace),
            fleeting: kind.custom,
        };
        let custom = custom_resources::kinds(&self.definitions);
        let own = KINDS.iter().chain(custom).filter(|k| k.namespaced && k.verbs == Verbs::All);
        let mut resources: Vec<Resource> = own.map(of_kind).collect();
        for service in self.services.list() {
            let Some(spec) = service.spec.as_ref().filter(|s| s.service.is_some()) else { continue };
            let (group, version) = (spec.group.clone().unwrap_or_default(), spec.version.clone().unwrap_or_default());
            let root = format!("/apis/{group}/{version}");
            match request(&self.context.client, "GET", &root, &Value::Null).await {
                Ok(list) => {
                    let has =
                        |r: &Value, verb: &str| r["verbs"].as_array().is_some_and(|v| v.iter().any(|v| v == verb));
                    for found in list["resources"].as_array().into_iter().flatten() {
                        let name = found["name"].as_str().unwrap_or("");
                        if found["namespaced"] == true
                            && has(found, "list")
                            && has(found, "delete")
                            && !name.contains('/')
                        {
                            resources.push(Resource {
                                name: format!("{name}.{group}"),
                                path: format!("{root}/namespaces/{namespace}/{name}"),
                                fleeting: true,
                            });
                        }
                    }
                }
                Err(error) => findings.unknown.push(format!("{group}/{version}: {}", informer::error_message(&error))),
            }
        }
        // Pods go first, while the secrets, policies and accounts that they run by are still there (KEP-5080).
        resources.sort_by_key(|r| r.name != "pods.");
        resources
    }

    /// Deletes the objects of a resource, and counts what is left of them.
    async fn delete(&self, resource: &Resource, findings: &mut Findings) -> Result {
        let client = &self.context.client;
        let found = request(client, "GET", &resource.path, &Value::Null).await?;
        if found["items"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        if found["items"].as_array().into_iter().flatten().any(|o| o["metadata"]["deletionTimestamp"].is_null()) {
            request(client, "DELETE", &resource.path, &json!({"propagationPolicy": "Background"})).await?;
        }
        let found = request(client, "GET", &resource.path, &Value::Null).await?;
        let items = found["items"].as_array().cloned().unwrap_or_default();
        if !items.is_empty() {
            findings.left.insert(resource.name.clone(), items.len());
        }
        for finalizer in items.iter().flat_map(|o| o["metadata"]["finalizers"].as_array().into_iter().flatten()) {
            *findings.finalizers.entry(finalizer.as_str().unwrap_or("").to_string()).or_default() += 1;
        }
        Ok(())
    }
}

impl Reconcile for NamespaceController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(None) };
        // Other finalizers are removed by those that added them.
        let held = namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).any(|f| f == FINALIZER);
        if !held {
            return Ok(None);
        }
        let mut findings = Findings::default();
        for resource in self.resources(&key.name, &mut findings).await {
            if resource.name != "pods." && findings.left.contains_key("pods.") {
                break;
            }
            match self.delete(&resource, &mut findings).await {
                // A definition that went meanwhile took its objects along.
                Err(kube::Error::Api(status)) if resource.fleeting && status.code == 404 => {}
                Err(error) => findings.failures.push(format!("{}: {}", resource.name, informer::error_message(&error))),
                Ok(()) => {}
            }
        }
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        let Some(mut namespace) = api.get_opt(&key.name).await? else { return Ok(None) };
        if findings.is_empty() {
            if let Some(finalizers) = namespace.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
                finalizers.retain(|f| f != FINALIZER);
            }
            let path = format!("/api/v1/namespaces/{}/finalize", key.name);
            let done = request(&self.context.client, "PUT", &path, &json!(namespace)).await;
            ignore(done, &[404])?;
            return Ok(None);
        }
        // The conditions say what it waits for.
        let mut status = namespace.status.clone().unwrap_or_default();
        let now = apimachinery::clock::now();
        let list = findings.conditions().map(|(kind, is, reason, message)| {
            let said = NewCondition::new(kind, if is { "True" } else { "False" }, reason, &message);
            conditions::next(status.conditions.as_deref().unwrap_or_default(), said, now)
        });
        status.conditions = Some(list.into());
        let written = patch_status_of_version(&self.context, &namespace, namespace.status.as_ref(), &status).await;
        ignore(written, &[409])?;
        Ok(Some(RETRY_AFTER))
    }
}
