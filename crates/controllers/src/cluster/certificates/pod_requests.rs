//! Requests of certificates for pods go after a quarter of an hour, whatever has become of them (upstream's `podcertificaterequestcleaner`):
//! nobody needs them by then, and each names a pod and its key.

use std::time::Duration;

use informer::{Informer, Key};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::jiff::SignedDuration;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

const KEPT: SignedDuration = SignedDuration::from_mins(15);

pub fn start(context: Context) {
    let requests = context.informers.of::<PodCertificateRequest>();
    let controller = Controller::of(&context, &requests);
    controller.run("podcertificaterequestcleaner", 1, PodRequestCleaner { context, requests });
}

struct PodRequestCleaner {
    context: Context,
    requests: Informer<PodCertificateRequest>,
}

impl Reconcile for PodRequestCleaner {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(request) = self.requests.get(key) else { return Ok(None) };
        let now = apimachinery::clock::now();
        let age =
            request.metadata.creation_timestamp.as_ref().map_or(SignedDuration::ZERO, |t| now.duration_since(t.0));
        let left = KEPT.saturating_sub(age);
        if left > SignedDuration::ZERO {
            return Ok(Duration::try_from(left).ok());
        }
        let api: Api<PodCertificateRequest> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let this = Preconditions { uid: request.uid(), resource_version: None };
        let delete = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        ignore(api.delete(&key.name, &delete).await, &[404, 409]).map(|()| None)
    }
}
