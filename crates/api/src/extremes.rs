//! Extreme values for tests: the fields of a kind that hold numbers, quantities and times, found in its schema. The tests of the kubelet
//! and of the control loops set each of them to each of its extreme values.

use std::fmt;

use crate::Kind;
use serde_json::{Map, Value, json};

/// A step of the path from an object to a field.
#[derive(Clone, PartialEq)]
enum PathStep {
    Field(String),
    /// The first item of a list.
    Item,
    /// Some key of a map.
    Key,
}

#[derive(Clone, Copy)]
enum ValueType {
    Int32,
    Int64,
    Number,
    IntOrString,
    Quantity,
    Time,
}

/// A field that holds a number, a quantity or a time.
pub struct NumericField {
    steps: Vec<PathStep>,
    value_type: ValueType,
}

impl fmt::Display for NumericField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                PathStep::Field(name) => write!(f, ".{name}")?,
                PathStep::Item => f.write_str("[0]")?,
                PathStep::Key => f.write_str("[*]")?,
            }
        }
        Ok(())
    }
}

impl NumericField {
    /// Whether it is in the status.
    pub fn is_status(&self) -> bool {
        self.steps.first() == Some(&PathStep::Field("status".into()))
    }

    /// Whether it is in a pod template.
    pub fn is_in_template(&self) -> bool {
        self.steps.contains(&PathStep::Field("template".into()))
    }

    /// The extreme values of its type.
    pub fn extremes(&self) -> Vec<Value> {
        let int32 = [i64::from(i32::MIN), i64::from(i32::MAX), 0, -1];
        let all = match self.value_type {
            ValueType::Int32 => json!(int32),
            ValueType::Int64 => json!([i64::MIN, i64::MAX, 0, -1]),
            // JSON has no NaN or infinity.
            ValueType::Number => json!([f64::MAX, f64::MIN, 0.0, -1.0, f64::MIN_POSITIVE]),
            ValueType::IntOrString => json!([int32[0], int32[1], 0, -1, "2147483648%", "-1%", "100%", "NaN", ""]),
            ValueType::Quantity => {
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
            ValueType::Time => {
                json!(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "0000-00-00T00:00:00Z"])
            }
        };
        all.as_array().cloned().unwrap_or_default()
    }

    /// Sets the field, and creates the objects and lists on its path.
    pub fn set(&self, object: &mut Value, value: &Value) {
        let mut at = object;
        for step in &self.steps {
            at = match step {
                PathStep::Field(name) => {
                    if !at.is_object() {
                        *at = json!({});
                    }
                    &mut at[name]
                }
                PathStep::Item => {
                    if at.as_array().is_none_or(|items| items.is_empty()) {
                        *at = json!([{}]);
                    }
                    &mut at[0]
                }
                PathStep::Key => {
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

/// The type of a schema with this name, if it is a number, a quantity or a time.
fn value_type_of(name: &str, schema: &Value) -> Option<ValueType> {
    match name.rsplit('.').next() {
        Some("Time" | "MicroTime") => return Some(ValueType::Time),
        Some("Quantity") => return Some(ValueType::Quantity),
        Some("IntOrString") => return Some(ValueType::IntOrString),
        _ => {}
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("integer"), Some("int32")) => Some(ValueType::Int32),
        (Some("integer"), _) => Some(ValueType::Int64),
        (Some("number"), _) => Some(ValueType::Number),
        _ => None,
    }
}

/// All such fields of a kind. Recursive types are visited once.
pub fn numeric_fields(kind: &Kind) -> Vec<NumericField> {
    let (types, _) = crate::schema::raw();
    let mut fields = Vec::new();
    let mut open = vec![(Vec::<PathStep>::new(), Vec::<String>::new(), json!({"$ref": kind.schema()}))];
    while let Some((steps, within, schema)) = open.pop() {
        let reference = schema.get("$ref").or_else(|| schema["allOf"].get(0).and_then(|of| of.get("$ref")));
        if let Some(name) = reference.and_then(Value::as_str) {
            let name = name.trim_start_matches("#/components/schemas/").to_string();
            let of = types.get(&name).cloned().unwrap_or_default();
            match value_type_of(&name, &of) {
                Some(value_type) => fields.push(NumericField { steps, value_type }),
                None if within.contains(&name) => {}
                None => {
                    let mut within = within;
                    within.push(name);
                    open.push((steps, within, of));
                }
            }
            continue;
        }
        if let Some(value_type) = value_type_of("", &schema) {
            fields.push(NumericField { steps, value_type });
            continue;
        }
        let mut push = |step: PathStep, of: &Value| {
            let mut steps = steps.clone();
            steps.push(step);
            open.push((steps, within.clone(), of.clone()));
        };
        for (name, of) in schema["properties"].as_object().unwrap_or(&Map::new()) {
            if name != "managedFields" {
                push(PathStep::Field(name.clone()), of);
            }
        }
        if schema["items"].is_object() {
            push(PathStep::Item, &schema["items"]);
        }
        if schema["additionalProperties"].is_object() {
            push(PathStep::Key, &schema["additionalProperties"]);
        }
    }
    fields
}
