//! Sets of fields, as `metadata.managedFields` keeps them (`FieldsV1`, KEP-555).
//!
//! A set is a tree. Its steps are written as upstream writes them: `f:NAME` a field, `k:{…}` a list item by its keys,
//! `v:…` an item of a set by its value. That writing is the key here, so sets compare and merge without parsing it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields below one place in an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeMap<String, Entry>);

/// One step: whether the place itself is in the set, and what is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Whether the place itself is in the set.
    pub owned: bool,
    /// The steps below it that are in the set.
    pub below: FieldSet,
}

impl Entry {
    /// A place that is in the set, with nothing below it.
    pub fn leaf() -> Self {
        Entry { owned: true, below: FieldSet::default() }
    }
    /// Whether neither the place nor anything below it is in the set.
    pub fn is_empty(&self) -> bool {
        !self.owned && self.below.is_empty()
    }
}

/// The step to a field.
pub fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The step to an item of a set.
pub fn value(item: &Value) -> String {
    format!("v:{item}")
}

/// The step to the item of a list that has these keys; JSON objects are written in the order of their keys.
pub fn key(keys: &Map<String, Value>) -> String {
    let sorted: BTreeMap<&String, &Value> = keys.iter().collect();
    format!("k:{}", serde_json::to_string(&sorted).unwrap_or_default())
}

impl FieldSet {
    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entry of a step.
    pub fn get(&self, step: &str) -> Option<&Entry> {
        self.0.get(step)
    }

    /// The steps with their entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.0.iter()
    }

    /// Adds a step, unless there is nothing at and below it.
    pub fn insert(&mut self, step: String, entry: Entry) {
        if !entry.is_empty() {
            self.0.insert(step, entry);
        }
    }

    /// Removes a step with all below it.
    pub fn remove(&mut self, step: &str) {
        self.0.remove(step);
    }

    /// Removes a place, and the steps to it that lead nowhere else.
    pub fn remove_path(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => self.remove(last),
            [first, rest @ ..] => {
                if let Some(entry) = self.0.get_mut(*first) {
                    entry.below.remove_path(rest);
                    if entry.is_empty() {
                        self.0.remove(*first);
                    }
                }
            }
        }
    }

    /// Adds all places of another set.
    pub fn union(&mut self, other: &FieldSet) {
        for (step, theirs) in &other.0 {
            let ours = self.0.entry(step.clone()).or_default();
            ours.owned |= theirs.owned;
            ours.below.union(&theirs.below);
        }
    }

    /// Takes away every place that is in `other`; what is only below such a place stays.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.0.retain(|step, ours| {
            if let Some(theirs) = other.0.get(step) {
                ours.owned &= !theirs.owned;
                ours.below.subtract(&theirs.below);
            }
            !ours.is_empty()
        });
    }

    /// The places that are in both sets.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet::default();
        for (step, ours) in &self.0 {
            if let Some(theirs) = other.0.get(step) {
                let owned = ours.owned && theirs.owned;
                both.insert(step.clone(), Entry { owned, below: ours.below.intersection(&theirs.below) });
            }
        }
        both
    }

    /// The places themselves, in upstream's writing: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.write_paths("", &mut out);
        out
    }

    fn write_paths(&self, prefix: &str, out: &mut Vec<String>) {
        for (step, entry) in &self.0 {
            let path = format!("{prefix}{}", readable(step));
            if entry.owned {
                out.push(path.clone());
            }
            entry.below.write_paths(&path, out);
        }
    }

    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// When a step is none of the known kinds, or nested deeper than any object is.
    pub fn from_v1(json: &Value) -> Result<Self, String> {
        Self::read(json, 0)
    }

    fn read(json: &Value, depth: usize) -> Result<Self, String> {
        if depth > crate::bounded::MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        let Value::Object(map) = json else { return Err("it must be an object".into()) };
        let mut set = FieldSet::default();
        for (step, below) in map.iter().filter(|(step, _)| *step != ".") {
            if !matches!(step.split_once(':'), Some(("f" | "k" | "v" | "i", _))) {
                return Err(format!("{step:?} is no field, key, value or index"));
            }
            let below_set = Self::read(below, depth.saturating_add(1))?;
            let owned = below.get(".").is_some() || below_set.is_empty();
            set.0.insert(step.clone(), Entry { owned, below: below_set });
        }
        Ok(set)
    }

    /// The set in the form of `fieldsV1`.
    pub fn to_v1(&self) -> Value {
        let mut map = Map::new();
        for (step, entry) in &self.0 {
            let mut below = entry.below.to_v1();
            if let (true, false, Value::Object(inner)) = (entry.owned, entry.below.is_empty(), &mut below) {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(step.clone(), below);
        }
        Value::Object(map)
    }
}

/// A step as messages write it.
pub fn readable(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("i", index)) => format!("[{index}]"),
        Some(("k", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", pairs.join(","))
        }
        _ => step.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(json: Value) -> FieldSet {
        FieldSet::from_v1(&json).unwrap()
    }

    #[test]
    fn written_form_survives_a_round() {
        let json = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:replicas": {}}});
        let set = set(json.clone());
        assert_eq!(set.to_v1(), json);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".spec.replicas"
            ]
        );
    }

    #[test]
    fn garbage_is_refused() {
        for bad in [json!(1), json!({"x": {}}), json!({"f:a": 1}), json!({"f:a": {"b": {}}})] {
            assert!(FieldSet::from_v1(&bad).is_err(), "{bad}");
        }
    }

    fn sets() -> impl Strategy<Value = FieldSet> {
        let entry = (any::<bool>(), Just(())).prop_map(|(owned, ())| Entry { owned, below: FieldSet::default() });
        let tree = entry.prop_recursive(3, 24, 4, |inner| {
            (any::<bool>(), prop::collection::btree_map("f:[a-d]", inner, 0..4)).prop_map(|(owned, map)| {
                let mut below = FieldSet::default();
                map.into_iter().for_each(|(k, v)| below.insert(k, v));
                Entry { owned, below }
            })
        });
        tree.prop_map(|e| e.below)
    }

    proptest! {
        #[test]
        fn set_algebra_holds(a in sets(), b in sets()) {
            let mut union = a.clone();
            union.union(&b);
            let mut without = union.clone();
            without.subtract(&b);
            let paths = |s: &FieldSet| s.paths().into_iter().collect::<std::collections::BTreeSet<_>>();
            prop_assert_eq!(paths(&union), &paths(&a) | &paths(&b));
            prop_assert_eq!(paths(&without), &paths(&a) - &paths(&b));
            prop_assert_eq!(paths(&a.intersection(&b)), &paths(&a) & &paths(&b));
            prop_assert_eq!(FieldSet::from_v1(&a.to_v1()).unwrap(), a);
        }
    }
}
