//! What a pod needs before its containers: its sandbox, its volumes, and its network policies in force.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{RESYNC_PERIOD, Worker};
use crate::container_runtime::network;
use crate::pod::workers::Wanted;
use crate::spec::is_static;
use crate::volumes;

/// How long containers wait for the network policies of their pod before an event says so.
const POLICY_TIMEOUT: Duration = Duration::from_secs(10);
const STATIC_POD_POLICY_TIMEOUT: Duration = Duration::from_secs(2);

impl Worker {
    /// Sandbox and volumes.
    pub(super) async fn prepare(&mut self) -> Result<(), (&'static str, String)> {
        // As long as the containers can be watched, what they share is there.
        let whole = match &self.saved.sandbox {
            Some(sandbox) => {
                self.containers.is_some() || self.context.runtime.is_sandbox_ready(&self.dirs, sandbox).await
            }
            None => false,
        };
        if !whole {
            self.is_inherited = false;
            let claims = self.context.claims.prepare(&self.pod).await;
            claims.map_err(|error| {
                ("FailedPrepareDynamicResources", format!("Failed to prepare dynamic resources: {error}"))
            })?;
            let made = self.context.make_sandbox(&self.pod, &self.dirs, self.saved.sandbox.as_ref()).await;
            let sandbox = made.map_err(|e| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}")))?;
            if self.saved.sandbox.replace(sandbox).is_some() {
                self.rerun_init_containers().await;
            }
            self.save();
        }
        if let Some(sandbox) = self.saved.sandbox.as_ref().filter(|sandbox| !sandbox.host_network) {
            let mut pod = network::local_pod(&self.pod, &sandbox.ips);
            pod.uid.clone_from(&self.uid);
            self.context.local.add(pod);
        }
        if self.volumes.is_none() || Instant::now() >= self.refresh_at {
            let ips = self.saved.sandbox.as_ref().map(|s| s.ips.clone()).unwrap_or_default();
            let first = self.volumes.is_none();
            if first {
                self.context.watches.add(&self.uid, &self.pod);
            }
            let request = volumes::Request { pod: &self.pod, dirs: &self.dirs, ips: &ips, first };
            let prepared = self.context.volumes.prepare(request).await;
            self.refresh_at = Instant::now() + RESYNC_PERIOD;
            match prepared {
                Ok(volumes) => self.volumes = Some(volumes),
                // What was there at the start may go away later without harm to the running containers.
                Err(_) if self.volumes.is_some() => {}
                Err(error) => return Err(("FailedMount", error.to_string())),
            }
        }
        if self.containers.is_none()
            && let Some(sandbox) = &self.saved.sandbox
        {
            let fail = |e: std::io::Error| ("FailedCreatePodSandBox", e.to_string());
            let containers = self.context.runtime.prepare_containers(&self.dirs, sandbox).await.map_err(fail)?;
            let (_, events) = containers.watch().await.map_err(fail)?;
            self.containers = Some(containers);
            self.events = Some(events);
        }
        Ok(())
    }

    /// Waits until the network policies that select the pod are in force, or the pod is wanted otherwise.
    pub(super) async fn await_policies(&self, wanted: &watch::Receiver<Wanted>) -> Result<(), &'static str> {
        let mut changes = wanted.clone();
        let is_static = is_static(&self.pod);
        // As long as the API says nothing, rules of before are in force, as those of other nodes are.
        let is_cut_off = !self.context.api_synced.load(Ordering::Relaxed);
        let goes_on = is_static || (self.is_inherited && is_cut_off);
        let permitted = async {
            tokio::select! {
                () = self.context.local.wait_until_allowed(&self.uid) => {}
                _ = changes.changed() => {}
            }
        };
        match tokio::time::timeout(if goes_on { STATIC_POD_POLICY_TIMEOUT } else { POLICY_TIMEOUT }, permitted).await {
            Ok(()) => Ok(()),
            // Pods of this machine's administrator may be what the API itself needs, which alone can say what policies there are.
            Err(_) if goes_on => Ok(()),
            Err(_) => Err("the rules of network policies aren't in force on this node"),
        }
    }
}
