//! The scheduler's view of a pod, with its terms and requests parsed once (upstream's `PodInfo`).

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::LabelSelector;
use informer::Pod;
use k8s_openapi::api::core::v1::{PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use kube::ResourceExt as _;
use placement::HostPort;

use crate::resources::{Resources, requests};

/// Labels.
pub type Labels = BTreeMap<String, String>;

/// A term of inter-pod affinity or anti-affinity.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    /// The label of nodes that have the same value where they count as one place.
    pub topology_key: String,
    selector: LabelSelector,
    namespaces: Vec<String>,
    /// `None` without a namespace selector.
    namespace_selector: Option<LabelSelector>,
    /// The score of a preferred term, negative for anti-affinity.
    pub weight: i64,
}

/// A topology spread constraint.
#[derive(Debug, Clone)]
pub struct SpreadConstraint {
    /// The label of nodes that makes domains of them.
    pub topology_key: String,
    /// Selects the pods that are counted; none without a selector.
    selector: Option<LabelSelector>,
    /// `maxSkew`.
    pub max_skew: i64,
    /// `minDomains`.
    pub min_domains: i64,
    /// Whether it is a filter (`DoNotSchedule`) rather than a score.
    pub required: bool,
    /// `nodeAffinityPolicy: Honor`.
    pub honor_affinity: bool,
    /// `nodeTaintsPolicy: Honor`.
    pub honor_taints: bool,
}

impl SpreadConstraint {
    /// Whether a pod with these labels is counted.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches_map(Some(labels)))
    }
}

/// The properties of a pod that selectors of other pods look at; pods are counted by them.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PodGroupKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Whether it has a deletion timestamp.
    pub is_ending: bool,
}

/// A pod with its parsed terms and requests.
#[derive(Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The properties that selectors of other pods look at.
    pub group_key: Arc<PodGroupKey>,
    /// Its requests.
    pub resources: Resources,
    /// Its priority.
    pub priority: i32,
    /// Its host ports.
    pub ports: Vec<HostPort>,
    /// Required affinity terms.
    pub affinity: Vec<AffinityTerm>,
    /// Required anti-affinity terms.
    pub anti_affinity: Vec<AffinityTerm>,
    /// Preferred terms; the weights of anti-affinity are negative.
    pub preferred: Vec<AffinityTerm>,
    /// Topology spread constraints.
    pub spread: Vec<SpreadConstraint>,
    /// Uid of the controller.
    pub owner: Option<String>,
    /// The images of its containers, normalized as in a node's status.
    pub images: Vec<String>,
}

/// Normalizes an image name: with a tag.
fn image_name(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || name.contains('@') { name.into() } else { format!("{name}:latest") }
}

fn selector(of: Option<&Selector>) -> Option<LabelSelector> {
    LabelSelector::from_json(&serde_json::to_value(of?).ok()?).ok()
}

impl SpreadConstraint {
    fn read(constraint: &TopologySpreadConstraint, labels: &Labels) -> Self {
        let keys = constraint.match_label_keys.iter().flatten();
        let own = keys.filter_map(|k| Some((k.clone(), labels.get(k)?.clone())));
        let wanted = constraint.label_selector.clone().map(|mut wanted| {
            wanted.match_labels.get_or_insert_default().extend(own);
            wanted
        });
        SpreadConstraint {
            topology_key: constraint.topology_key.clone(),
            selector: selector(wanted.as_ref()),
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

impl AffinityTerm {
    fn read(term: &PodAffinityTerm, pod: &Pod, weight: i64) -> Option<Self> {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(pod.namespace().unwrap_or_default());
        }
        let mut wanted = term.label_selector.clone().unwrap_or_default();
        for (keys, operator) in [(&term.match_label_keys, "In"), (&term.mismatch_label_keys, "NotIn")] {
            let own = keys.iter().flatten().filter_map(|k| Some((k, pod.labels().get(k)?)));
            wanted.match_expressions.get_or_insert_default().extend(own.map(|(key, value)| {
                k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.into(),
                    values: Some(vec![value.clone()]),
                }
            }));
        }
        // A term without a selector matches no pods.
        term.label_selector.as_ref()?;
        Some(AffinityTerm {
            topology_key: term.topology_key.clone(),
            selector: selector(Some(&wanted))?,
            namespaces,
            namespace_selector: selector(term.namespace_selector.as_ref()),
            weight,
        })
    }

    /// Whether the term matches a pod; `namespaces` are the labels of all namespaces.
    pub fn matches(&self, other: &PodGroupKey, namespaces: &BTreeMap<String, Labels>) -> bool {
        let in_namespace = self.namespaces.contains(&other.namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| s.matches_map(namespaces.get(&other.namespace)));
        in_namespace && self.selector.matches_map(Some(&other.labels))
    }
}

impl PodInfo {
    /// Parses a pod.
    pub fn read(pod: Arc<Pod>) -> Self {
        let labels = pod.labels().clone();
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|s| s.affinity.as_ref());
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            terms.into_iter().flatten().filter_map(|t| AffinityTerm::read(t, &pod, 1)).collect()
        };
        let mut preferred = Vec::new();
        for (terms, sign) in [
            (near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1),
            (far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), -1),
        ] {
            let weighted = terms.into_iter().flatten();
            preferred.extend(
                weighted.filter_map(|t| AffinityTerm::read(&t.pod_affinity_term, &pod, sign * i64::from(t.weight))),
            );
        }
        let constraints = spec.and_then(|s| s.topology_spread_constraints.as_ref()).into_iter().flatten();
        let spread = constraints.map(|constraint| SpreadConstraint::read(constraint, &labels)).collect();
        let ports = pod.serving().flat_map(|c| c.ports.iter().flatten());
        PodInfo {
            group_key: Arc::new(PodGroupKey {
                namespace: pod.namespace().unwrap_or_default(),
                labels,
                is_ending: pod.metadata.deletion_timestamp.is_some(),
            }),
            resources: requests(&pod),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            ports: ports.filter_map(HostPort::of).collect(),
            affinity: required(near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            anti_affinity: required(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred,
            spread,
            owner: pod.owner_references().iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone()),
            images: spec
                .iter()
                .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
                .filter_map(|c| c.image.as_deref().map(image_name))
                .collect(),
            pod,
        }
    }

    /// Whether the pod has inter-pod affinity terms.
    pub fn has_affinity(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty())
    }

    /// Whether both have the same host port.
    pub fn host_ports_conflict(&self, other: &PodInfo) -> bool {
        placement::host_ports_conflict(&self.ports, &other.ports)
    }
}
