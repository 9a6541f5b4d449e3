//! Patches of client-side apply: what was applied last, what is wanted now, and what is there make a patch that changes what is wanted, removes what
//! was wanted and isn't any more, and leaves what others have set.

use apimachinery::patch::{ListMerge, MergeStrategy};
use serde_json::{Map, Value, json};

/// A strategic merge patch, for kinds whose lists have keys.
pub fn strategic(original: &Value, modified: &Value, current: &Value, strategy: &dyn MergeStrategy) -> Value {
    let mut made = Maker { strategy, path: Vec::new() };
    Value::Object(made.object(original, modified, current))
}

/// A merge patch (RFC 7386), for custom resources.
pub fn merge(original: &Value, modified: &Value, current: &Value) -> Value {
    strategic(original, modified, current, &Plain)
}

/// Lists are values.
struct Plain;

impl MergeStrategy for Plain {
    fn list(&self, _path: &[String]) -> ListMerge {
        ListMerge::Replace
    }
}

struct Maker<'a> {
    strategy: &'a dyn MergeStrategy,
    path: Vec<String>,
}

impl Maker<'_> {
    /// Not deeper than what was read.
    fn object(&mut self, original: &Value, modified: &Value, current: &Value) -> Map<String, Value> {
        let mut patch = Map::new();
        for (key, wanted) in modified.as_object().into_iter().flatten() {
            let (was, is) = (&original[key], &current[key]);
            self.path.push(key.clone());
            match (wanted, is) {
                (Value::Object(_), Value::Object(_)) => {
                    let mut inner = self.object(was, wanted, is);
                    if !inner.is_empty() {
                        self.retain(&mut inner, wanted, false);
                        patch.insert(key.clone(), Value::Object(inner));
                    }
                }
                (Value::Array(items), Value::Array(present)) => self.list(&mut patch, key, was, items, present),
                // A null asks for the field to be absent.
                (Value::Null, Value::Null) => {}
                (wanted, is) if wanted != is => {
                    patch.insert(key.clone(), wanted.clone());
                }
                _ => {}
            }
            self.path.pop();
        }
        for key in original.as_object().into_iter().flatten().map(|(k, _)| k) {
            if modified.get(key).is_none() && !current[key].is_null() {
                patch.insert(key.clone(), Value::Null);
            }
        }
        patch
    }

    /// Unions, of which one member excludes the others, say which members stay: upstream's `patchStrategy: retainKeys`.
    fn retain(&self, patch: &mut Map<String, Value>, wanted: &Value, is_item: bool) {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let is_union = match path.as_slice() {
            ["spec", "strategy"] => !is_item,
            [.., "spec", "volumes"] => is_item,
            _ => false,
        };
        if is_union && let Some(map) = wanted.as_object() {
            patch.insert("$retainKeys".into(), map.keys().cloned().collect::<Vec<_>>().into());
        }
    }

    fn list(
        &mut self,
        patch: &mut Map<String, Value>,
        key: &str,
        original: &Value,
        wanted: &[Value],
        present: &[Value],
    ) {
        match self.strategy.list(&self.path) {
            ListMerge::Replace => {
                if wanted != present {
                    patch.insert(key.into(), wanted.into());
                }
            }
            ListMerge::Set => {
                let added: Vec<Value> = wanted.iter().filter(|v| !present.contains(v)).cloned().collect();
                let removed: Vec<Value> = original
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|v| !wanted.contains(v) && present.contains(v))
                    .cloned()
                    .collect();
                if added.is_empty() && removed.is_empty() {
                    return;
                }
                if !removed.is_empty() {
                    patch.insert(format!("$deleteFromPrimitiveList/{key}"), removed.into());
                }
                if !added.is_empty() {
                    patch.insert(key.into(), added.into());
                }
                patch.insert(format!("$setElementOrder/{key}"), wanted.into());
            }
            ListMerge::ByKey(id) => self.by_key(patch, key, &id, original, wanted, present),
        }
    }

    fn by_key(
        &mut self,
        patch: &mut Map<String, Value>,
        key: &str,
        id: &str,
        original: &Value,
        wanted: &[Value],
        present: &[Value],
    ) {
        let mut items = Vec::new();
        let none = Value::Null;
        let find = |among: &[Value], of: &Value| among.iter().find(|v| v[id] == of[id]).cloned();
        let original = original.as_array().map_or(&[][..], Vec::as_slice);
        for item in wanted {
            let Some(is) = find(present, item) else {
                items.push(item.clone());
                continue;
            };
            let was = find(original, item).unwrap_or(none.clone());
            let mut inner = self.object(&was, item, &is);
            if !inner.is_empty() {
                self.retain(&mut inner, item, true);
                inner.insert(id.into(), item[id].clone());
                items.push(Value::Object(inner));
            }
        }
        for item in original {
            if find(wanted, item).is_none() && find(present, item).is_some() {
                items.push(json!({"$patch": "delete", id: item[id]}));
            }
        }
        let order = |list: &[Value], among: &[Value]| -> Vec<Value> {
            list.iter().filter(|v| find(among, v).is_some()).map(|v| v[id].clone()).collect()
        };
        if items.is_empty() && order(wanted, present) == order(present, wanted) {
            return;
        }
        let whole: Vec<Value> = wanted.iter().map(|v| json!({id: v[id]})).collect();
        if !items.is_empty() {
            patch.insert(key.into(), items.into());
        }
        patch.insert(format!("$setElementOrder/{key}"), whole.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::patch::{merge_patch, strategic_merge};

    fn deployment() -> api::merge::BuiltinStrategy {
        api::merge::BuiltinStrategy::of(api::find("apps", "v1", "deployments").unwrap())
    }

    fn check(original: Value, modified: Value, mut current: Value, want: Value) {
        let patch = strategic(&original, &modified, &current, &deployment());
        strategic_merge(&mut current, &patch, &deployment()).unwrap();
        assert_eq!(current, want, "{patch}");
    }

    fn pod(spec: Value) -> Value {
        json!({"spec": {"template": {"spec": spec}}})
    }

    #[test]
    fn what_is_no_longer_wanted_goes_and_what_others_set_stays() {
        check(
            pod(json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "gone"}]})),
            pod(json!({"containers": [{"name": "a", "image": "2"}, {"name": "new"}]})),
            pod(
                json!({"containers": [{"name": "a", "image": "1", "args": ["x"], "env": [{"name": "E", "value": "v"}]}, {"name": "gone"}, {"name": "injected"}], "dnsPolicy": "X"}),
            ),
            pod(
                json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "E", "value": "v"}]}, {"name": "new"}, {"name": "injected"}], "dnsPolicy": "X"}),
            ),
        );
    }

    #[test]
    fn nothing_changes_without_a_difference() {
        let wanted = pod(json!({"containers": [{"name": "a", "image": "1"}]}));
        let current =
            pod(json!({"containers": [{"name": "a", "image": "1", "resources": {}}], "restartPolicy": "Always"}));
        assert_eq!(strategic(&wanted, &wanted, &current, &deployment()), json!({}));
    }

    #[test]
    fn members_of_unions_exclude_each_other() {
        check(
            json!({"spec": {"strategy": {"type": "RollingUpdate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
    }

    #[test]
    fn custom_resources_get_merge_patches() {
        let (original, modified) = (json!({"a": 1, "l": [1], "o": {"x": 1}}), json!({"l": [1, 2], "o": {"y": 2}}));
        let mut current = json!({"a": 1, "l": [1], "o": {"x": 1, "z": 3}});
        let patch = merge(&original, &modified, &current);
        assert_eq!(patch, json!({"a": null, "l": [1, 2], "o": {"x": null, "y": 2}}));
        merge_patch(&mut current, &patch);
        assert_eq!(current, json!({"l": [1, 2], "o": {"y": 2, "z": 3}}));
    }
}
