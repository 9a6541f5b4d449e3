//! Rules of a schema (`x-kubernetes-validations`): expressions over a value, and over what it was before.

use std::collections::HashMap;

use apimachinery::{Cause, ObjectExt as _};
use expressions::{Budget, Expression, Failure, Scope, Wanted};
use serde_json::Value;

/// The rules of a schema, and of the schemas in it. Only what leads to rules is kept.
#[derive(Debug)]
pub struct Rules {
    here: Vec<Rule>,
    properties: Vec<(String, Rules)>,
    /// Of the items of a list, or the members of a map.
    others: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: &'static str,
    /// Where the error is told, below the value; empty for the value itself.
    field: String,
    /// `oldSelf` is an optional value, so that the rule also holds for new values.
    optional_old: bool,
}

impl Rules {
    /// Compiles the rules of a version's schema. What is wrong is added to `causes`, by its path in the definition.
    pub fn compile(schema: &Value, path: &str, causes: &mut Vec<Cause>) -> Option<Self> {
        let mut total = 0;
        let rules = Self::compile_at(&Place { schema, is_resource: true, most: 1 }, path, &mut total, causes);
        if let Some(factor) = excess(total, ALL_RULES) {
            causes.push(Cause::forbidden(
                path,
                &format!("estimated rule cost total for entire OpenAPIv3 schema {factor}"),
            ));
        }
        rules
    }

    fn compile_at(at: &Place<'_>, path: &str, total: &mut u64, causes: &mut Vec<Cause>) -> Option<Self> {
        let schema = at.schema;
        let mut here = Vec::new();
        for (i, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
            here.extend(Rule::compile(rule, at, &format!("{path}.x-kubernetes-validations[{i}]"), total, causes));
        }
        let below =
            |schema, most| Place { schema, is_resource: schema["x-kubernetes-embedded-resource"] == true, most };
        let mut properties = Vec::new();
        for (name, of) in schema["properties"].as_object().into_iter().flatten() {
            let found = Self::compile_at(&below(of, at.most), &format!("{path}.properties[{name}]"), total, causes);
            properties.extend(found.map(|rules| (name.clone(), rules)));
        }
        let most = at.most.saturating_mul(expressions::most_children(schema));
        let others = ["items", "additionalProperties"].into_iter().find_map(|part| {
            let of = schema.get(part).filter(|of| of.is_object())?;
            Self::compile_at(&below(of, most), &format!("{path}.{part}"), total, causes)
        });
        let rules = Rules { here, properties, others: others.map(Box::new) };
        (!rules.here.is_empty() || !rules.properties.is_empty() || rules.others.is_some()).then_some(rules)
    }

    /// Checks a value, which replaces `old` if that is known.
    pub fn check(&self, schema: &Value, value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        let budget = Budget::new(Budget::REQUEST);
        self.visit(schema, value, old, "", &budget, causes);
    }

    fn visit(
        &self,
        schema: &Value,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &Budget,
        causes: &mut Vec<Cause>,
    ) {
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        for rule in &self.here {
            rule.check(schema, value, old, path, budget, causes);
        }
        let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        for (name, rules) in &self.properties {
            if let Some(member) = value.get(name) {
                let before = old.and_then(|o| o.get(name));
                rules.visit(&schema["properties"][name], member, before, &join(name), budget, causes);
            }
        }
        let Some(rules) = &self.others else { return };
        match value {
            Value::Object(members) => {
                let of = &schema["additionalProperties"];
                for (key, member) in members.iter().filter(|(k, _)| schema["properties"].get(k).is_none()) {
                    let before = old.and_then(|o| o.get(key));
                    rules.visit(of, member, before, &format!("{path}[{key}]"), budget, causes);
                }
            }
            Value::Array(items) => {
                let before = Correlation::of(schema, old);
                for (i, item) in items.iter().enumerate() {
                    rules.visit(&schema["items"], item, before.find(item), &format!("{path}[{i}]"), budget, causes);
                }
            }
            _ => {}
        }
    }
}

/// Which item of a list an item replaces: only lists by key can tell.
struct Correlation<'a> {
    keys: Vec<&'a str>,
    items: HashMap<String, &'a Value>,
}

impl<'a> Correlation<'a> {
    fn of(schema: &'a Value, old: Option<&'a Value>) -> Self {
        let is_map = schema["x-kubernetes-list-type"] == "map";
        let keys: Vec<&str> = if is_map { schema.strings_at(&["x-kubernetes-list-map-keys"]) } else { Vec::new() };
        let items = old.and_then(Value::as_array).filter(|_| is_map).into_iter().flatten();
        let items = items.map(|item| (Self::identity(&keys, item), item)).collect();
        Correlation { keys, items }
    }

    fn identity(keys: &[&str], item: &Value) -> String {
        keys.iter().map(|k| item[*k].to_string()).collect::<Vec<_>>().join(",")
    }

    fn find(&self, item: &Value) -> Option<&'a Value> {
        self.items.get(&Self::identity(&self.keys, item)).copied()
    }
}

