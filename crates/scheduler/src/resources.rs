//! Amounts of resources: requests of pods, and allocatable of nodes.

use std::collections::BTreeMap;

use apimachinery::Quantity as Number;
use informer::Pod;
use informer::pod::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts as in the API (`ResourceList`).
pub type ResourceList = BTreeMap<String, Quantity>;

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub cpu_milli: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Number of pods.
    pub pods: i64,
    /// CPU as scores count it: a container that asks for none has defaults, as it uses some (upstream's `NonZeroRequested`).
    pub scored_cpu_milli: i64,
    /// Memory in bytes, in the same way.
    pub scored_memory: i64,
    /// Ephemeral storage, huge pages and extended resources, by name, in whole units.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// Parses amounts.
    pub fn read(listed: Option<&ResourceList>) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in listed.into_iter().flatten() {
            let number: Number = quantity.0.parse().unwrap_or_default();
            match name.as_str() {
                "cpu" => resources.cpu_milli = number.milli(),
                "memory" => resources.memory = number.value(),
                "pods" => resources.pods = number.value(),
                _ => {
                    resources.others.insert(name.clone(), number.value());
                }
            }
        }
        resources
    }

    /// Adds amounts.
    pub fn add(&mut self, other: &Resources) {
        self.cpu_milli += other.cpu_milli;
        self.memory += other.memory;
        self.scored_cpu_milli += other.scored_cpu_milli;
        self.scored_memory += other.scored_memory;
        self.pods += other.pods;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += amount;
        }
    }

    /// Subtracts amounts.
    pub fn subtract(&mut self, other: &Resources) {
        self.cpu_milli -= other.cpu_milli;
        self.memory -= other.memory;
        self.scored_cpu_milli -= other.scored_cpu_milli;
        self.scored_memory -= other.scored_memory;
        self.pods -= other.pods;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() -= amount;
        }
    }

    /// Raises each resource to the larger of both amounts.
    fn raise_to(&mut self, other: &Resources) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        self.scored_cpu_milli = self.scored_cpu_milli.max(other.scored_cpu_milli);
        self.scored_memory = self.scored_memory.max(other.scored_memory);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// What a container counts for in scores that doesn't ask for CPU, or for memory.
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// The requests of a pod: the sum of its containers and sidecars, or its largest init container if that is more (KEP-753); pod-level
/// requests replace them (KEP-2837); plus the overhead (KEP-688).
pub fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let of = |c: &Container| {
        let asked = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let asks_for = |name: &str| asked.is_some_and(|list| list.contains_key(name));
        let mut amounts = Resources::read(asked);
        amounts.scored_cpu_milli = if asks_for("cpu") { amounts.cpu_milli } else { DEFAULT_CPU_MILLI };
        amounts.scored_memory = if asks_for("memory") { amounts.memory } else { DEFAULT_MEMORY };
        amounts
    };
    let mut total = Resources::default();
    spec.containers.iter().for_each(|c| total.add(&of(c)));
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&of(container));
            peak.raise_to(&sidecars);
        } else {
            let mut now = sidecars.clone();
            now.add(&of(container));
            peak.raise_to(&now);
        }
    }
    total.add(&sidecars);
    total.raise_to(&peak);
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole_amounts = Resources::read(Some(whole));
        if whole.contains_key("cpu") {
            total.cpu_milli = whole_amounts.cpu_milli;
            total.scored_cpu_milli = whole_amounts.cpu_milli;
        }
        if whole.contains_key("memory") {
            total.memory = whole_amounts.memory;
            total.scored_memory = whole_amounts.memory;
        }
    }
    let mut overhead = Resources::read(spec.overhead.as_ref());
    (overhead.scored_cpu_milli, overhead.scored_memory) = (overhead.cpu_milli, overhead.memory);
    total.add(&overhead);
    total.pods = 1;
    total
}
