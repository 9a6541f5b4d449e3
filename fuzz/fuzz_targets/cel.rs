//! Expressions: checked against a schema, compiled, what they cost estimated, and evaluated within a small budget.
#![no_main]

use expressions::{Budget, Expression, Rule, Scope, Wanted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let schema = serde_json::json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}},
        "b": {"type": "object", "properties": {"c": {"type": "string"}, "namespace": {"type": "string", "maxLength": 5}}},
        "d": {"type": "number"}, "e": {"type": "object", "additionalProperties": {"type": "string"}},
        "f": {"x-kubernetes-int-or-string": true}, "g": {"type": "string", "format": "date-time"}}});
    let object = serde_json::json!({"a": [1, 2, 3], "b": {"c": "text", "namespace": "x"}, "d": 1.5, "e": {"k": "v"}, "f": 1,
        "g": "2026-01-01T00:00:00Z"});
    let about_self = source.replace("object", "self");
    for optional_old in [false, true] {
        let rule = Rule { is_resource: true, optional_old, wanted: Wanted::Truth };
        if let Ok((expression, _)) = Expression::compile_rule(&about_self, &schema, &rule) {
            let mut scope = Scope::default();
            scope.bind_typed("self", &object, &schema);
            scope.bind_optional("oldSelf", Some(&object), &schema);
            let _ = expression.is_true(&scope, &Budget::new(10_000));
        }
    }
    let Ok(expression) = Expression::compile(source, &["object"]) else { return };
    let mut scope = Scope::default();
    scope.bind("object", &object);
    let _ = expression.json(&scope, &Budget::new(10_000));
});
