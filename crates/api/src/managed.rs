//! What server-side apply needs to know of types (KEP-555): which fields an object has, which ones a change changed,
//! how an applied configuration is merged, and what is removed when it isn't applied any more.

mod faults;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use apimachinery::fields::{self, Entry, FieldSet};
use serde_json::{Map, Value};

use crate::schema::{self, ListKind, Type};

/// A value as server-side apply sees it.
enum Shape<'a> {
    /// Owned as a whole.
    Leaf,
    /// Fields of an object, or keys of a map (which is a field by itself, too).
    Fields(Vec<(String, &'a Type, &'a Value)>, IsMap),
    /// Items with steps of their own.
    Items(Vec<(String, &'a Type, &'a Value)>),
}

type IsMap = bool;

const ANY: &Type = &Type::Any;

fn shape<'a>(of: &'a Type, value: &'a Value) -> Shape<'a> {
    let of = schema::types().resolve(of);
    match (of, value) {
        (Type::Object { fields, atomic: false }, Value::Object(map)) if !map.is_empty() => {
            let typed = |key: &String| fields.iter().find(|(f, _)| f == key).map_or(ANY, |(_, of)| of);
            Shape::Fields(map.iter().map(|(k, v)| (fields::field(k), typed(k), v)).collect(), false)
        }
        (Type::Map { values, atomic: false }, Value::Object(map)) if !map.is_empty() => {
            Shape::Fields(map.iter().map(|(k, v)| (fields::field(k), &**values, v)).collect(), true)
        }
        // Of what has no schema, objects are taken apart and lists are not.
        (Type::Any, Value::Object(map)) if !map.is_empty() => {
            Shape::Fields(map.iter().map(|(k, v)| (fields::field(k), ANY, v)).collect(), true)
        }
        (Type::List { items, kind, .. }, Value::Array(list)) if !list.is_empty() => {
            let steps: Option<Vec<String>> = list.iter().map(|item| step(kind, item)).collect();
            match steps {
                Some(steps) if is_unique(&steps) => {
                    Shape::Items(steps.into_iter().zip(list).map(|(s, v)| (s, &**items, v)).collect())
                }
                _ => Shape::Leaf,
            }
        }
        _ => Shape::Leaf,
    }
}

fn is_unique(steps: &[String]) -> bool {
    let mut seen = HashSet::new();
    steps.iter().all(|s| seen.insert(s))
}

/// The step to an item of a list; none for lists that are owned as a whole, and for items without their keys.
fn step(kind: &ListKind, item: &Value) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(fields::value(item)),
        ListKind::Map(keys) => {
            let mut found = Map::new();
            for key in keys {
                if let Some(value) = item.get(&key.name).or(key.default.as_ref()) {
                    found.insert(key.name.clone(), value.clone());
                }
            }
            (!found.is_empty()).then(|| fields::key(&found))
        }
    }
}

/// The type of a kind.
pub struct Typed(Source);

enum Source {
    Builtin(&'static Type),
    Custom(Arc<dyn TypeSource>, String),
}

/// What knows the types of a custom kind's versions: its definition.
pub(crate) trait TypeSource: Send + Sync {
    /// The type of a version, if there is that version.
    fn type_of(&self, version: &str) -> Option<&Type>;
}

/// The type of built-in kinds by the name of their schema.
pub fn typed(schema_name: &str) -> Typed {
    Typed(Source::Builtin(schema::types().get(schema_name).unwrap_or(ANY)))
}

/// What one version of an object has that another hasn't.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Fields that were added or have another value.
    pub changed: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
}

impl Typed {
    /// The type of a version of a custom kind.
    pub(crate) fn custom(definition: Arc<dyn TypeSource>, version: &str) -> Self {
        Typed(Source::Custom(definition, version.into()))
    }

    fn of(&self) -> &Type {
        match &self.0 {
            Source::Builtin(of) => of,
            Source::Custom(definition, version) => definition.type_of(version).unwrap_or(ANY),
        }
    }

    /// What keeps a configuration from being applied, each with the path at which it is: items of a list that can't be told
    /// apart.
    pub fn faults(&self, applied: &Value) -> Vec<String> {
        let mut found = Vec::new();
        faults::faults(self.of(), applied, "", &mut found);
        found
    }

