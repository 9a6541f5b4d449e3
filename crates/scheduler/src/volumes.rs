//! The volumes of a pod, and where they allow it to be (upstream's `volumebinding`, `nodevolumelimits` and `volumezone`).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use apimachinery::LabelSelector;
use informer::{Claim, Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::ResourceExt as _;

use crate::filters::{self, PodVolumes, WaitingClaim};
use crate::{NO_PROVISIONER, SELECTED_NODE, Scheduler};

/// Why a pod can't be scheduled because of its volumes.
pub(crate) enum VolumeError {
    /// A claim is being bound: only its status is still to be written.
    Binding,
    Unschedulable(String),
}

impl Scheduler {
    /// Requirements of the pod's claims, and the nodes that they leave out.
    pub(crate) fn volumes_of(&self, pod: &Pod) -> Result<PodVolumes, VolumeError> {
        let mut volumes = self.pod_volumes(pod)?;
        volumes.in_use = !volumes.exclusive.is_empty() && {
            let snapshot = self.snapshot.lock();
            snapshot.nodes().any(|node| node.pods.values().any(|other| filters::uses(other, &volumes.exclusive)))
        };
        volumes.at_attach_limit = self.nodes_at_attach_limit(&volumes.of_drivers);
        Ok(volumes)
    }

    /// The attachable volume of a claim: driver and volume handle, or the claim while its volume isn't provisioned.
    fn attachable_volume(&self, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
        let spec = claim.spec.as_ref()?;
        let Some(name) = &spec.volume_name else {
            let class = self.classes.get(&Key::new("", placement::claim_class(claim)?))?;
            return Some((class.provisioner.clone(), claim.key().to_string()));
        };
        let volume = self.volumes.get(&Key::new("", name))?;
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some((csi.driver.clone(), csi.volume_handle.clone()))
    }

    /// The nodes where these volumes exceed a driver's limit of attachable volumes (`CSINode.spec.drivers[].allocatable`).
    fn nodes_at_attach_limit(&self, wanted: &BTreeSet<(String, String)>) -> HashSet<String> {
        let mut nodes_at_attach_limit = HashSet::new();
        if wanted.is_empty() {
            return nodes_at_attach_limit;
        }
        let snapshot = self.snapshot.lock();
        for node in self.drivers.list() {
            let limits = node.spec.drivers.iter().filter_map(|d| Some((&d.name, d.allocatable.as_ref()?.count?)));
            let mut limits = limits.filter(|(driver, _)| wanted.iter().any(|(of, _)| of == *driver)).peekable();
            let Some(state) = snapshot.node_by_name(&node.name_any()).filter(|_| limits.peek().is_some()) else {
                continue;
            };
            let claims = state.pods.values().flat_map(|pod| {
                let claims = informer::claims(&pod.pod).into_iter();
                claims.filter_map(|c| self.claims.get(&Key::new(&pod.group_key.namespace, &c.name)))
            });
            let all: BTreeSet<_> =
                claims.filter_map(|c| self.attachable_volume(&c)).chain(wanted.iter().cloned()).collect();
            let is_full = |(driver, most): (&String, i32)| {
                all.iter().filter(|(of, _)| of == driver).count() as i64 > i64::from(most)
            };
            if limits.any(is_full) {
                nodes_at_attach_limit.insert(state.name.clone());
            }
        }
        nodes_at_attach_limit
    }

    fn pod_volumes(&self, pod: &Pod) -> Result<PodVolumes, VolumeError> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut volumes = PodVolumes::default();
        for wanted in informer::claims(pod) {
            let claim = self.claim(pod, &namespace, &wanted)?;
            volumes.of_drivers.extend(self.attachable_volume(&claim));
            let spec = claim.spec.clone().unwrap_or_default();
            if spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod") {
                volumes.exclusive.push(claim.key());
            }
            match &spec.volume_name {
                Some(name) => self.add_bound(&claim, name, &mut volumes)?,
                None => self.add_unbound(&claim, &mut volumes)?,
            }
        }
        Ok(volumes)
    }

    /// A claim that a pod names, if it may use it.
    fn claim(&self, pod: &Pod, namespace: &str, wanted: &Claim<'_>) -> Result<Arc<PersistentVolumeClaim>, VolumeError> {
        let name = &wanted.name;
        let Some(claim) = self.claims.get(&Key::new(namespace, name)) else {
            return Err(VolumeError::Unschedulable(match &wanted.template {
                Some(_) => {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                }
                None => format!("persistentvolumeclaim {name:?} not found"),
            }));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(VolumeError::Unschedulable(format!("persistentvolumeclaim {name:?} is being deleted")));
        }
        if !wanted.belongs(pod.metadata.uid.as_deref(), claim.owner_references()) {
            return Err(VolumeError::Unschedulable(format!("PVC \"{namespace}/{name}\" was not created for the pod")));
        }
        Ok(claim)
    }

    /// A claim with a volume: the pod goes where that is.
    fn add_bound(&self, claim: &PersistentVolumeClaim, volume: &str, to: &mut PodVolumes) -> Result<(), VolumeError> {
        if let Some(volume) = self.volumes.get(&Key::new("", volume)) {
            let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.clone());
            to.affinities.extend(affinity);
            for key in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"] {
                // Several zones are separated by two underscores.
                let values = volume.labels().get(key).map(|v| v.split("__").map(String::from).collect());
                to.zones.extend(values.map(|values| (key.to_string(), values)));
            }
        }
        let is_bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if is_bound { Ok(()) } else { Err(VolumeError::Binding) }
    }

    /// A claim that waits for its pod's node, with the volumes that would do.
    fn waiting_claim(&self, claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> WaitingClaim {
        let mut found: Vec<_> = self.volumes.list().into_iter().filter(|v| placement::volume_fits(claim, v)).collect();
        found.sort_by_cached_key(|volume| placement::volume_rank(volume));
        let place = |volume: &PersistentVolume| volume.spec.as_ref()?.node_affinity.as_ref()?.required.clone();
        WaitingClaim {
            name: claim.name_any(),
            candidates: found.iter().map(|volume| (volume.name_any(), place(volume))).collect(),
            has_provisioner: class.is_some_and(|class| class.provisioner != NO_PROVISIONER),
            topologies: class.and_then(|class| class.allowed_topologies.clone()).unwrap_or_default(),
            roomy: class.and_then(|class| self.roomy(claim, class)),
        }
    }

    /// Where a driver has room for a claim; none where it doesn't tell (upstream's `hasEnoughCapacity`).
    fn roomy(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<Vec<LabelSelector>> {
        let driver = self.driver_kinds.get(&Key::new("", &class.provisioner))?;
        if driver.spec.storage_capacity != Some(true) {
            return None;
        }
        let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref());
        let wanted = placement::storage_amount(requests);
        let has_room = |capacity: &CSIStorageCapacity| {
            let most = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
            let most = most.and_then(|most| most.0.parse::<apimachinery::Quantity>().ok());
            capacity.storage_class_name == class.name_any() && most.is_some_and(|most| most >= wanted)
        };
        // One without a topology is of no node.
        let place = |capacity: &CSIStorageCapacity| {
            LabelSelector::from_json(&serde_json::to_value(capacity.node_topology.as_ref()?).ok()?).ok()
        };
        Some(self.capacities.list().iter().filter(|c| has_room(c)).filter_map(|c| place(c)).collect())
    }

    /// A claim without a volume: one is provisioned where the pod goes, if its class waits for that.
    fn add_unbound(&self, claim: &PersistentVolumeClaim, to: &mut PodVolumes) -> Result<(), VolumeError> {
        let class = self.classes.get(&Key::new("", placement::claim_class(claim).unwrap_or("")));
        let waits = class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        if !waits {
            return Err(VolumeError::Unschedulable("pod has unbound immediate PersistentVolumeClaims".into()));
        }
        if let Some(node) = claim.annotations().get(SELECTED_NODE) {
            to.node = Some(node.clone());
        }
        to.waiting.push(self.waiting_claim(claim, class.as_deref()));
        Ok(())
    }
}
