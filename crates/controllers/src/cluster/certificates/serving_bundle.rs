//! The authority of the API server's certificates as a ClusterTrustBundle (upstream's `kube-apiserver-serving-clustertrustbundle-publisher`).

use std::time::Duration;

use informer::{Informer, Key};
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// How many digits of the bundle's hash are in its name.
const DIGITS: usize = 24;

pub fn start(context: Context) {
    let bundles = context.informers.selected::<ClusterTrustBundle>(&format!("spec.signerName={SIGNER}"));
    let mut controller = Controller::about(&context, &bundles);
    let wanted = Key::new("", &name_of(context.config.authority.certificate_pem()));
    let key = wanted.clone();
    controller.watch(&bundles, move |_| Some(key.clone()));
    // Also if there is no bundle that could change.
    controller.queue().add(wanted);
    controller.run(
        "kube-apiserver-serving-clustertrustbundle-publisher",
        1,
        ServingBundlePublisher { context, bundles },
    );
}

/// A bundle is called by its content, so that nobody who trusts the one of before is left without.
fn name_of(bundle: &str) -> String {
    let hash = pki::sha256_hex(bundle.as_bytes());
    format!("{}:{}", SIGNER.replace('/', ":"), hash.get(..DIGITS).unwrap_or(&hash))
}

struct ServingBundlePublisher {
    context: Context,
    bundles: Informer<ClusterTrustBundle>,
}

impl Reconcile for ServingBundlePublisher {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let api: Api<ClusterTrustBundle> = Api::all(self.context.client.clone());
        let pem = self.context.config.authority.certificate_pem();
        match self.bundles.get(key) {
            None => {
                let bundle = ClusterTrustBundle {
                    metadata: ObjectMeta { name: Some(key.name.clone()), ..ObjectMeta::default() },
                    spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.into()), trust_bundle: pem.into() },
                };
                ignore(api.create(&PostParams::default(), &bundle).await, &[409])?;
            }
            Some(present) if present.spec.trust_bundle != pem => {
                let patch = Patch::Merge(json!({"spec": {"trustBundle": pem}}));
                ignore(api.patch(&key.name, &PatchParams::default(), &patch).await, &[404])?;
            }
            Some(_) => {}
        }
        for other in self.bundles.list().iter().filter(|bundle| bundle.name_any() != key.name) {
            ignore(api.delete(&other.name_any(), &DeleteParams::default()).await, &[404])?;
        }
        Ok(None)
    }
}