    /// All fields of an applied configuration.
    pub fn fields(&self, object: &Value) -> FieldSet {
        all(self.of(), object, false).below
    }

    /// Which fields differ between two states of an object.
    pub fn compare(&self, old: &Value, new: &Value) -> Difference {
        let (changed, removed) = compare(self.of(), Some(old), Some(new));
        Difference { changed: changed.below, removed: removed.below }
    }

    /// `live` with everything that `applied` says.
    pub fn merge(&self, live: &Value, applied: &Value) -> Value {
        merge(self.of(), live, applied)
    }

    /// Removes from `object` what is in `before`, not in `now`, and in none of `others`.
    pub fn prune(&self, object: &mut Value, before: &FieldSet, now: &FieldSet, others: &FieldSet) {
        prune(self.of(), object, before, Some(now), Some(others));
    }
}

fn all(of: &Type, value: &Value, with_maps: bool) -> Entry {
    let (parts, is_map, items) = match shape(of, value) {
        Shape::Leaf => return Entry::leaf(),
        Shape::Fields(parts, is_map) => (parts, is_map, false),
        Shape::Items(parts) => (parts, false, true),
    };
    let mut entry = Entry { owned: is_map && with_maps, below: FieldSet::default() };
    for (step, of, value) in parts {
        let mut below = all(of, value, with_maps);
        below.owned |= items;
        entry.below.insert(step, below);
    }
    entry
}

/// The type of an object's member.
fn member<'a>(resolved: &'a Type, key: &str) -> &'a Type {
    match resolved {
        Type::Object { fields, .. } => fields.iter().find(|(f, _)| f == key).map_or(ANY, |(_, of)| of),
        Type::Map { values, .. } => values,
        _ => ANY,
    }
}

/// Whether the members of an object have owners of their own.
fn is_apart(resolved: &Type) -> bool {
    matches!(resolved, Type::Object { atomic: false, .. } | Type::Map { atomic: false, .. } | Type::Any)
}

/// Most members are the same in both; for those nothing is allocated.
fn compare_members(resolved: &Type, before: &Map<String, Value>, after: &Map<String, Value>) -> (Entry, Entry) {
    let (mut changed, mut removed) = (Entry::default(), Entry::default());
    for (key, old) in before {
        let new = after.get(key);
        if new == Some(old) {
            continue;
        }
        let (c, r) = compare(member(resolved, key), Some(old), new);
        changed.below.insert(fields::field(key), c);
        removed.below.insert(fields::field(key), r);
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        changed.below.insert(fields::field(key), all(member(resolved, key), new, true));
    }
    (changed, removed)
}

