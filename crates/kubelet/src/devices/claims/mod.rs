//! Devices that claims give to pods (dynamic resource allocation, KEP-4381; upstream's `pkg/kubelet/cm/dra`): their drivers, which are plugins of
//! the node ([`drivers`]), prepare them before the pod's sandbox is made and take them back after its containers have ended.
//!
//! Which claims are prepared for whom is on disk before a driver hears of it, and until it has taken them back ([`state`]).

mod drivers;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::plugins::dra::dra_plugin_client::DraPluginClient;
use ::plugins::dra::{Claim, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest};
use ::plugins::podresources::{CdiDevice, ClaimResource, DynamicResource};
use informer::{ClaimName, is_made_for, is_reserved_for};
use k8s_openapi::api::core::v1::{Container, Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::config::Config;
use state::{ContainerClaim, PreparedClaim, PreparedDevice, State};

/// How long a driver may take to answer (upstream's `defaultClientCallTimeout`).
const CALL_TIMEOUT: Duration = Duration::from_secs(45);
/// How long the API may take to say what a claim has.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// How often claims of pods that are gone are tried to be taken back (upstream's reconcile period).
const RECONCILE_PERIOD: Duration = Duration::from_secs(60);
/// The most that a driver may say of a claim: it is kept as long as the claim is prepared.
const MAX_RESPONSE_BYTES: usize = 256 << 10;

/// Why the devices of a pod's claims can't be used, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Its claim isn't made yet.
    #[error("pod \"{0}\": ResourceClaim not created yet")]
    NotCreated(String),
    /// The API doesn't say what it has.
    #[error("fetch ResourceClaim {claim}: {why}")]
    Fetch {
        /// The claim.
        claim: String,
        /// What went wrong.
        why: String,
    },
    /// It is somebody else's.
    #[error("ResourceClaim {claim} was not created for Pod {pod} (Pod is not owner)")]
    NotOwner {
        /// The claim.
        claim: String,
        /// The pod.
        pod: String,
    },
    /// It isn't reserved for the pod.
    #[error("pod {pod} ({pod_uid}) is not allowed to use ResourceClaim {claim} ({claim_uid})")]
    NotReserved {
        /// The pod.
        pod: String,
        /// Its uid.
        pod_uid: String,
        /// The claim.
        claim: String,
        /// Its uid.
        claim_uid: String,
    },
    /// It has no devices.
    #[error("ResourceClaim {0}: not allocated")]
    NotAllocated(String),
    /// An earlier claim of that name is still prepared.
    #[error(
        "old ResourceClaim with same name {claim} and different UID {uid} still exists (previous pod force-deleted?!)"
    )]
    Replaced {
        /// The name.
        claim: String,
        /// The uid of the earlier one.
        uid: String,
    },
    /// Its drivers are taking it back from another pod.
    #[error("ResourceClaim {0} is being unprepared")]
    Unpreparing(String),
    /// A container names it, and it isn't prepared.
    #[error("unable to get claim info for claim {0}")]
    NotPrepared(String),
    /// The driver isn't there.
    #[error("DRA driver {0} is not registered")]
    NoDriver(String),
    /// The driver refuses, lies, or doesn't answer.
    #[error("{call}: {why}")]
    Driver {
        /// What it was asked.
        call: &'static str,
        /// What came of it.
        why: String,
    },
    /// It can't be written down.
    #[error("checkpoint ResourceClaim cache: {0}")]
    Checkpoint(#[from] std::io::Error),
}

/// Has drivers prepare the devices of claims.
pub struct ClaimManager {
    node_name: String,
    client: Client,
    file: PathBuf,
    state: Mutex<State>,
    drivers: Mutex<BTreeMap<String, DraPluginClient<Channel>>>,
    /// Drivers that have left, whose slices are deleted unless they come back.
    wiping: Mutex<BTreeMap<String, CancellationToken>>,
}

impl ClaimManager {
    /// With what was prepared before.
    pub fn restored(config: &Config, client: Client) -> Arc<Self> {
        let file = config.kubelet_dir.join(state::FILE);
        let state = state::read(&file).unwrap_or_else(|error| {
            tracing::error!(%error, file = %file.display(), "failed to read which claims are prepared from the checkpoint");
            State::default()
        });
        let (node_name, state) = (config.node_name.clone(), Mutex::new(state));
        Arc::new(ClaimManager { node_name, client, file, state, drivers: Mutex::default(), wiping: Mutex::default() })
    }

    fn driver(&self, name: &str) -> Result<DraPluginClient<Channel>, ClaimError> {
        self.drivers.lock().get(name).cloned().ok_or_else(|| ClaimError::NoDriver(name.into()))
    }

    /// Changes what is prepared, and writes it down.
    fn change<T>(&self, alter: impl FnOnce(&mut State) -> Result<T, ClaimError>) -> Result<T, ClaimError> {
        let mut state = self.state.lock();
        let changed = alter(&mut state)?;
        state::write(&self.file, &state)?;
        Ok(changed)
    }

