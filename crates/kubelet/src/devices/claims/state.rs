//! Which claims are prepared, or about to be, for which pods; on disk in a file by upstream's name. Pure but for the file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use informer::ClaimName;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use super::ClaimError;

/// Upstream's name of the file.
pub const FILE: &str = "dra_manager_state";

/// A device that a driver has prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PreparedDevice {
    /// Its pool.
    pub pool_name: String,
    /// Its name.
    pub device_name: String,
    /// The requests of the claim that it is for; none are all.
    pub request_names: Vec<String>,
    /// What containers are given.
    #[serde(rename = "cdiDeviceIDs")]
    pub cdi_device_ids: Vec<String>,
}

impl PreparedDevice {
    /// Whether it belongs to a request of its claim; without one, all do.
    pub fn is_for(&self, request: Option<&str>) -> bool {
        let Some(request) = request.filter(|request| !request.is_empty()) else { return true };
        // A driver may name the one under `firstAvailable`, containers name the whole request.
        let is_it = |name: &String| name == request || name.split_once('/').is_some_and(|(base, _)| base == request);
        self.request_names.is_empty() || self.request_names.iter().any(is_it)
    }
}

/// A claim with what its drivers say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PreparedClaim {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The pods that use it, by uid.
    pub pods: BTreeSet<String>,
    /// Its drivers, each with the devices that it has prepared.
    pub drivers: BTreeMap<String, Vec<PreparedDevice>>,
    /// All drivers have prepared their part.
    pub is_prepared: bool,
    /// Its drivers are taking it back.
    #[serde(skip)]
    pub is_unpreparing: bool,
}

/// A claim with the devices that a container has of it, each with its driver.
pub type ContainerClaim = (PreparedClaim, Vec<(String, PreparedDevice)>);

/// All claims of the node, by uid.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct State {
    claims: BTreeMap<String, PreparedClaim>,
}

/// What is to be prepared of a claim; nothing of one that has no devices.
pub fn wanted(claim: &ResourceClaim) -> Option<PreparedClaim> {
    let devices = claim.status.as_ref()?.allocation.as_ref()?.devices.as_ref();
    let results = devices.into_iter().flat_map(|devices| devices.results.iter().flatten());
    Some(PreparedClaim {
        uid: claim.uid().unwrap_or_default(),
        name: claim.name_any(),
        namespace: claim.namespace().unwrap_or_default(),
        drivers: results.map(|result| (result.driver.clone(), Vec::new())).collect(),
        ..PreparedClaim::default()
    })
}

impl State {
    /// A pod uses a claim: the claim, with what is known of it.
    ///
    /// # Errors
    /// When another claim of that name is still prepared.
    pub fn enter(&mut self, wanted: PreparedClaim, pod: &str) -> Result<PreparedClaim, ClaimError> {
        if let Some(other) = self.find(&wanted.namespace, &wanted.name).filter(|other| other.uid != wanted.uid) {
            return Err(ClaimError::Replaced { claim: wanted.name, uid: other.uid.clone() });
        }
        let claim = self.claims.entry(wanted.uid.clone()).or_insert(wanted);
        if claim.is_unpreparing {
            return Err(ClaimError::Unpreparing(claim.name.clone()));
        }
        claim.pods.insert(pod.into());
        Ok(claim.clone())
    }

    /// A driver has prepared its part of a claim.
    pub fn set_devices(&mut self, uid: &str, driver: &str, devices: Vec<PreparedDevice>) {
        if let Some(claim) = self.claims.get_mut(uid) {
            claim.drivers.insert(driver.into(), devices);
        }
    }

    /// All drivers have prepared these claims.
    pub fn finish(&mut self, uids: &[&str]) {
        for uid in uids {
            if let Some(claim) = self.claims.get_mut(*uid) {
                claim.is_prepared = true;
            }
        }
    }

    /// A pod has ended. It is forgotten where others use a claim; the claims that it alone uses are returned, and are to be taken back.
    pub fn leave(&mut self, pod: &str) -> Vec<PreparedClaim> {
        let mut due = Vec::new();
        for claim in self.claims.values_mut().filter(|claim| claim.pods.contains(pod)) {
            if claim.pods.len() > 1 {
                claim.pods.remove(pod);
                continue;
            }
            (claim.is_prepared, claim.is_unpreparing) = (false, true);
            due.push(claim.clone());
        }
        due
    }

    /// These claims were taken back.
    pub fn remove(&mut self, uids: &[&str]) {
        self.claims.retain(|uid, _| !uids.contains(&uid.as_str()));
    }

    /// Whether a pod uses a claim.
    pub fn uses(&self, pod: &str) -> bool {
        self.claims.values().any(|claim| claim.pods.contains(pod))
    }

    /// All pods that use claims.
    pub fn users(&self) -> BTreeSet<String> {
        self.claims.values().flat_map(|claim| claim.pods.iter().cloned()).collect()
    }

    /// The devices of what a container names of its pod's claims.
    ///
    /// # Errors
    /// When one of the claims isn't prepared.
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Result<Vec<ContainerClaim>, ClaimError> {
        let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
        let entries = || pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
        let namespace = pod.namespace().unwrap_or_default();
        let mut found = Vec::new();
        for wanted in container.resources.iter().flat_map(|resources| resources.claims.iter().flatten()) {
            let name = entries().find(|entry| entry.name == wanted.name).map(|entry| ClaimName::of(entry, statuses));
            if name == Some(ClaimName::NotNeeded) {
                continue;
            }
            let claim = name.and_then(ClaimName::name).and_then(|name| self.find(&namespace, name));
            let Some(claim) = claim.filter(|claim| claim.is_prepared) else {
                return Err(ClaimError::NotPrepared(wanted.name.clone()));
            };
            let devices = claim.drivers.iter().flat_map(|(driver, devices)| {
                let own = devices.iter().filter(|device| device.is_for(wanted.request.as_deref()));
                own.map(|device| (driver.clone(), device.clone())).collect::<Vec<_>>()
            });
            found.push((claim.clone(), devices.collect()));
        }
        Ok(found)
    }

    /// A claim by name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<&PreparedClaim> {
        self.claims.values().find(|claim| claim.namespace == namespace && claim.name == name)
    }
}

/// Writes the file.
///
/// # Errors
/// Those of the file system, and when it would be too large to be read again.
pub fn write(file: &Path, state: &State) -> io::Result<()> {
    let text = serde_json::to_vec(state)?;
    if text.len() as u64 > bounded::MAX_OWN_FILE_BYTES {
        return Err(io::Error::other(format!("it has {} bytes, and could not be read again", text.len())));
    }
    bounded::durable::replace(file, &text)
}

/// Reads the file; without one nothing is prepared.
///
/// # Errors
/// When it can't be read.
pub fn read(file: &Path) -> io::Result<State> {
    match bounded::bytes(file, bounded::MAX_OWN_FILE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) => Err(error),
    }
}
