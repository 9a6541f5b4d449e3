//! `--sort-by`: by what a path leads to; amounts and times by their size.

use std::cmp::Ordering;

use apimachinery::jsonpath::Path;
use apimachinery::quantity::Quantity;
use serde_json::Value;

use crate::error::{Error, Result};

/// The path of `--sort-by`.
///
/// # Errors
/// When it isn't one.
pub fn path(text: &str) -> Result<Path> {
    super::columns::relaxed(text)
}

/// The place of each item in the sorted order.
///
/// # Errors
/// When no item has the field.
pub fn order(objects: &[&Value], path: &Path, shown: &str) -> Result<Vec<usize>> {
    let mut keys = Vec::with_capacity(objects.len());
    for object in objects {
        let found = path.find(object, true).map_err(Error::Message)?;
        keys.push(found.first().map(|v| (*v).clone()));
    }
    if !keys.is_empty() && keys.iter().all(Option::is_none) {
        return Err(Error::Message(format!(
            "couldn't find any field with path \"{}\" in the list of objects",
            braced(shown)
        )));
    }
    let mut places: Vec<usize> = (0..objects.len()).collect();
    places.sort_by(|a, b| match (&keys[*a], &keys[*b]) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(a), Some(b)) => compare(a, b),
    });
    Ok(places)
}

fn braced(path: &str) -> String {
    let inner = path.trim_start_matches('{').trim_end_matches('}').trim_start_matches('.');
    format!("{{.{inner}}}")
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::String(a), Value::String(b)) => {
            let amounts = (a.parse::<Quantity>().ok(), b.parse::<Quantity>().ok());
            match amounts {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => natural(a, b),
            }
        }
        (Value::Number(_), Value::Number(_)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

/// Texts with numbers in them: `a2` before `a10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.chars().peekable(), b.chars().peekable());
    loop {
        match (a.peek().copied(), b.peek().copied()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
                    let mut digits = String::new();
                    while let Some(c) = chars.next_if(char::is_ascii_digit) {
                        digits.push(c);
                    }
                    digits.trim_start_matches('0').to_string()
                };
                let (x, y) = (number(&mut a), number(&mut b));
                let by = x.len().cmp(&y.len()).then_with(|| x.cmp(&y));
                if by != Ordering::Equal {
                    return by;
                }
            }
            (Some(x), Some(y)) => {
                if x != y {
                    return x.cmp(&y);
                }
                a.next();
                b.next();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_amounts_are_sorted_by_their_size() {
        let objects = [json!({"q": "1Gi", "n": "a10"}), json!({"q": "2Mi", "n": "a2"}), json!({})];
        let by = |field: &str| order(&objects.iter().collect::<Vec<_>>(), &path(field).unwrap(), field).unwrap();
        assert_eq!(by(".q"), [2, 1, 0]);
        assert_eq!(by("{.n}"), [2, 1, 0]);
        assert!(order(&objects.iter().collect::<Vec<_>>(), &path(".x").unwrap(), ".x").is_err());
    }
}