    /// Has the drivers prepare all claims of a pod.
    ///
    /// # Errors
    /// When a claim has no devices for the pod, or a driver doesn't prepare them.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), ClaimError> {
        let mut due: Vec<PreparedClaim> = Vec::new();
        for entry in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
            let Some(claim) = self.claim(pod, entry).await? else { continue };
            let wanted = state::wanted(&claim).ok_or_else(|| ClaimError::NotAllocated(claim.name_any()))?;
            // Before it is written down, as upstream does it.
            for driver in wanted.drivers.keys() {
                self.driver(driver)?;
            }
            let uid = pod.uid().unwrap_or_default();
            let known = self.change(|state| state.enter(wanted, &uid))?;
            if !known.is_prepared {
                due.push(known);
            }
        }
        let mut by_driver: BTreeMap<&String, Vec<&PreparedClaim>> = BTreeMap::new();
        for claim in &due {
            claim.drivers.keys().for_each(|driver| by_driver.entry(driver).or_default().push(claim));
        }
        for (driver, claims) in by_driver {
            self.prepare_by(driver, &claims).await?;
        }
        let finished: Vec<&str> = due.iter().map(|claim| claim.uid.as_str()).collect();
        if finished.is_empty() {
            Ok(())
        } else {
            self.change(|state| {
                state.finish(&finished);
                Ok(())
            })
        }
    }

    /// The claim of an entry of a pod; none if it needs none.
    async fn claim(&self, pod: &Pod, entry: &PodResourceClaim) -> Result<Option<ResourceClaim>, ClaimError> {
        let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
        let (namespace, uid) = (pod.namespace().unwrap_or_default(), pod.uid().unwrap_or_default());
        let full_name = format!("{namespace}/{}", pod.name_any());
        let known = ClaimName::of(entry, statuses);
        let name = match known {
            ClaimName::Missing => return Err(ClaimError::NotCreated(full_name)),
            ClaimName::NotNeeded => return Ok(None),
            ClaimName::Own(name) | ClaimName::Generated(name) => name,
        };
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &namespace);
        let failed = |why: String| ClaimError::Fetch { claim: name.into(), why };
        let claim = match tokio::time::timeout(API_TIMEOUT, api.get(name)).await {
            Ok(Ok(claim)) => claim,
            Ok(Err(error)) => return Err(failed(informer::error_message(&error))),
            Err(_) => return Err(failed(format!("no answer within {API_TIMEOUT:?}"))),
        };
        if known == ClaimName::Generated(name) && !is_made_for(&claim, &uid) {
            return Err(ClaimError::NotOwner { claim: format!("{namespace}/{name}"), pod: full_name });
        }
        if !is_reserved_for(&claim, &uid) {
            let (pod, claim_uid) = (pod.name_any(), claim.uid().unwrap_or_default());
            return Err(ClaimError::NotReserved { pod, pod_uid: uid, claim: name.into(), claim_uid });
        }
        Ok(Some(claim))
    }

    /// Has one driver prepare claims, and keeps what it says of them.
    async fn prepare_by(&self, driver: &str, claims: &[&PreparedClaim]) -> Result<(), ClaimError> {
        const CALL: &str = "NodePrepareResources";
        let mut client = self.driver(driver)?;
        let request = NodePrepareResourcesRequest { claims: claims.iter().map(|claim| claim.request()).collect() };
        let answers = call(CALL, client.node_prepare_resources(request)).await?.claims;
        for (uid, answer) in &answers {
            let claim = asked(CALL, claims, uid)?;
            refused(CALL, claim, &answer.error)?;
            let devices = read(claim, answer)?;
            self.change(|state| {
                state.set_devices(uid, driver, devices);
                Ok(())
            })?;
        }
        all_answered(CALL, claims.len(), answers.len())
    }

    /// Has the drivers take back the claims that only this pod uses.
    ///
    /// # Errors
    /// When one doesn't; it is to be tried again, and the claims stay prepared.
    pub async fn unprepare(&self, uid: &str) -> Result<(), ClaimError> {
        const CALL: &str = "NodeUnprepareResources";
        if !self.state.lock().uses(uid) {
            return Ok(());
        }
        let due = self.change(|state| Ok(state.leave(uid)))?;
        let mut by_driver: BTreeMap<&String, Vec<&PreparedClaim>> = BTreeMap::new();
        for claim in &due {
            claim.drivers.keys().for_each(|driver| by_driver.entry(driver).or_default().push(claim));
        }
        for (driver, claims) in by_driver {
            let mut client = self.driver(driver)?;
            let request =
                NodeUnprepareResourcesRequest { claims: claims.iter().map(|claim| claim.request()).collect() };
            let answers = call(CALL, client.node_unprepare_resources(request)).await?.claims;
            for (uid, answer) in &answers {
                refused(CALL, asked(CALL, &claims, uid)?, &answer.error)?;
            }
            all_answered(CALL, claims.len(), answers.len())?;
        }
        let gone: Vec<&str> = due.iter().map(|claim| claim.uid.as_str()).collect();
        self.change(|state| {
            state.remove(&gone);
            Ok(())
        })
    }

    /// Takes back, until the process ends, what is prepared for pods that aren't here any more. `is_here` says which are.
    pub async fn reconcile(self: Arc<Self>, is_here: impl Fn(&str) -> bool) {
        loop {
            tokio::time::sleep(RECONCILE_PERIOD).await;
            let users = self.state.lock().users();
            for uid in users.into_iter().filter(|uid| !is_here(uid)) {
                if let Err(error) = self.unprepare(&uid).await {
                    tracing::warn!(pod = uid, %error, "failed to take back the devices of a pod that is gone; retrying");
                }
            }
        }
    }

    /// The names of the CDI devices of a container. What isn't prepared any more, as when its record was lost, is prepared again.
    ///
    /// # Errors
    /// As [`ClaimManager::prepare`].
    pub async fn cdi_devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, ClaimError> {
        let known = self.state.lock().of_container(pod, container);
        let claims = match known {
            Ok(claims) => claims,
            Err(_) => {
                self.prepare(pod).await?;
                self.state.lock().of_container(pod, container)?
            }
        };
        let devices = claims.into_iter().flat_map(|(_, devices)| devices);
        Ok(devices.flat_map(|(_, device)| device.cdi_device_ids).collect())
    }

    /// The devices of a container's claims for programs that look on.
    pub fn dynamic_resources(&self, pod: &Pod, container: &Container) -> Vec<DynamicResource> {
        let resource = |(driver_name, device): (String, PreparedDevice)| ClaimResource {
            cdi_devices: device.cdi_device_ids.into_iter().map(|name| CdiDevice { name }).collect(),
            driver_name,
            pool_name: device.pool_name,
            device_name: device.device_name,
        };
        let of_claim = |(claim, devices): ContainerClaim| DynamicResource {
            claim_name: claim.name,
            claim_namespace: claim.namespace,
            claim_resources: devices.into_iter().map(resource).collect(),
        };
        self.state.lock().of_container(pod, container).unwrap_or_default().into_iter().map(of_claim).collect()
    }
}

