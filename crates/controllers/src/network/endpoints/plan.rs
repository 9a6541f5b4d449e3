//! Which endpoints stand in which slice. An endpoint stays where it is, so that a change of one pod changes one slice,
//! whatever the service's size.

use std::collections::BTreeMap;

use apimachinery::ObjectExt as _;
use serde_json::{Value, json};

/// Endpoints that have the same ports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    pub ports: Vec<Value>,
    pub endpoints: Vec<Value>,
}

/// A slice as it is, or as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    pub name: String,
    pub family: String,
    pub ports: Vec<Value>,
    pub endpoints: Vec<Value>,
}

impl Slice {
    pub fn read(object: &Value) -> Self {
        Slice {
            name: object.name().into(),
            family: object.str_at(&["addressType"]).into(),
            ports: object.array_at(&["ports"]).to_vec(),
            endpoints: object.array_at(&["endpoints"]).to_vec(),
        }
    }
}

#[derive(Debug, PartialEq)]
pub enum Action {
    Create(Slice),
    Update(Slice),
    Delete(String),
}

impl Action {
    /// Which slice it is about.
    pub fn name(&self) -> &str {
        match self {
            Action::Create(slice) | Action::Update(slice) => &slice.name,
            Action::Delete(name) => name,
        }
    }
}

/// What identifies an endpoint: its pod, or its address.
fn identity(endpoint: &Value) -> String {
    match endpoint.str_at(&["targetRef", "uid"]) {
        "" => endpoint["addresses"][0].as_str().unwrap_or("").to_string(),
        uid => uid.to_string(),
    }
}

/// Puts endpoints into slices of their group, each where it is already. Returns the slices, each with whether it changes, and the endpoints
/// for which there is no room.
fn fill(own: Vec<Slice>, endpoints: Vec<Value>, max: usize) -> (Vec<(Slice, bool)>, Vec<Value>) {
    let mut wanted: BTreeMap<String, Value> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut slices: Vec<(Slice, bool)> = Vec::new();
    for mut slice in own {
        let before = slice.endpoints.clone();
        slice.endpoints = before.iter().filter_map(|e| wanted.remove(&identity(e))).collect();
        let changed = slice.endpoints != before;
        slices.push((slice, changed));
    }
    // Room in slices that change anyway is filled before others are touched.
    slices.sort_by_key(|(_, changed)| !changed);
    let mut waiting = wanted.into_values();
    for (slice, changed) in &mut slices {
        let room = max.saturating_sub(slice.endpoints.len());
        let more: Vec<Value> = waiting.by_ref().take(room).collect();
        *changed |= !more.is_empty();
        slice.endpoints.extend(more);
    }
    (slices, waiting.collect())
}

/// What makes slices named `{base}`, `{base}-1`, … of at most `max` endpoints hold the groups. Each of `families` has a
/// slice, be it an empty one.
pub fn plan(base: &str, families: &[&'static str], groups: Vec<Group>, present: Vec<Slice>, max: usize) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut taken: Vec<String> = present.iter().map(|slice| slice.name.clone()).collect();
    let mut left = present;
    let mut homeless = Vec::new();
    let mut empty = families.to_vec();
    for group in groups {
        let (own, others): (Vec<Slice>, Vec<Slice>) =
            left.into_iter().partition(|s| s.family == group.family && s.ports == group.ports);
        left = others;
        let (slices, rest) = fill(own, group.endpoints, max);
        for (slice, changed) in slices {
            if slice.endpoints.is_empty() {
                left.push(slice);
            } else {
                empty.retain(|family| slice.family != *family);
                actions.extend(changed.then_some(Action::Update(slice)));
            }
        }
        for endpoints in rest.chunks(max) {
            homeless.push(Group { family: group.family, ports: group.ports.clone(), endpoints: endpoints.to_vec() });
        }
    }
    // Slices that aren't needed as they are take in endpoints that need one.
    for group in homeless {
        empty.retain(|family| group.family != *family);
        if let Some(at) = left.iter().position(|slice| slice.family == group.family) {
            let slice = left.swap_remove(at);
            actions.push(Action::Update(Slice { ports: group.ports, endpoints: group.endpoints, ..slice }));
            continue;
        }
        let name = free_name(base, &taken);
        taken.push(name.clone());
        let Group { family, ports, endpoints } = group;
        actions.push(Action::Create(Slice { name, family: family.into(), ports, endpoints }));
    }
    // A service without endpoints of a family has an empty slice, which says so.
    for family in empty {
        let nothing = |name: String| Slice { name, family: family.into(), ports: Vec::new(), endpoints: Vec::new() };
        let Some(at) = left.iter().position(|slice| slice.family == family) else {
            let name = free_name(base, &taken);
            taken.push(name.clone());
            actions.push(Action::Create(nothing(name)));
            continue;
        };
        let slice = left.swap_remove(at);
        let is_so = slice.endpoints.is_empty() && slice.ports.is_empty();
        actions.extend((!is_so).then(|| Action::Update(nothing(slice.name))));
    }
    actions.extend(left.into_iter().map(|slice| Action::Delete(slice.name)));
    actions
}

fn free_name(base: &str, taken: &[String]) -> String {
    let names = std::iter::once(base.to_string()).chain((1..).map(|n| format!("{base}-{n}")));
    names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default()
}

/// Groups of a list of endpoints with the ports of each.
pub fn group(endpoints: Vec<(Vec<Value>, Value)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (ports, endpoint) in endpoints {
        let family = if endpoint["addresses"][0].as_str().is_some_and(|a| a.contains(':')) { "IPv6" } else { "IPv4" };
        match groups.iter_mut().find(|g| g.family == family && g.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group { family, ports, endpoints: vec![endpoint] }),
        }
    }
    groups
}

