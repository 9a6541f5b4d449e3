//! Expressions: checked against a schema, compiled, and evaluated within a small budget.
#![no_main]

use expressions::{Budget, Expression, Rule, Scope, Wanted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let schema = serde_json::json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}},
        "b": {"type": "object", "properties": {"c": {"type": "string"}}}, "d": {"type": "number"}}});
    let rule = Rule { is_resource: true, optional_old: false, wanted: Wanted::Truth };
    let _ = Expression::compile_rule(&source.replace("object", "self"), &schema, &rule);
    let Ok(expression) = Expression::compile(source, &["object"]) else { return };
    let object = serde_json::json!({"a": [1, 2, 3], "b": {"c": "text"}, "d": 1.5});
    let mut scope = Scope::default();
    scope.bind("object", &object);
    let _ = expression.json(&scope, &Budget::new(10_000));
});
