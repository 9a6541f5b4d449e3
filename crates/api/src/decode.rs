//! From bytes to a value, remembering the keys that came twice (which `fieldValidation=Strict` refuses).

use std::cell::RefCell;
use std::fmt;

use apimachinery::bounded::{Budget, Limits, OBJECT_COST};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How many keys that came twice are told of, and how long their paths may be.
const MAX_REPORTED_FIELDS: usize = 100;
const PATH_BYTES: usize = 1024;

/// Parses JSON and returns it with the paths of the keys that stood twice in one object.
///
/// # Errors
/// When `bytes` is no JSON, or more than a request may hold ([`apimachinery::bounded`]).
pub fn json(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let budget = Budget::new(Limits::REQUEST, bytes.len()).map_err(serde_json::Error::custom)?;
    let notes = Notes { duplicates: RefCell::default(), budget: RefCell::new(budget) };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed { path: &Path::Root, notes: &notes, depth: 0 };
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, notes.duplicates.into_inner()))
}

/// What is noted while a text is read.
struct Notes {
    duplicates: RefCell<Vec<String>>,
    budget: RefCell<Budget>,
}

impl Notes {
    fn tell(&self, path: &Path<'_>) {
        let mut duplicates = self.duplicates.borrow_mut();
        if duplicates.len() < MAX_REPORTED_FIELDS {
            duplicates.push(path.to_string().chars().take(PATH_BYTES).collect());
        }
    }

    fn spend<E: Error>(&self, values: usize, depth: usize) -> Result<(), E> {
        let mut budget = self.budget.borrow_mut();
        budget.spend(values, 0).and_then(|()| budget.nest(depth)).map_err(E::custom)
    }
}

enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => write!(f, "{key}"),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    path: &'a Path<'a>,
    notes: &'a Notes,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.notes.spend(1, self.depth + 1)?;
        let mut items = Vec::new();
        loop {
            let path = Path::Index(self.path, items.len());
            self.notes.spend(1, 0)?;
            let seed = Seed { path: &path, notes: self.notes, depth: self.depth + 1 };
            match seq.next_element_seed(seed)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.notes.spend(OBJECT_COST, self.depth + 1)?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Key(self.path, &key);
            self.notes.spend(1, 0)?;
            let seed = Seed { path: &path, notes: self.notes, depth: self.depth + 1 };
            let value = map.next_value_seed(seed)?;
            if object.contains_key(&key) {
                self.notes.tell(&path);
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_found_with_their_path() {
        let (value, duplicates) = json(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#).unwrap();
        assert_eq!(value["a"], 3);
        assert_eq!(duplicates, ["b[0].c", "a"]);
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(json(deep.as_bytes()).is_err());
    }

    #[test]
    fn more_values_than_an_object_may_hold_are_refused() {
        let objects = |n: usize| format!("[{}]", vec![r#"{"":0}"#; n].join(","));
        assert!(json(objects(50_000).as_bytes()).is_ok());
        assert!(json(objects(200_000).as_bytes()).unwrap_err().to_string().contains("more than"));
        let twice = format!("{{{}}}", vec![r#""a":0"#; 1000].join(","));
        assert_eq!(json(twice.as_bytes()).unwrap().1.len(), MAX_REPORTED_FIELDS);
    }
}
