//! Custom resource definitions that are deleted: the objects of their kind go first.

use std::time::Duration;

use api::Kind;
use api::custom::Definition;
use informer::{Change, CustomResourceDefinition, Informer, Key};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::dynamic::{path, request};
use crate::toolkit::{Context, Result, ignore};

const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

fn kind(definition: &CustomResourceDefinition) -> Option<&'static Kind> {
    let definition = Definition::read(&serde_json::to_value(definition).ok()?)?;
    Some(definition.storage().kind)
}

/// The kinds of all established definitions, in the version that they are kept in.
pub fn kinds(definitions: &Informer<CustomResourceDefinition>) -> Vec<&'static Kind> {
    definitions.list().iter().filter_map(|d| kind(d)).collect()
}

pub fn start(context: Context) {
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let controller = Controller::of_some(
        &context,
        &definitions,
        |change| matches!(change, Change::Applied { new, .. } if new.metadata.deletion_timestamp.is_some()),
    );
    controller.run("custom-resource-definition", 2, DefinitionFinalizer { context, definitions });
}

struct DefinitionFinalizer {
    context: Context,
    definitions: Informer<CustomResourceDefinition>,
}

impl Reconcile for DefinitionFinalizer {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(definition) = self.definitions.get(key) else { return Ok(None) };
        if !definition.finalizers().iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        if let Some(kind) = kind(&definition) {
            let path = path(kind);
            let found = request(&self.context.client, "GET", &format!("{path}?limit=1"), &Value::Null).await?;
            if found["items"].as_array().is_some_and(|items| !items.is_empty()) {
                request(&self.context.client, "DELETE", &path, &json!({"propagationPolicy": "Background"})).await?;
                // Finalizers of the objects may take their time.
                return Ok(Some(Duration::from_millis(200)));
            }
        }
        let left: Vec<&String> = definition.finalizers().iter().filter(|f| *f != FINALIZER).collect();
        let api: Api<CustomResourceDefinition> = Api::all(self.context.client.clone());
        let patch = json!({"metadata": {"uid": definition.uid(), "finalizers": left}});
        ignore(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404, 409])?;
        Ok(None)
    }
}
