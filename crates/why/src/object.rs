//! Fields of objects as the API sends them. Clusters of any version are read, so a field that is absent, or isn't what it should be, is as good as
//! empty.

use std::collections::BTreeMap;

use apimachinery::Quantity;
use apimachinery::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::Value;

/// The text at a path, as in `/spec/nodeName`.
pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or("")
}

/// The items of a list.
pub fn items<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    object.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A whole number.
pub fn int(object: &Value, path: &str) -> Option<i64> {
    object.pointer(path).and_then(Value::as_i64)
}

/// Whether a field is true.
pub fn is_true(object: &Value, path: &str) -> bool {
    object.pointer(path).and_then(Value::as_bool) == Some(true)
}

/// An amount.
pub fn amount(object: &Value, path: &str) -> Option<Quantity> {
    object.pointer(path).and_then(Quantity::from_json)
}

/// A time.
pub fn time(object: &Value, path: &str) -> Option<Timestamp> {
    text(object, path).parse().ok()
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// The namespace of an object.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// Pairs of texts, as labels are.
pub fn pairs<'a>(object: &'a Value, path: &str) -> BTreeMap<&'a str, &'a str> {
    let map = object.pointer(path).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
}

/// Whether an object has all of some labels.
pub fn has_labels(object: &Value, wanted: &BTreeMap<&str, &str>) -> bool {
    let labels = object.pointer("/metadata/labels");
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str) == Some(value))
}

/// A condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").iter().find(|c| text(c, "/type") == kind)
}

/// Whether an object has a condition with this status.
pub fn has_condition(object: &Value, kind: &str, status: &str) -> bool {
    condition(object, kind).is_some_and(|c| text(c, "/status") == status)
}

/// Whether an object is being deleted.
pub fn is_deleted(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// A label selector at a path, if there is one that can be read.
pub fn selector(object: &Value, path: &str) -> Option<LabelSelector> {
    LabelSelector::from_json(object.pointer(path).filter(|s| !s.is_null())?).ok()
}

/// Whether a selector selects an object by its labels.
pub fn selects(selector: &LabelSelector, object: &Value) -> bool {
    let labels = pairs(object, "/metadata/labels");
    selector.matches(|key| labels.get(key).copied())
}

/// The owner of an object that controls it: group, kind and name.
pub fn controller(object: &Value) -> Option<(&str, &str, &str)> {
    let owners = items(object, "/metadata/ownerReferences");
    let owner = owners.iter().find(|o| is_true(o, "/controller"))?;
    let group = text(owner, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
    Some((group, text(owner, "/kind"), text(owner, "/name")))
}

/// An age in the words of `kubectl get`.
pub fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "some time".into(), |then| apimachinery::clock::human_duration(now.duration_since(then)))
}

/// Seconds from a time to now; zero for a time that isn't known or is to come.
pub fn seconds_since(then: Option<Timestamp>, now: Timestamp) -> i64 {
    then.map_or(0, |then| now.duration_since(then).as_secs().max(0))
}

/// The start of a text, in one line: what objects say may be as long as they like.
pub fn short(text: &str, limit: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= limit {
        return line;
    }
    line.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// The number of single changes that make one word of another, up to `limit`.
pub fn distance(one: &str, other: &str, limit: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut next = vec![i.saturating_add(1)];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or(0);
            let best = if x == y { diagonal } else { diagonal.min(left).min(*above).saturating_add(1) };
            diagonal = *above;
            next.push(best);
        }
        row = next;
    }
    row.last().copied().filter(|found| *found <= limit)
}

/// The nearest of some words, if one is near.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(2).clamp(1, 3);
    let near = words.into_iter().filter_map(|other| Some((distance(word, other, limit)?, other)));
    near.min().map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_isnt() {
        assert_eq!(nearest("depoyment", ["pod", "deployment", "daemonset"]), Some("deployment"));
        assert_eq!(nearest("web-confg", ["web-config", "db-config"]), Some("web-config"));
        assert_eq!(nearest("abc", ["xyz", "uvw"]), None);
        assert_eq!(distance("kitten", "sitting", 9), Some(3));
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(short("ä\n b  c", 10), "ä b c");
        assert_eq!(short("äöüäöü", 4), "äöü…");
    }
}
