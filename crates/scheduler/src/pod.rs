//! A pod as the scheduler sees it: what is asked of it again and again is read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::LabelSelector;
use informer::Pod;
use k8s_openapi::api::core::v1::PodAffinityTerm;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use kube::ResourceExt as _;
use placement::HostPort;

use crate::amounts::{Amounts, requests};

pub type Labels = BTreeMap<String, String>;

/// Pods that a term of affinity is about, and the domain that it is about.
#[derive(Debug, Clone)]
pub struct Term {
    pub topology_key: String,
    selector: LabelSelector,
    namespaces: Vec<String>,
    /// `None` for no namespaces by selector.
    namespace_selector: Option<LabelSelector>,
    pub weight: i64,
}

#[derive(Debug, Clone)]
pub struct Spread {
    pub topology_key: String,
    pub selector: LabelSelector,
    pub max_skew: i64,
    pub min_domains: i64,
    pub required: bool,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

/// What others can choose a pod by.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Kin {
    pub namespace: String,
    pub labels: Labels,
    pub is_ending: bool,
}

#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub kin: Arc<Kin>,
    pub amounts: Amounts,
    pub priority: i32,
    pub ports: Vec<HostPort>,
    pub affinity: Vec<Term>,
    pub anti_affinity: Vec<Term>,
    /// Weights of anti-affinity are negative.
    pub preferred: Vec<Term>,
    pub spread: Vec<Spread>,
    pub owner: Option<String>,
    /// The images of its containers, as nodes name them.
    pub images: Vec<String>,
}

/// An image's name as nodes have it: with a tag.
fn image_name(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || name.contains('@') { name.into() } else { format!("{name}:latest") }
}

fn selector(of: Option<&Selector>) -> Option<LabelSelector> {
    LabelSelector::from_json(&serde_json::to_value(of?).ok()?).ok()
}

impl Term {
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
        // A term without a selector is about no pods.
        term.label_selector.as_ref()?;
        Some(Term {
            topology_key: term.topology_key.clone(),
            selector: selector(Some(&wanted))?,
            namespaces,
            namespace_selector: selector(term.namespace_selector.as_ref()),
            weight,
        })
    }

    /// Whether the term is about a pod; `namespaces` are the labels of all namespaces.
    pub fn is_about(&self, other: &Kin, namespaces: &BTreeMap<String, Labels>) -> bool {
        let in_namespace = self.namespaces.contains(&other.namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| s.matches_map(namespaces.get(&other.namespace)));
        in_namespace && self.selector.matches_map(Some(&other.labels))
    }
}

impl PodInfo {
    pub fn read(pod: Arc<Pod>) -> Self {
        let labels = pod.labels().clone();
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|s| s.affinity.as_ref());
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().filter_map(|t| Term::read(t, &pod, 1)).collect()
        };
        let mut preferred = Vec::new();
        for (terms, sign) in [
            (near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1),
            (far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), -1),
        ] {
            let weighted = terms.into_iter().flatten();
            preferred
                .extend(weighted.filter_map(|t| Term::read(&t.pod_affinity_term, &pod, sign * i64::from(t.weight))));
        }
        let constraints = spec.and_then(|s| s.topology_spread_constraints.as_ref()).into_iter().flatten();
        let spread: Vec<Spread> = constraints
            .filter_map(|c| {
                let mut wanted = c.label_selector.clone().unwrap_or_default();
                let own = c.match_label_keys.iter().flatten().filter_map(|k| Some((k.clone(), labels.get(k)?.clone())));
                wanted.match_labels.get_or_insert_default().extend(own);
                Some(Spread {
                    topology_key: c.topology_key.clone(),
                    selector: selector(Some(&wanted))?,
                    max_skew: i64::from(c.max_skew),
                    min_domains: i64::from(c.min_domains.unwrap_or(1)),
                    required: c.when_unsatisfiable == "DoNotSchedule",
                    honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
                    honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
                })
            })
            .collect();
        let ports = pod.serving().flat_map(|c| c.ports.iter().flatten());
        PodInfo {
            kin: Arc::new(Kin {
                namespace: pod.namespace().unwrap_or_default(),
                labels,
                is_ending: pod.metadata.deletion_timestamp.is_some(),
            }),
            amounts: requests(&pod),
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

    /// Whether pods already there may have a say in where this one goes.
    pub fn has_affinity(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty())
    }

    /// Whether both want the same port of a node.
    pub fn collides(&self, other: &PodInfo) -> bool {
        placement::collide(&self.ports, &other.ports)
    }
}
