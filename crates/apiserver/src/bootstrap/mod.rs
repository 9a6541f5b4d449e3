//! Objects that every cluster has, and what else the server does by itself once it runs (upstream's post-start hooks).

mod events;
mod flow_schemas;
mod legacy_tokens;
mod objects;

use std::sync::{Arc, Weak};
use std::time::Duration;

use api::{Kind, kinds};
use apimachinery::{Backoff, ExponentialBackoff, FieldSelector, ObjectExt as _, Status};
use futures::FutureExt as _;
use serde_json::Value;

use crate::authorization::roles;
use crate::pipeline::WriteRequest;
use crate::registry::{Events, Filter, WatchStart, object_key};
use crate::{ApiServer, aggregator, fairness};

pub use events::expire as expire_events;
pub use flow_schemas::run as run_flow_schemas;
pub use legacy_tokens::run as track_legacy_tokens;

/// Changes within this time are repaired together, so that a client that changes an object again and again doesn't keep the server busy.
const SETTLE_TIME: Duration = Duration::from_millis(200);
/// Back-off of failed repairs.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Writes what every cluster has.
///
/// # Errors
/// The Status of the first object that can't be written.
pub async fn run(server: &Arc<ApiServer>) -> Result<(), Status> {
    ensure(server, kinds::NAMESPACES, objects::namespaces()).await?;
    // At once, so that they share a commit. Roles and priority classes are looked after at the start alone, as upstream.
    futures::try_join!(
        repair(server),
        ensure(server, kinds::CLUSTER_ROLES, roles::cluster_roles()),
        ensure(server, kinds::CLUSTER_ROLE_BINDINGS, roles::cluster_role_bindings()),
        ensure(server, kinds::ROLES, roles::system_roles()),
        ensure(server, kinds::PRIORITY_CLASSES, objects::priority_classes()),
        legacy_tokens::begin(server),
    )?;
    Ok(())
}

/// Objects that are written again when they are deleted or changed, as no cluster works without them: leases of nodes have no other place, pods find the API by
/// its service, further API servers the authorities that they trust (upstream's `kubernetesservice`, `systemnamespaces`, `clusterauthenticationtrust`,
/// flow-control and autoregister controllers).
fn maintained(server: &ApiServer) -> Vec<(&'static Kind, Vec<Value>)> {
    vec![
        (kinds::NAMESPACES, objects::namespaces()),
        (kinds::SERVICES, objects::services(server)),
        (kinds::ENDPOINTS, objects::endpoints(server)),
        (kinds::ENDPOINT_SLICES, vec![objects::endpoint_slice(server)]),
        (kinds::CONFIG_MAPS, vec![objects::authentication(server), objects::cluster(server)]),
        (kinds::PRIORITY_LEVEL_CONFIGURATIONS, fairness::default_levels()),
        (kinds::FLOW_SCHEMAS, fairness::default_schemas()),
        (kinds::API_SERVICES, aggregator::local_services(server)),
    ]
}

/// Writes what is missing, or isn't as it should be.
async fn repair(server: &Arc<ApiServer>) -> Result<(), Status> {
    let mut all = maintained(server).into_iter();
    // First the namespaces that others are in.
    if let Some((kind, namespaces)) = all.next() {
        ensure(server, kind, namespaces).await?;
    }
    let all = all.map(|(kind, objects)| ensure(server, kind, objects));
    futures::future::try_join_all(all).await.map(|_| ())
}

/// Watches of the maintained objects: each object of a namespace by its name, of other kinds all.
fn watches(server: &ApiServer) -> Vec<Events> {
    let mut filters = Vec::new();
    for (kind, objects) in maintained(server) {
        if !kind.namespaced {
            filters.push((kind, Filter::default()));
            continue;
        }
        for object in objects {
            let fields = FieldSelector { terms: vec![("metadata.name".into(), object.name().into(), true)] };
            filters.push((kind, Filter { namespace: object.namespace().into(), fields, ..Filter::default() }));
        }
    }
    let present = server.cache.revision();
    let watch = |(kind, filter): (&'static Kind, Filter)| {
        server.cache.of(kind).subscribe(filter, WatchStart::Now, present).ok().map(|watch| watch.events)
    };
    filters.into_iter().filter_map(watch).collect()
}

/// Waits until something changes; false when a watch has ended.
async fn changed(watches: &mut [Events]) -> bool {
    let all: Vec<_> = watches.iter_mut().map(|watch| watch.recv().boxed()).collect();
    match all.is_empty() {
        true => false,
        false => futures::future::select_all(all).await.0.is_some(),
    }
}

/// Repairs whenever a maintained object changes, for as long as the server lives.
pub async fn maintain(server: Weak<ApiServer>) {
    let mut backoff = Backoff::new(BACKOFF);
    let mut watched: Option<Vec<Events>> = None;
    loop {
        let Some(alive) = server.upgrade() else { return };
        let mut watching = watched.take().unwrap_or_else(|| watches(&alive));
        let repaired = repair(&alive).await;
        drop(alive);
        let goes_on = match repaired {
            Ok(()) => {
                backoff.reset();
                changed(&mut watching).await
            }
            Err(error) => {
                tracing::warn!(%error, "failed to repair an object that every cluster has; trying again");
                let waited = tokio::time::timeout(backoff.failed(), changed(&mut watching)).await;
                waited.unwrap_or(true)
            }
        };
        tokio::time::sleep(SETTLE_TIME).await;
        for watch in &mut watching {
            while watch.try_recv().is_some() {}
        }
        watched = goes_on.then_some(watching);
    }
}

/// Creates what is missing and brings the rest up to date.
async fn ensure(server: &Arc<ApiServer>, kind: &'static Kind, objects: Vec<Value>) -> Result<(), Status> {
    let all = objects.into_iter().map(|object| ensure_one(server, kind, object));
    futures::future::try_join_all(all).await.map(|_| ())
}

/// The fields of an object that the server decides; what users add stays.
fn owned_fields(kind: &Kind, object: &Value) -> &'static [&'static str] {
    if kind == kinds::CLUSTER_ROLES {
        // A controller keeps the rules of those that aggregate others.
        if object["aggregationRule"].is_object() { &["aggregationRule"] } else { &["rules", "aggregationRule"] }
    } else if kind == kinds::ENDPOINTS {
        &["subsets"]
    } else if kind == kinds::ENDPOINT_SLICES {
        &["endpoints", "ports"]
    } else if kind == kinds::CONFIG_MAPS {
        &["data"]
    } else {
        &[]
    }
}

async fn ensure_one(server: &Arc<ApiServer>, kind: &'static Kind, object: Value) -> Result<(), Status> {
    let (namespace, name) = (object.namespace().to_string(), object.name().to_string());
    let write = WriteRequest::by_server(server, kind, &namespace, &name);
    let Some(entry) = server.cache.stored(kind)?.get(&object_key(&namespace, &name)) else {
        return write.create(object).await.map(|_| ());
    };
    let owned = owned_fields(kind, &object);
    let present = if owned.is_empty() { Value::Null } else { entry.parse() };
    if owned.iter().all(|field| present[*field] == object[*field]) {
        return Ok(());
    }
    let update = write.update(|current| {
        let mut new = current.clone();
        for field in owned {
            new[*field] = object[*field].clone();
        }
        Ok(new)
    });
    update.await.map(|_| ())
}