/// The changed and the removed fields, as entries for the place that is looked at.
fn compare(of: &Type, old: Option<&Value>, new: Option<&Value>) -> (Entry, Entry) {
    let (old, new) = match (old, new) {
        (None, None) => return Default::default(),
        (None, Some(new)) => return (all(of, new, true), Entry::default()),
        (Some(old), None) => return (Entry::default(), all(of, old, true)),
        (Some(old), Some(new)) if old == new => return Default::default(),
        (Some(old), Some(new)) => (old, new),
    };
    if let (Value::Object(before), Value::Object(after)) = (old, new)
        && !before.is_empty()
        && !after.is_empty()
        && is_apart(schema::types().resolve(of))
    {
        return compare_members(schema::types().resolve(of), before, after);
    }
    let (before, after) = match (shape(of, old), shape(of, new)) {
        (Shape::Items(a), Shape::Items(b)) => (a, b),
        // An empty object became a full one, or the other way round: no leaf has changed, fields came or went.
        (Shape::Leaf, Shape::Fields(..) | Shape::Items(_)) if is_empty(old) => {
            return (Entry { owned: false, ..all(of, new, true) }, Entry::default());
        }
        (Shape::Fields(..) | Shape::Items(_), Shape::Leaf) if is_empty(new) => {
            return (Entry::default(), Entry { owned: false, ..all(of, old, true) });
        }
        _ => return (Entry::leaf(), Entry::default()),
    };
    let mut pairs: HashMap<&str, (&Type, Option<&Value>, Option<&Value>)> = HashMap::new();
    for (step, of, value) in &before {
        pairs.insert(step, (of, Some(value), None));
    }
    for (step, of, value) in &after {
        pairs.entry(step).or_insert((of, None, None)).2 = Some(value);
    }
    let (mut changed, mut removed) = (Entry::default(), Entry::default());
    for (step, (of, old, new)) in pairs {
        let (mut c, mut r) = compare(of, old, new);
        c.owned |= old.is_none();
        r.owned |= new.is_none();
        changed.below.insert(step.into(), c);
        removed.below.insert(step.into(), r);
    }
    (changed, removed)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

fn merge(of: &Type, live: &Value, applied: &Value) -> Value {
    let resolved = schema::types().resolve(of);
    match (resolved, live, applied) {
        (
            Type::Object { atomic: false, .. } | Type::Map { atomic: false, .. } | Type::Any,
            Value::Object(a),
            Value::Object(b),
        ) => {
            let mut out = a.clone();
            for (key, value) in b {
                let of = member(resolved, key);
                let merged = a.get(key).map_or_else(|| value.clone(), |live| merge(of, live, value));
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Type::List { items, .. }, Value::Array(_), Value::Array(_)) => {
            let (Shape::Items(a), Shape::Items(b)) = (shape(resolved, live), shape(resolved, applied)) else {
                return if is_empty(applied) && matches!(shape(resolved, live), Shape::Items(_)) {
                    live.clone()
                } else {
                    applied.clone()
                };
            };
            Value::Array(merge_items(items, &a, &b))
        }
        _ => applied.clone(),
    }
}

/// The applied items in their order; items that only the live list has stay before the ones that they stood before.
fn merge_items(of: &Type, live: &[(String, &Type, &Value)], applied: &[(String, &Type, &Value)]) -> Vec<Value> {
    let place: HashMap<&str, usize> = live.iter().enumerate().map(|(i, (step, ..))| (step.as_str(), i)).collect();
    let wanted: HashSet<&str> = applied.iter().map(|(step, ..)| step.as_str()).collect();
    let mut out = Vec::new();
    let mut next = 0;
    let mut keep_until = |end: usize, out: &mut Vec<Value>| {
        while next < end {
            let (step, _, value) = &live[next];
            if !wanted.contains(step.as_str()) {
                out.push((*value).clone());
            }
            next += 1;
        }
    };
    for (step, _, value) in applied {
        match place.get(step.as_str()) {
            Some(&at) => {
                keep_until(at, &mut out);
                out.push(merge(of, live[at].2, value));
            }
            None => out.push((*value).clone()),
        }
    }
    keep_until(live.len(), &mut out);
    out
}

fn prune(of: &Type, object: &mut Value, before: &FieldSet, now: Option<&FieldSet>, others: Option<&FieldSet>) {
    let resolved = schema::types().resolve(of);
    let sets = |step: &str| (now.and_then(|n| n.get(step)), others.and_then(|o| o.get(step)));
    match object {
        Value::Object(map) => {
            for (step, entry) in before.iter() {
                let Some(name) = step.strip_prefix("f:") else { continue };
                match sets(step) {
                    (None, None) => drop(map.remove(name)),
                    (still, theirs) => {
                        if let Some(child) = map.get_mut(name) {
                            let of = member(resolved, name);
                            prune(of, child, &entry.below, still.map(|s| &s.below), theirs.map(|t| &t.below));
                        }
                    }
                }
            }
        }
        Value::Array(list) => {
            let Type::List { items, kind, .. } = resolved else { return };
            // Each item's step is made once, as lists may be long.
            let mut seen = HashSet::new();
            list.retain_mut(|item| {
                let Some(step) = step(kind, item) else { return true };
                let Some(entry) = before.get(&step) else { return true };
                // Of items that are the same, the first is meant.
                if !seen.insert(step.clone()) {
                    return true;
                }
                let (still, theirs) = sets(&step);
                if still.is_none() && theirs.is_none() {
                    return false;
                }
                prune(items, item, &entry.below, still.map(|s| &s.below), theirs.map(|t| &t.below));
                true
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
