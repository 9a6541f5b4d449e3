//! The order of causes: what is wrong first, and what follows from it.
//!
//! Objects depend on others: a Deployment on its ReplicaSets, these on their Pods, a Pod on its node and claims, a Service on its Pods. A finding
//! about an object is a consequence where something that the object depends on has a finding of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use crate::codes::Severity;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, items, name, namespace, pairs, selects, text};
use crate::rules;
use crate::snapshot::{ObjectRef, Snapshot};

/// So far objects are followed; a cluster has no longer chains, and a hostile one gets no longer answer.
const FOLLOWED: usize = 20_000;

/// Something that is wrong by itself, and what follows from it.
#[derive(Debug)]
pub struct Cause {
    /// What is wrong.
    pub finding: Finding,
    /// What follows from it, the nearest first.
    pub consequences: Vec<Finding>,
}

/// What depends on what.
#[derive(Debug, Default)]
pub struct Graph {
    down: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    up: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
}

impl Graph {
    /// That of a snapshot.
    pub fn of(s: &Snapshot) -> Self {
        let mut graph = Graph::default();
        for kind in [Kind::ReplicaSet, Kind::Pod, Kind::Job] {
            for object in s.all(kind) {
                let Some((group, owner_kind, owner)) = object::controller(object) else { continue };
                let old = kind == Kind::ReplicaSet && int(object, "/spec/replicas") == Some(0);
                if let Some(owner_kind) = Kind::of(group, owner_kind).filter(|_| !old) {
                    graph.add(ObjectRef::new(owner_kind, namespace(object), owner), ObjectRef::of(kind, object));
                }
            }
        }
        graph.pods(s);
        graph.volumes(s);
        graph.ways(s);
        graph.policies(s);
        graph
    }

    fn add(&mut self, object: ObjectRef, depends_on: ObjectRef) {
        self.down.entry(object.clone()).or_default().insert(depends_on.clone());
        self.up.entry(depends_on).or_default().insert(object);
    }

    fn pods(&mut self, s: &Snapshot) {
        for pod in s.all(Kind::Pod) {
            let reference = ObjectRef::of(Kind::Pod, pod);
            let node = text(pod, "/spec/nodeName");
            if !node.is_empty() {
                self.add(reference.clone(), ObjectRef::new(Kind::Node, "", node));
            }
            for claim in rules::claims_of(pod) {
                self.add(reference.clone(), ObjectRef::new(Kind::PersistentVolumeClaim, namespace(pod), &claim));
            }
        }
    }

    fn volumes(&mut self, s: &Snapshot) {
        for claim in s.all(Kind::PersistentVolumeClaim) {
            let volume = text(claim, "/spec/volumeName");
            if !volume.is_empty() {
                self.add(
                    ObjectRef::of(Kind::PersistentVolumeClaim, claim),
                    ObjectRef::new(Kind::PersistentVolume, "", volume),
                );
            }
        }
    }

    fn ways(&mut self, s: &Snapshot) {
        for service in s.all(Kind::Service) {
            let selector = pairs(service, "/spec/selector");
            if selector.is_empty() {
                continue;
            }
            for pod in s.within(Kind::Pod, namespace(service)) {
                if object::has_labels(pod, &selector) {
                    self.add(ObjectRef::of(Kind::Service, service), ObjectRef::of(Kind::Pod, pod));
                }
            }
        }
        for ingress in s.all(Kind::Ingress) {
            let own = ObjectRef::of(Kind::Ingress, ingress);
            let paths = items(ingress, "/spec/rules").iter().flat_map(|rule| items(rule, "/http/paths"));
            let named = paths.map(|path| text(path, "/backend/service/name"));
            for service in named.chain([text(ingress, "/spec/defaultBackend/service/name")]).filter(|n| !n.is_empty()) {
                self.add(own.clone(), ObjectRef::new(Kind::Service, namespace(ingress), service));
            }
        }
        for route in s.all(Kind::HttpRoute) {
            self.route(route);
        }
    }

