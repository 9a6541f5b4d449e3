//! What keeps one pod from ending the node's process again and again (`informer::quarantine`).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use informer::quarantine::{HandlingGuard, version_of};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::sync::watch;

use crate::pod::context::Context;
use crate::pod::workers::Wanted;

/// The wait after a panic before the pod is handled again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

fn version(pod: Option<&Pod>) -> String {
    version_of(pod.map(|pod| &pod.metadata))
}

/// Runs a pod until it is gone. A panic is this pod's matter alone: it is counted, and after another one the pod is left alone until it changes.
pub async fn run(context: Arc<Context>, pod: Arc<Pod>, wanted: watch::Receiver<Wanted>) {
    let uid = pod.uid().unwrap_or_default();
    while AssertUnwindSafe(super::run(context.clone(), pod.clone(), wanted.clone())).catch_unwind().await.is_err() {
        let version = version(wanted.borrow().as_deref());
        let is_quarantined = context.quarantine.panicked(&uid, &version);
        tracing::error!(pod = %pod.name_any(), namespace = pod.namespace(), is_quarantined, "the worker of a pod panicked");
        tokio::time::sleep(RESTART_AFTER).await;
    }
    context.quarantine.forget(&uid);
}

/// Begins to handle a pod. While the pod is quarantined, this says so by an event and waits for the pod's next change.
pub async fn begin(context: &Context, pod: &Pod, uid: &str, wanted: &mut watch::Receiver<Wanted>) -> HandlingGuard {
    let mut is_reported = false;
    loop {
        let current = wanted.borrow_and_update().clone();
        let quarantined = match context.quarantine.enter(uid, || version(current.as_deref())).await {
            Ok(handling) => return handling,
            Err(quarantined) => quarantined,
        };
        if !is_reported {
            let why = "The handling of this pod ended the kubelet's process twice: the pod is left alone until its spec changes or it is deleted";
            context.events.warning(pod, "Quarantined", why);
            tracing::error!(pod = %pod.name_any(), namespace = pod.namespace(), "the pod is quarantined and isn't reconciled");
            is_reported = true;
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                // The manager is gone: the process ends.
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(quarantined.retry_after.unwrap_or_default()), if quarantined.retry_after.is_some() => {}
        }
    }
}
