//! Expressions: compiled, and evaluated within a small budget.
#![no_main]

use expressions::{Budget, Expression, Scope};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Ok(expression) = Expression::compile(source, &["object"]) else { return };
    let object = serde_json::json!({"a": [1, 2, 3], "b": {"c": "text"}, "d": 1.5});
    let mut scope = Scope::default();
    scope.bind("object", &object);
    let _ = expression.json(&scope, &Budget::new(10_000));
});
