//! The devices that were chosen for a claim, as its status has them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult,
};
use kube::ResourceExt as _;

use super::request::Claim;
use super::search::{Candidate, Chosen};

/// Makes the allocation of a claim.
pub fn allocation(claim: &Claim<'_>, chosen: &[Chosen], candidates: &[Candidate<'_>], node: &str) -> AllocationResult {
    let result = |chosen: &Chosen| {
        let (candidate, request) = (&candidates[chosen.candidate], &claim.requests[chosen.request]);
        let alternative = &request.alternatives[chosen.alternative];
        DeviceRequestAllocationResult {
            request: request.full_name(chosen.alternative),
            driver: candidate.id.driver.clone(),
            pool: candidate.id.pool.clone(),
            device: candidate.id.device.clone(),
            admin_access: alternative.admin_access.then_some(true),
            tolerations: (!alternative.tolerations.is_empty()).then(|| alternative.tolerations.to_vec()),
            ..DeviceRequestAllocationResult::default()
        }
    };
    let config = configuration(claim, chosen);
    let devices = DeviceAllocationResult {
        results: Some(chosen.iter().map(result).collect()),
        config: (!config.is_empty()).then_some(config),
    };
    AllocationResult {
        devices: Some(devices),
        node_selector: node_selector(chosen.iter().map(|chosen| &candidates[chosen.candidate]), node),
        allocation_timestamp: None,
    }
}

/// What drivers are told: what the classes say, each once, and then what the claim says.
fn configuration(claim: &Claim<'_>, chosen: &[Chosen]) -> Vec<DeviceAllocationConfiguration> {
    let which: BTreeMap<usize, usize> = chosen.iter().map(|chosen| (chosen.request, chosen.alternative)).collect();
    let name = |request: usize| claim.requests[request].full_name(which.get(&request).copied().unwrap_or(0));
    let mut configuration: Vec<DeviceAllocationConfiguration> = Vec::new();
    // The place of each class's part in the list.
    let mut classes: BTreeMap<String, std::ops::Range<usize>> = BTreeMap::new();
    for (number, request) in claim.requests.iter().enumerate() {
        let alternative = which.get(&number).copied().unwrap_or(0);
        let Some(class) = request.alternatives.get(alternative).map(|a| &a.class) else { continue };
        if let Some(range) = classes.get(&class.name_any()) {
            for part in &mut configuration[range.clone()] {
                part.requests.get_or_insert_default().push(name(number));
            }
            continue;
        }
        let start = configuration.len();
        for part in class.spec.iter().flat_map(|spec| spec.config.iter().flatten()) {
            configuration.push(DeviceAllocationConfiguration {
                source: "FromClass".into(),
                requests: Some(vec![name(number)]),
                opaque: part.opaque.clone(),
            });
        }
        classes.insert(class.name_any(), start..configuration.len());
    }
    let devices = claim.claim.spec.iter().flat_map(|spec| &spec.devices);
    for part in devices.flat_map(|devices| devices.config.iter().flatten()) {
        let wanted = part.requests.as_deref().unwrap_or_default();
        let is_about =
            |number: usize| wanted.contains(&claim.requests[number].name.to_string()) || wanted.contains(&name(number));
        if wanted.is_empty() || (0..claim.requests.len()).any(is_about) {
            configuration.push(DeviceAllocationConfiguration {
                source: "FromClaim".into(),
                requests: part.requests.clone(),
                opaque: part.opaque.clone(),
            });
        }
    }
    // What is about all requests names none.
    for part in &mut configuration {
        let wanted = part.requests.clone().unwrap_or_default();
        let is_about =
            |number: usize| wanted.contains(&claim.requests[number].name.to_string()) || wanted.contains(&name(number));
        if (0..claim.requests.len()).all(is_about) {
            part.requests = None;
        }
    }
    configuration
}

/// Where the devices can be used; anywhere if none says otherwise.
fn node_selector<'a>(devices: impl Iterator<Item = &'a Candidate<'a>>, node: &str) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for candidate in devices {
        let is_own = candidate.slice.spec.per_device_node_selection == Some(true);
        let (name, selector) = match is_own {
            true => (&candidate.device.node_name, &candidate.device.node_selector),
            false => (&candidate.slice.spec.node_name, &candidate.slice.spec.node_selector),
        };
        if name.is_some() || candidate.device.binds_to_node == Some(true) {
            let field = NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.into()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        let Some(wanted) = selector.as_ref().and_then(|selector| selector.node_selector_terms.first()) else {
            continue;
        };
        add(&mut term.match_fields, wanted.match_fields.as_deref());
        add(&mut term.match_expressions, wanted.match_expressions.as_deref());
    }
    let has_some = term.match_fields.is_some() || term.match_expressions.is_some();
    has_some.then(|| NodeSelector { node_selector_terms: vec![term] })
}

fn add(to: &mut Option<Vec<NodeSelectorRequirement>>, more: Option<&[NodeSelectorRequirement]>) {
    for requirement in more.into_iter().flatten() {
        let present = to.get_or_insert_default();
        if !present.contains(requirement) {
            present.push(requirement.clone());
        }
    }
}
