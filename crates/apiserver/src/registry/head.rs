//! The head of an object: labels and selectable fields, read from its bytes without building the rest.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use api::Kind;
use api::kinds::Absent;

/// Labels, and the values of selectable fields.
pub(super) type Head = (Box<[(Box<str>, Box<str>)]>, Box<[Box<str>]>);

/// Reads labels and selectable fields, skipping all else without building it.
pub(super) fn read_head(kind: &Kind, bytes: &[u8]) -> Head {
    let selected: Vec<(&str, Absent)> = kind.selectable.iter().map(|name| kind.strategy.selected(name)).collect();
    let mut paths: Vec<Vec<&str>> = selected.iter().map(|(path, _)| path.split('.').collect()).collect();
    paths.push(vec!["metadata", "labels", "*"]);
    let absent = |(_, absent): &(&str, Absent)| match *absent {
        Absent::Is(value) => value.into(),
        Absent::As(_) => "".into(),
    };
    let mut found = Found { fields: selected.iter().map(absent).collect(), labels: Vec::new() };
    let walk = Walk { paths: &paths, indices: (0..paths.len()).collect(), depth: 0, label: None, found: &mut found };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let _ = walk.deserialize(&mut deserializer);
    for (i, (_, absent)) in selected.iter().enumerate() {
        if let Absent::As(other) = absent
            && found.fields[i].is_empty()
            && let Some(other) = kind.selectable.iter().position(|name| name == other)
        {
            found.fields[i] = found.fields[other].clone();
        }
    }
    (found.labels.into(), found.fields.into())
}

struct Found {
    fields: Vec<Box<str>>,
    labels: Vec<(Box<str>, Box<str>)>,
}

/// Visits the members that lie on one of the paths.
struct Walk<'a> {
    paths: &'a [Vec<&'a str>],
    /// The paths that lead here.
    indices: Vec<usize>,
    depth: usize,
    label: Option<Box<str>>,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn leaf(self, text: &str) {
        if let Some(label) = self.label {
            self.found.labels.push((label, text.into()));
            return;
        }
        for i in self.indices {
            if self.paths[i].len() == self.depth && i < self.found.fields.len() {
                self.found.fields[i] = text.into();
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.leaf(text);
        Ok(())
    }
    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        self.leaf(if v { "true" } else { "false" });
        Ok(())
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.leaf(&v.to_string());
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.leaf(&v.to_string());
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Walk { paths, indices, depth, found, .. } = self;
        while let Some(key) = map.next_key_seed(Key)? {
            let next: Vec<usize> = indices
                .iter()
                .copied()
                .filter(|i| paths[*i].get(depth).is_some_and(|p| *p == key.as_ref() || *p == "*"))
                .collect();
            if next.is_empty() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let label = next.iter().any(|i| paths[*i].get(depth) == Some(&"*")).then(|| key.into());
            map.next_value_seed(Walk { paths, indices: next, depth: depth + 1, label, found: &mut *found })?;
        }
        Ok(())
    }
}

struct Key;
impl<'de> DeserializeSeed<'de> for Key {
    type Value = std::borrow::Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        std::borrow::Cow::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::pod;
    use super::super::{Entry, encode};

    #[test]
    fn head_holds_labels_and_selectable_fields() {
        let kind = api::kinds::PODS;
        let entry = Entry::new(kind, "n/a".into(), &encode(&pod()), 3);
        assert_eq!(entry.label("tier"), Some("y"));
        assert_eq!(entry.field(kind, "spec.nodeName"), "node-1");
        assert_eq!(entry.field(kind, "status.phase"), "Running");
        assert_eq!(entry.field(kind, "spec.hostNetwork"), "true");
        assert_eq!(entry.field(kind, "status.podIP"), "");
        assert_eq!((entry.namespace(), entry.name()), ("n", "a"));
    }

    #[test]
    fn events_are_chosen_by_their_source_or_by_who_reports_them() {
        let kind = api::kinds::EVENTS;
        let source = |event: Value| {
            let mut event = event;
            event["metadata"] = json!({"name": "e", "namespace": "n"});
            Entry::new(kind, "n/e".into(), &encode(&event), 3).field(kind, "source").to_string()
        };
        assert_eq!(source(json!({"source": {"component": "kubelet"}, "reportingComponent": "other"})), "kubelet");
        assert_eq!(
            source(json!({"source": {}, "reportingComponent": "example.com/controller"})),
            "example.com/controller"
        );
        assert_eq!(source(json!({"reason": "Started"})), "");
    }

    #[test]
    fn selectable_fields_that_an_object_lacks_have_the_value_that_go_has() {
        for (kind, field, want) in [
            (api::kinds::PODS, "spec.hostNetwork", "false"),
            (api::kinds::NODES, "spec.unschedulable", "false"),
            (api::kinds::REPLICA_SETS, "status.replicas", "0"),
            (api::kinds::REPLICATION_CONTROLLERS, "status.replicas", "0"),
            (api::kinds::JOBS, "status.successful", "0"),
            (api::kinds::PODS, "spec.nodeName", ""),
        ] {
            let entry = Entry::new(kind, "n/a".into(), &encode(&json!({"metadata": {"name": "a"}})), 3);
            assert_eq!(entry.field(kind, field), want, "{kind:?} {field}");
        }
        let job = json!({"metadata": {"name": "a"}, "status": {"succeeded": 2}});
        let entry = Entry::new(api::kinds::JOBS, "n/a".into(), &encode(&job), 3);
        assert_eq!(entry.field(api::kinds::JOBS, "status.successful"), "2");
    }
}