impl PreparedClaim {
    fn request(&self) -> Claim {
        Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }
}

/// The claim that a driver answers about.
fn asked<'a>(call: &'static str, claims: &[&'a PreparedClaim], uid: &str) -> Result<&'a PreparedClaim, ClaimError> {
    let unknown = || ClaimError::Driver { call, why: format!("returned result for unknown claim UID {uid:.64}") };
    claims.iter().find(|claim| claim.uid == uid).copied().ok_or_else(unknown)
}

fn refused(call: &'static str, claim: &PreparedClaim, error: &str) -> Result<(), ClaimError> {
    match error.is_empty() {
        true => Ok(()),
        false => {
            Err(ClaimError::Driver { call, why: format!("failed for ResourceClaim {}: {error:.1024}", claim.name) })
        }
    }
}

fn all_answered(call: &'static str, wanted: usize, answered: usize) -> Result<(), ClaimError> {
    match wanted.saturating_sub(answered) {
        0 => Ok(()),
        left => Err(ClaimError::Driver { call, why: format!("skipped {left} ResourceClaims") }),
    }
}

/// What a driver says of a claim's devices.
fn read(claim: &PreparedClaim, answer: &NodePrepareResourceResponse) -> Result<Vec<PreparedDevice>, ClaimError> {
    let wrong = |why: String| {
        let why = format!("wrong answer for ResourceClaim {}: {why}", claim.name);
        ClaimError::Driver { call: "NodePrepareResources", why }
    };
    if answer.encoded_len() > MAX_RESPONSE_BYTES {
        return Err(wrong(format!("it has {} bytes; the most is {MAX_RESPONSE_BYTES}", answer.encoded_len())));
    }
    let names = answer.devices.iter().flat_map(|device| &device.cdi_device_ids);
    if let Some(bad) = names.into_iter().find(|name| !::plugins::cdi::is_name(name)) {
        return Err(wrong(format!("{bad:.128?} is no CDI device name; it must be like vendor.com/class=device")));
    }
    let device = |device: &::plugins::dra::Device| PreparedDevice {
        pool_name: device.pool_name.clone(),
        device_name: device.device_name.clone(),
        request_names: device.request_names.clone(),
        cdi_device_ids: device.cdi_device_ids.clone(),
    };
    Ok(answer.devices.iter().map(device).collect())
}

/// The answer of a driver, within [`CALL_TIMEOUT`].
async fn call<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ClaimError> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(ClaimError::Driver { call, why: format!("{:.1024}", status.message()) }),
        Err(_) => Err(ClaimError::Driver { call, why: format!("no answer within {CALL_TIMEOUT:?}") }),
    }
}

#[cfg(test)]
mod tests;