/// The `subsets` of the Endpoints object that says the same of one family in the old form, and whether some were left out: it has
/// room for a thousand addresses. Pods that serve none of a service's ports are left out, if it has any.
pub fn subsets(family: &str, groups: &[Group], has_ports: bool) -> (Value, bool) {
    const MAX_ENDPOINTS: usize = 1000;
    let address = |e: &Value| {
        let mut address = json!({"ip": e["addresses"][0], "nodeName": e["nodeName"], "targetRef": e["targetRef"]});
        if !e["hostname"].is_null() {
            address["hostname"] = e["hostname"].clone();
        }
        address
    };
    let mut room = MAX_ENDPOINTS;
    let mut cut = false;
    let mut subsets = Vec::new();
    for group in groups.iter().filter(|g| g.family == family && !(has_ports && g.ports.is_empty())) {
        let mut subset = json!({ "ports": group.ports });
        for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            let of = |e: &&Value| {
                let conditions = &e["conditions"];
                (conditions["ready"] == true) == ready && (ready || conditions["terminating"] != true)
            };
            let all: Vec<Value> = group.endpoints.iter().filter(of).map(address).collect();
            let shown: Vec<Value> = all.iter().take(room).cloned().collect();
            cut |= shown.len() < all.len();
            room -= shown.len();
            if !shown.is_empty() {
                subset[field] = shown.into();
            }
        }
        if subset.as_object().is_some_and(|s| s.len() > 1) {
            subsets.push(subset);
        }
    }
    (subsets.into(), cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(n: usize) -> Value {
        json!({"addresses": [format!("10.0.{}.{}", n / 250, n % 250)], "targetRef": {"uid": format!("u{n}")}})
    }

    fn ports(n: u16) -> Vec<Value> {
        vec![json!({"port": n})]
    }

    /// The slices after the actions.
    fn carry_out(mut slices: Vec<Slice>, actions: Vec<Action>) -> Vec<Slice> {
        for action in actions {
            match action {
                Action::Create(slice) => {
                    assert!(slices.iter().all(|s| s.name != slice.name), "{} is taken", slice.name);
                    slices.push(slice);
                }
                Action::Update(slice) => {
                    let at = slices.iter().position(|s| s.name == slice.name).unwrap();
                    slices[at] = slice;
                }
                Action::Delete(name) => slices.retain(|s| s.name != name),
            }
        }
        slices
    }

    fn of(port: u16, members: impl Iterator<Item = usize>) -> Group {
        Group { family: "IPv4", ports: ports(port), endpoints: members.map(endpoint).collect() }
    }

    #[test]
    fn one_endpoint_that_comes_or_goes_changes_one_slice() {
        let slices = carry_out(Vec::new(), plan("web", &["IPv4"], vec![of(80, 0..250)], Vec::new(), 100));
        let sizes: Vec<usize> = slices.iter().map(|s| s.endpoints.len()).collect();
        assert_eq!((sizes, slices[2].name.as_str()), (vec![100, 100, 50], "web-2"));
        assert_eq!(plan("web", &["IPv4"], vec![of(80, 0..250)], slices.clone(), 100), []);
        let more = plan("web", &["IPv4"], vec![of(80, 0..251)], slices.clone(), 100);
        assert!(matches!(more.as_slice(), [Action::Update(slice)] if slice.name == "web-2"), "{more:?}");
        let fewer = plan("web", &["IPv4"], vec![of(80, (0..250).filter(|n| *n != 7))], slices.clone(), 100);
        assert_eq!(fewer.len(), 1);
        // One goes and another comes: it takes the place.
        let other = plan("web", &["IPv4"], vec![of(80, (0..251).filter(|n| *n != 7))], slices.clone(), 100);
        assert_eq!(other.len(), 1);
        let none = carry_out(slices.clone(), plan("web", &["IPv4"], Vec::new(), slices, 100));
        assert!(matches!(none.as_slice(), [slice] if slice.endpoints.is_empty() && slice.ports.is_empty()));
    }

    #[test]
    fn other_ports_are_written_into_the_same_slices() {
        let slices = carry_out(Vec::new(), plan("web", &["IPv4"], vec![of(80, 0..3)], Vec::new(), 100));
        let actions = plan("web", &["IPv4"], vec![of(8080, 0..3)], slices, 100);
        assert!(matches!(actions.as_slice(), [Action::Update(slice)] if slice.ports == ports(8080)), "{actions:?}");
    }

    #[test]
    fn each_family_has_a_slice() {
        let both = ["IPv4", "IPv6"];
        let six = |n: usize| json!({"addresses": [format!("fd42::{n:x}")], "targetRef": {"uid": format!("u{n}")}});
        let groups =
            || vec![of(80, 0..2), Group { family: "IPv6", ports: ports(80), endpoints: (0..2).map(six).collect() }];
        let slices = carry_out(Vec::new(), plan("web", &both, groups(), Vec::new(), 100));
        let told = |slices: &[Slice]| -> Vec<(String, usize)> {
            slices.iter().map(|s| (s.family.clone(), s.endpoints.len())).collect()
        };
        assert_eq!(told(&slices), [("IPv4".to_string(), 2), ("IPv6".to_string(), 2)]);
        assert_eq!(plan("web", &both, groups(), slices.clone(), 100), []);
        // Without pods both stay, empty; with one family only one does.
        let none = carry_out(slices.clone(), plan("web", &both, Vec::new(), slices.clone(), 100));
        assert_eq!(told(&none), [("IPv4".to_string(), 0), ("IPv6".to_string(), 0)]);
        let one = carry_out(slices.clone(), plan("web", &["IPv4"], vec![of(80, 0..2)], slices, 100));
        assert_eq!(told(&one), [("IPv4".to_string(), 2)]);
    }

    #[test]
    fn the_old_form_holds_a_thousand() {
        let ready = |n: usize| {
            let mut e = endpoint(n);
            e["conditions"] = json!({"ready": n.is_multiple_of(2), "terminating": false});
            e
        };
        let group = Group { family: "IPv4", ports: ports(80), endpoints: (0..1500).map(ready).collect() };
        let (subsets, cut) = subsets("IPv4", &[group], true);
        let count = |field: &str| subsets[0][field].as_array().unwrap().len();
        assert!(cut && count("addresses") == 750 && count("notReadyAddresses") == 250);
    }

    proptest! {
        /// Whatever was there: afterwards each endpoint stands in one slice with its ports, and no slice is too large.
        #[test]
        fn slices_come_to_hold_what_they_should(
            first in prop::collection::vec((0usize..60, 0u16..3), 0..60),
            second in prop::collection::vec((0usize..60, 0u16..3), 0..60),
            most in 1usize..8,
        ) {
            let groups = |members: &[(usize, u16)]| {
                let mut by_pod: BTreeMap<usize, u16> = BTreeMap::new();
                by_pod.extend(members.iter().copied());
                group(by_pod.into_iter().map(|(n, port)| (ports(port), endpoint(n))).collect())
            };
            let mut slices = Vec::new();
            for wanted in [groups(&first), groups(&second)] {
                slices = carry_out(slices.clone(), plan("s", &["IPv4"], wanted.clone(), slices, most));
                let mut held: Vec<(String, String)> = Vec::new();
                for slice in &slices {
                    prop_assert!(slice.endpoints.len() <= most);
                    held.extend(slice.endpoints.iter().map(|e| (identity(e), json!(slice.ports).to_string())));
                }
                held.sort();
                let mut expected: Vec<(String, String)> = wanted.iter()
                    .flat_map(|g| g.endpoints.iter().map(|e| (identity(e), json!(g.ports).to_string()))).collect();
                expected.sort();
                prop_assert_eq!(held, expected);
                prop_assert_eq!(plan("s", &["IPv4"], wanted, slices.clone(), most), []);
                prop_assert!(!slices.is_empty());
            }
        }
    }
}