/// Where in a version's schema rules stand.
struct Place<'a> {
    schema: &'a Value,
    is_resource: bool,
    /// How many values it can have in one object.
    most: u64,
}

/// What a rule, and all rules of a schema, may cost by estimate (upstream's limits).
const ONE_RULE: u64 = 10_000_000;
const ALL_RULES: u64 = 100_000_000;

/// By how much a cost is too high, in words.
fn excess(cost: u64, limit: u64) -> Option<String> {
    let factor = cost as f64 / limit as f64;
    let by = if factor > 100.0 { "more than 100".to_string() } else { format!("{factor:.1}") };
    (factor > 1.0).then(|| {
        format!(
            "exceeds budget by factor of {by}x (try simplifying the rule, or adding maxItems, maxProperties, and \
             maxLength where arrays, maps, and strings are declared)"
        )
    })
}

impl Rule {
    fn compile(rule: &Value, at: &Place<'_>, path: &str, total: &mut u64, causes: &mut Vec<Cause>) -> Option<Self> {
        let text = |key: &str| rule.str_at(&[key]).trim();
        let optional_old = rule["optionalOldSelf"] == true;
        let mut read = |key: &str, source: &str, wanted: Wanted| {
            let about = expressions::Rule { is_resource: at.is_resource, optional_old, wanted };
            match Expression::compile_rule(source, at.schema, &about) {
                Ok((expression, cost)) => {
                    let cost = cost.saturating_mul(at.most);
                    *total = total.saturating_add(cost);
                    if let Some(factor) = excess(cost, ONE_RULE) {
                        causes
                            .push(Cause::forbidden(format!("{path}.{key}"), &format!("estimated rule cost {factor}")));
                    }
                    Some(expression)
                }
                Err(why) => {
                    let why = format!("compilation failed: {why}");
                    causes.push(Cause::invalid(format!("{path}.{key}"), &rule[key], &why));
                    None
                }
            }
        };
        let expression = read("rule", text("rule"), Wanted::Truth);
        let message_expression = match text("messageExpression") {
            "" => None,
            source => read("messageExpression", source, Wanted::Text),
        };
        let reason = match text("reason") {
            "" | "FieldValueInvalid" => "FieldValueInvalid",
            "FieldValueForbidden" => "FieldValueForbidden",
            "FieldValueRequired" => "FieldValueRequired",
            "FieldValueDuplicate" => "FieldValueDuplicate",
            _ => {
                let allowed = ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
                causes.push(Cause::not_supported(format!("{path}.reason"), &rule["reason"], &allowed));
                return None;
            }
        };
        let message = match text("message") {
            "" => format!("failed rule: {}", text("rule")),
            message => message.into(),
        };
        // `.spec['a'].b` is told as `spec[a].b`.
        let field = text("fieldPath").trim_start_matches('.').replace(['\'', '"'], "");
        Some(Rule { expression: expression?, message, message_expression, reason, field, optional_old })
    }

    fn check(
        &self,
        schema: &Value,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &Budget,
        causes: &mut Vec<Cause>,
    ) {
        let transition = self.expression.uses("oldSelf");
        // A rule about a change asks for what was before; another one was asked when the value came.
        let skipped = if transition { old.is_none() && !self.optional_old } else { old == Some(value) };
        if skipped {
            return;
        }
        let mut scope = Scope::default();
        scope.bind_typed("self", value, schema);
        if self.optional_old {
            scope.bind_optional("oldSelf", old, schema);
        } else if let Some(old) = old {
            scope.bind_typed("oldSelf", old, schema);
        }
        let message = match self.expression.is_true(&scope, budget) {
            Ok(true) => return,
            Ok(false) => self.message(&scope, budget),
            Err(Failure::Budget) => "validation failed due to running out of cost budget, no further validation rules \
                                     will be run"
                .into(),
            Err(failure) => format!("{failure} evaluating rule: {}", self.message),
        };
        let at = match (path, self.field.as_str()) {
            (path, "") => path.to_string(),
            ("", field) => field.to_string(),
            (path, field) if field.starts_with('[') => format!("{path}{field}"),
            (path, field) => format!("{path}.{field}"),
        };
        causes.push(self.cause(at, schema, &message));
    }

    fn message(&self, scope: &Scope<'_>, budget: &Budget) -> String {
        let made = self.message_expression.as_ref().and_then(|e| e.text(scope, budget).ok());
        made.filter(|m| !m.trim().is_empty() && !m.contains('\n')).unwrap_or_else(|| self.message.clone())
    }

    fn cause(&self, at: String, schema: &Value, message: &str) -> Cause {
        match self.reason {
            "FieldValueForbidden" => Cause::forbidden(at, message),
            "FieldValueRequired" => Cause::required(at, message),
            "FieldValueDuplicate" => Cause::duplicate(at, &schema["type"]),
            _ => Cause::invalid(at, &schema["type"], message),
        }
    }
}
