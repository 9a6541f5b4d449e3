//! The fields of a kind that hold numbers, amounts and times, found in its schema.

use std::fmt;

use api::Kind;
use serde_json::{Map, Value, json};

/// A step from an object to what is in it.
#[derive(Clone, PartialEq)]
enum Step {
    Field(String),
    /// The first item of a list.
    Item,
    /// Some key of a map.
    Key,
}

#[derive(Clone, Copy)]
enum Holds {
    Narrow,
    Wide,
    Number,
    NumberOrText,
    Amount,
    Time,
}

pub struct Place {
    steps: Vec<Step>,
    holds: Holds,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Item => f.write_str("[0]")?,
                Step::Key => f.write_str("[*]")?,
            }
        }
        Ok(())
    }
}

impl Place {
    pub fn is_status(&self) -> bool {
        self.steps.first() == Some(&Step::Field("status".into()))
    }

    pub fn is_in_template(&self) -> bool {
        self.steps.contains(&Step::Field("template".into()))
    }

    pub fn extremes(&self) -> Vec<Value> {
        let narrow = [i64::from(i32::MIN), i64::from(i32::MAX), 0, -1];
        let all = match self.holds {
            Holds::Narrow => json!(narrow),
            Holds::Wide => json!([i64::MIN, i64::MAX, 0, -1]),
            // JSON has no other numbers: what isn't one (NaN) is no JSON.
            Holds::Number => json!([f64::MAX, f64::MIN, 0.0, -1.0, f64::MIN_POSITIVE]),
            Holds::NumberOrText => json!([narrow[0], narrow[1], 0, -1, "2147483648%", "-1%", "100%", "NaN", ""]),
            Holds::Amount => {
                json!([
                    "9223372036854775807",
                    "-9223372036854775808",
                    "9E",
                    "8Ei",
                    "1n",
                    "0",
                    "-1n",
                    "1e18",
                    "NaN",
                    "1e999999999"
                ])
            }
            Holds::Time => {
                json!(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "0000-00-00T00:00:00Z"])
            }
        };
        all.as_array().cloned().unwrap_or_default()
    }

    /// Sets the field, and makes what is on the way to it.
    pub fn set(&self, object: &mut Value, value: &Value) {
        let mut at = object;
        for step in &self.steps {
            at = match step {
                Step::Field(name) => {
                    if !at.is_object() {
                        *at = json!({});
                    }
                    &mut at[name]
                }
                Step::Item => {
                    if at.as_array().is_none_or(|items| items.is_empty()) {
                        *at = json!([{}]);
                    }
                    &mut at[0]
                }
                Step::Key => {
                    let key = at.as_object().and_then(|map| map.keys().next().cloned());
                    if !at.is_object() {
                        *at = json!({});
                    }
                    &mut at[key.unwrap_or_else(|| "cpu".into())]
                }
            };
        }
        *at = value.clone();
    }
}

/// What a schema of this name or type holds, if that is one value.
fn leaf(name: &str, schema: &Value) -> Option<Holds> {
    match name.rsplit('.').next() {
        Some("Time" | "MicroTime") => return Some(Holds::Time),
        Some("Quantity") => return Some(Holds::Amount),
        Some("IntOrString") => return Some(Holds::NumberOrText),
        _ => {}
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("integer"), Some("int32")) => Some(Holds::Narrow),
        (Some("integer"), _) => Some(Holds::Wide),
        (Some("number"), _) => Some(Holds::Number),
        _ => None,
    }
}

/// All of a kind's. A type that holds itself is looked into once.
pub fn places(kind: &Kind) -> Vec<Place> {
    let (types, _) = api::schema::raw();
    let mut found = Vec::new();
    let mut open = vec![(Vec::<Step>::new(), Vec::<String>::new(), json!({"$ref": kind.schema()}))];
    while let Some((steps, within, schema)) = open.pop() {
        let reference = schema.get("$ref").or_else(|| schema["allOf"].get(0).and_then(|of| of.get("$ref")));
        if let Some(name) = reference.and_then(Value::as_str) {
            let name = name.trim_start_matches("#/components/schemas/").to_string();
            let of = types.get(&name).cloned().unwrap_or_default();
            match leaf(&name, &of) {
                Some(holds) => found.push(Place { steps, holds }),
                None if within.contains(&name) => {}
                None => {
                    let mut within = within;
                    within.push(name);
                    open.push((steps, within, of));
                }
            }
            continue;
        }
        if let Some(holds) = leaf("", &schema) {
            found.push(Place { steps, holds });
            continue;
        }
        let mut go = |step: Step, of: &Value| {
            let mut steps = steps.clone();
            steps.push(step);
            open.push((steps, within.clone(), of.clone()));
        };
        for (name, of) in schema["properties"].as_object().unwrap_or(&Map::new()) {
            if name != "managedFields" {
                go(Step::Field(name.clone()), of);
            }
        }
        if schema["items"].is_object() {
            go(Step::Item, &schema["items"]);
        }
        if schema["additionalProperties"].is_object() {
            go(Step::Key, &schema["additionalProperties"]);
        }
    }
    found
}
