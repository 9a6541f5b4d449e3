//! Amounts of resources: what pods ask for, and what nodes have.

use std::collections::BTreeMap;

use apimachinery::Quantity as Number;
use informer::Pod;
use informer::pod::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts as the API lists them.
pub type Listed = BTreeMap<String, Quantity>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_milli: i64,
    pub memory: i64,
    pub pods: i64,
    /// Ephemeral storage, huge pages, devices: whole units by name.
    pub others: BTreeMap<String, i64>,
}

impl Amounts {
    pub fn read(listed: Option<&Listed>) -> Self {
        let mut amounts = Amounts::default();
        for (name, quantity) in listed.into_iter().flatten() {
            let number: Number = quantity.0.parse().unwrap_or_default();
            match name.as_str() {
                "cpu" => amounts.cpu_milli = number.milli(),
                "memory" => amounts.memory = number.value(),
                "pods" => amounts.pods = number.value(),
                _ => {
                    amounts.others.insert(name.clone(), number.value());
                }
            }
        }
        amounts
    }

    pub fn add(&mut self, other: &Amounts) {
        self.cpu_milli += other.cpu_milli;
        self.memory += other.memory;
        self.pods += other.pods;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += amount;
        }
    }

    pub fn subtract(&mut self, other: &Amounts) {
        self.cpu_milli -= other.cpu_milli;
        self.memory -= other.memory;
        self.pods -= other.pods;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() -= amount;
        }
    }

    /// The larger of both, resource by resource.
    fn raise_to(&mut self, other: &Amounts) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// What a pod asks for: its containers and sidecars together, or its largest init container if that is more; a request
/// for the whole pod, where there is one, instead; and the overhead of its runtime.
pub fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::default() };
    let of = |c: &Container| Amounts::read(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let mut total = Amounts::default();
    spec.containers.iter().for_each(|c| total.add(&of(c)));
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
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
        let whole_amounts = Amounts::read(Some(whole));
        if whole.contains_key("cpu") {
            total.cpu_milli = whole_amounts.cpu_milli;
        }
        if whole.contains_key("memory") {
            total.memory = whole_amounts.memory;
        }
    }
    total.add(&Amounts::read(spec.overhead.as_ref()));
    total.pods = 1;
    total
}