    fn route(&mut self, route: &Value) {
        let own = ObjectRef::of(Kind::HttpRoute, route);
        let place = |reference: &Value| {
            let space = text(reference, "/namespace");
            if space.is_empty() { namespace(route).to_string() } else { space.to_string() }
        };
        for parent in items(route, "/spec/parentRefs").iter().filter(|p| ["", "Gateway"].contains(&text(p, "/kind"))) {
            self.add(own.clone(), ObjectRef::new(Kind::Gateway, &place(parent), text(parent, "/name")));
        }
        let backends = items(route, "/spec/rules").iter().flat_map(|rule| items(rule, "/backendRefs"));
        for backend in backends.filter(|b| ["", "Service"].contains(&text(b, "/kind"))) {
            self.add(own.clone(), ObjectRef::new(Kind::Service, &place(backend), text(backend, "/name")));
        }
    }

    fn policies(&mut self, s: &Snapshot) {
        for hpa in s.all(Kind::HorizontalPodAutoscaler) {
            let group = text(hpa, "/spec/scaleTargetRef/apiVersion").split_once('/').map_or("", |(group, _)| group);
            if let Some(kind) = Kind::of(group, text(hpa, "/spec/scaleTargetRef/kind")) {
                let target = ObjectRef::new(kind, namespace(hpa), text(hpa, "/spec/scaleTargetRef/name"));
                self.add(ObjectRef::of(Kind::HorizontalPodAutoscaler, hpa), target);
            }
        }
        for budget in s.all(Kind::PodDisruptionBudget) {
            let Some(selector) = object::selector(budget, "/spec/selector") else { continue };
            for pod in s.within(Kind::Pod, namespace(budget)).filter(|pod| selects(&selector, pod)) {
                self.add(ObjectRef::of(Kind::PodDisruptionBudget, budget), ObjectRef::of(Kind::Pod, pod));
            }
        }
    }

    fn reach(
        &self,
        from: impl IntoIterator<Item = ObjectRef>,
        edges: &BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    ) -> BTreeSet<ObjectRef> {
        let mut seen: BTreeSet<ObjectRef> = BTreeSet::new();
        let mut queue: VecDeque<ObjectRef> = from.into_iter().collect();
        while let Some(object) = queue.pop_front() {
            if seen.len() >= FOLLOWED || seen.contains(&object) {
                continue;
            }
            queue.extend(edges.get(&object).into_iter().flatten().cloned());
            seen.insert(object);
        }
        seen
    }

    /// What objects depend on, and themselves.
    pub fn below(&self, from: impl IntoIterator<Item = ObjectRef>) -> BTreeSet<ObjectRef> {
        self.reach(from, &self.down)
    }

    /// What an object has to do with: what it depends on, and what depends on it.
    pub fn around(&self, object: &ObjectRef) -> BTreeSet<ObjectRef> {
        let mut all = self.reach([object.clone()], &self.down);
        all.extend(self.reach([object.clone()], &self.up));
        all
    }
}

/// Whether one finding may explain another about an object that depends on the first one's.
fn may_explain(cause: &Finding, effect: &Finding) -> bool {
    cause.code.severity == Severity::Error || effect.code.severity != Severity::Error
}

/// Puts findings in the order of causes. Hints explain nothing and are left out.
pub fn causes(graph: &Graph, findings: Vec<Finding>) -> Vec<Cause> {
    let mut findings: Vec<Finding> = findings.into_iter().filter(|f| f.code.severity != Severity::Hint).collect();
    findings
        .sort_by(|a, b| (a.code.severity, a.code.rank(), &a.object).cmp(&(b.code.severity, b.code.rank(), &b.object)));
    let mut by_object: BTreeMap<&ObjectRef, Vec<usize>> = BTreeMap::new();
    for (index, finding) in findings.iter().enumerate() {
        by_object.entry(&finding.object).or_default().push(index);
    }
    // For each finding the ones that explain it: those about what its object depends on, and earlier ones about itself.
    let explained: Vec<Vec<usize>> = findings
        .iter()
        .enumerate()
        .map(|(index, finding)| {
            let below = graph.below(finding.because.iter().cloned().chain([finding.object.clone()]));
            let mut all: Vec<usize> = Vec::new();
            for object in &below {
                let own = *object == finding.object;
                let others = by_object.get(object).into_iter().flatten().copied();
                all.extend(others.filter(|other| {
                    let earlier = if own { *other < index } else { *other != index };
                    earlier && findings.get(*other).is_some_and(|cause| may_explain(cause, finding))
                }));
            }
            all
        })
        .collect();
    let (owner, depth) = owners(&explained);
    grouped(findings, &owner, &depth)
}

