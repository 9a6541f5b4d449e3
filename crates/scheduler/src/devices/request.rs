//! What claims ask for, one request after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceClass, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceSubRequest, DeviceToleration,
    ExactDeviceRequest, ResourceClaim,
};
use kube::ResourceExt as _;

/// One way to satisfy a request: the request itself, or one of those under `firstAvailable`.
#[derive(Debug, Clone)]
pub struct Alternative<'a> {
    /// The name of the one under `firstAvailable`.
    pub sub_request: Option<&'a str>,
    /// The class of its devices.
    pub class: Arc<DeviceClass>,
    /// What it asks for beside what its class does.
    pub selectors: &'a [DeviceSelector],
    /// Which taints don't matter to it.
    pub tolerations: &'a [DeviceToleration],
    /// How many devices; none is all that there are.
    pub count: Option<usize>,
    /// Whether it takes devices that others have.
    pub admin_access: bool,
}

/// A request of a claim.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its name.
    pub name: &'a str,
    /// In the order in which they are tried.
    pub alternatives: Vec<Alternative<'a>>,
}

impl Request<'_> {
    /// The name of an alternative as results and constraints have it.
    pub fn full_name(&self, alternative: usize) -> String {
        match self.alternatives.get(alternative).and_then(|a| a.sub_request) {
            Some(sub_request) => format!("{}/{sub_request}", self.name),
            None => self.name.into(),
        }
    }
}

/// A claim that is to be allocated.
#[derive(Debug)]
pub struct Claim<'a> {
    /// The claim.
    pub claim: &'a ResourceClaim,
    /// Its requests.
    pub requests: Vec<Request<'a>>,
    /// What its devices must have in common, or not.
    pub constraints: &'a [DeviceConstraint],
}

/// Why a claim can't be understood.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Nothing can be done until something changes, in upstream's words.
    Unresolvable(String),
    /// The claim itself is wrong.
    Wrong(String),
}

/// `namespace/name`
pub fn full_name(claim: &ResourceClaim) -> String {
    format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any())
}

/// Makes the parts of a claim that are the same for an exact request and one under `firstAvailable`.
struct Reader<'c, F> {
    claim: &'c ResourceClaim,
    class: F,
}

impl<F: Fn(&str) -> Option<Arc<DeviceClass>>> Reader<'_, F> {
    fn class(&self, request: &str, class: &str) -> Result<Arc<DeviceClass>, RequestError> {
        let missing = || RequestError::Unresolvable(format!("request {request}: device class {class} does not exist"));
        (self.class)(class).ok_or_else(missing)
    }

    fn count(&self, request: &str, mode: Option<&str>, count: Option<i64>) -> Result<Option<usize>, RequestError> {
        match mode {
            None | Some("ExactCount") => Ok(Some(usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX))),
            Some("All") => Ok(None),
            Some(mode) => Err(self.wrong(request, &format!("unsupported count mode {mode}"))),
        }
    }

    fn wrong(&self, request: &str, why: &str) -> RequestError {
        RequestError::Wrong(format!("claim {}, request {request}: {why}", full_name(self.claim)))
    }

    fn exact<'a>(&self, name: &str, exact: &'a ExactDeviceRequest) -> Result<Alternative<'a>, RequestError> {
        if exact.capacity.is_some() {
            return Err(self.wrong(name, NO_CAPACITY));
        }
        Ok(Alternative {
            sub_request: None,
            class: self.class(name, &exact.device_class_name)?,
            selectors: exact.selectors.as_deref().unwrap_or_default(),
            tolerations: exact.tolerations.as_deref().unwrap_or_default(),
            count: self.count(name, exact.allocation_mode.as_deref(), exact.count)?,
            admin_access: exact.admin_access == Some(true),
        })
    }

    fn sub_request<'a>(&self, name: &str, sub: &'a DeviceSubRequest) -> Result<Alternative<'a>, RequestError> {
        let full = format!("{name}/{}", sub.name);
        if sub.capacity.is_some() {
            return Err(self.wrong(&full, NO_CAPACITY));
        }
        Ok(Alternative {
            sub_request: Some(&sub.name),
            class: self.class(&full, &sub.device_class_name)?,
            selectors: sub.selectors.as_deref().unwrap_or_default(),
            tolerations: sub.tolerations.as_deref().unwrap_or_default(),
            count: self.count(&full, sub.allocation_mode.as_deref(), sub.count)?,
            admin_access: false,
        })
    }

    fn request<'a>(&self, request: &'a DeviceRequest) -> Result<Request<'a>, RequestError> {
        let name = request.name.as_str();
        let alternatives = match (&request.exactly, &request.first_available) {
            (Some(exact), _) => vec![self.exact(name, exact)?],
            (None, Some(list)) if !list.is_empty() => {
                list.iter().map(|sub| self.sub_request(name, sub)).collect::<Result<_, _>>()?
            }
            _ => {
                let why = format!("resource claim {}, request {name}: unknown request type", full_name(self.claim));
                return Err(RequestError::Unresolvable(why));
            }
        };
        Ok(Request { name, alternatives })
    }
}

/// What is said of shares of devices (KEP-5075), which aren't given.
const NO_CAPACITY: &str = "has capacity requests, which this version of timonel doesn't serve";

/// How early those under `firstAvailable` are of which a claim has devices (upstream's `computeScore`).
pub fn score(claim: &ResourceClaim, allocation: &AllocationResult) -> i64 {
    /// Upstream's `FirstAvailableDeviceRequestMaxSize`.
    const MOST: usize = 8;
    let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    let chosen: BTreeSet<&str> = results.map(|result| result.request.as_str()).collect();
    let devices = claim.spec.iter().flat_map(|spec| &spec.devices);
    let requests = devices.flat_map(|devices| devices.requests.iter().flatten());
    let points = requests.flat_map(|request| {
        let list = request.first_available.iter().flatten().enumerate();
        list.filter(|(_, sub)| chosen.contains(format!("{}/{}", request.name, sub.name).as_str()))
            .map(|(place, _)| i64::try_from(MOST.saturating_sub(place)).unwrap_or(0))
            .collect::<Vec<_>>()
    });
    points.sum()
}

/// Reads a claim. `class` finds device classes.
///
/// # Errors
/// When a class isn't there, or the claim asks for something unknown.
pub fn read(
    claim: &ResourceClaim,
    class: impl Fn(&str) -> Option<Arc<DeviceClass>>,
) -> Result<Claim<'_>, RequestError> {
    let reader = Reader { claim, class };
    let devices = claim.spec.as_ref().and_then(|spec| spec.devices.as_ref());
    let requests = devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let constraints = devices.and_then(|devices| devices.constraints.as_deref()).unwrap_or_default();
    Ok(Claim {
        claim,
        requests: requests.map(|request| reader.request(request)).collect::<Result<_, _>>()?,
        constraints,
    })
}