/// For each finding the cause that it belongs to, which is its own for causes, and how far it is from that.
fn owners(explained: &[Vec<usize>]) -> (Vec<usize>, Vec<usize>) {
    let mut places: Vec<Option<(usize, usize)>> =
        explained.iter().enumerate().map(|(index, by)| by.is_empty().then_some((0, index))).collect();
    // Each round places at least one.
    for _ in 0..explained.len() {
        let mut changed = false;
        for (index, by) in explained.iter().enumerate() {
            if places.get(index).is_some_and(Option::is_some) {
                continue;
            }
            let nearest = by.iter().filter_map(|other| places.get(*other).copied().flatten()).min();
            if let (Some((depth, owner)), Some(place)) = (nearest, places.get_mut(index)) {
                *place = Some((depth.saturating_add(1), owner));
                changed = true;
            }
        }
        if changed {
            continue;
        }
        // What explains itself in a circle is a cause by itself: the first of the circle.
        match places.iter().position(Option::is_none) {
            Some(index) => {
                if let Some(place) = places.get_mut(index) {
                    *place = Some((0, index));
                }
            }
            None => break,
        }
    }
    let placed = places.into_iter().enumerate().map(|(index, place)| place.unwrap_or((0, index)));
    let (depth, owner): (Vec<usize>, Vec<usize>) = placed.unzip();
    (owner, depth)
}

fn grouped(findings: Vec<Finding>, owner: &[usize], depth: &[usize]) -> Vec<Cause> {
    let mut roots: BTreeMap<usize, Cause> = BTreeMap::new();
    let mut rest: Vec<(usize, usize, usize, Finding)> = Vec::new();
    for (index, finding) in findings.into_iter().enumerate() {
        match owner.get(index).copied() {
            Some(root) if root != index => rest.push((root, depth.get(index).copied().unwrap_or(0), index, finding)),
            _ => {
                roots.insert(index, Cause { finding, consequences: Vec::new() });
            }
        }
    }
    rest.sort_by_key(|(root, depth, index, _)| (*root, *depth, *index));
    for (root, _, _, finding) in rest {
        if let Some(cause) = roots.get_mut(&root) {
            cause.consequences.push(finding);
        }
    }
    roots.into_values().collect()
}

/// The objects that a question is about: all that the asked one has to do with, and what it holds.
pub fn scope(s: &Snapshot, graph: &Graph, target: &ObjectRef) -> BTreeSet<ObjectRef> {
    let mut all = graph.around(target);
    match target.kind {
        Kind::Namespace => {
            for resource in crate::kinds::RESOURCES.iter().filter(|r| r.namespaced) {
                for object in s.within(resource.kind, &target.name) {
                    all.extend(graph.below([ObjectRef::of(resource.kind, object)]));
                }
            }
        }
        Kind::Gateway => {
            // Its routes depend on it; what they lead to belongs to the question.
            let routes: Vec<ObjectRef> = all.iter().filter(|o| o.kind == Kind::HttpRoute).cloned().collect();
            for route in routes {
                all.extend(graph.below([route]));
            }
        }
        Kind::Pod => {
            // Policies about it, and what makes it.
            if let Some(pod) = s.find(target) {
                all.insert(rules::owner(s, pod));
                let policies = s.within(Kind::NetworkPolicy, namespace(pod));
                let own = policies.filter(|p| {
                    object::selector(p, "/spec/podSelector").is_some_and(|selector| selects(&selector, pod))
                });
                all.extend(own.map(|policy| ObjectRef::new(Kind::NetworkPolicy, namespace(pod), name(policy))));
            }
        }
        _ => {}
    }
    // What nobody depends on by an edge, and is explained by an object of the question, comes in by its finding.
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_belongs_to_the_nearest_cause_and_circles_have_one() {
        // 0 explains 1, that explains 2; 3 and 4 explain each other; 5 stands alone.
        let explained = [vec![], vec![0], vec![1], vec![4], vec![3], vec![]];
        let (owner, depth) = owners(&explained);
        assert_eq!(owner, [0, 0, 0, 3, 3, 5]);
        assert_eq!(depth, [0, 1, 2, 0, 1, 0]);
    }
}
