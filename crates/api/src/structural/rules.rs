//! Rules of a schema (`x-kubernetes-validations`): expressions over a value, and over what it was before.

use apimachinery::{Cause, ObjectExt as _};
use expressions::{Budget, Expression, Failure, Scope, Wanted};
use serde_json::Value;

use super::correlation::{Keyed, same};

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
        let root = Place { schema, is_resource: true, most: Some(1), lost: None };
        let rules = Self::compile_at(&root, path, &mut total, causes);
        if let Some(factor) = excess(total, ALL_RULES) {
            causes.push(Cause::forbidden(
                path,
                &format!("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema {factor}"),
            ));
        }
        rules
    }

    fn compile_at<'a>(at: &Place<'a>, path: &str, total: &mut u64, causes: &mut Vec<Cause>) -> Option<Self> {
        let schema = at.schema;
        let mut here = Vec::new();
        for (i, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
            here.extend(Rule::compile(rule, at, &format!("{path}.x-kubernetes-validations[{i}]"), total, causes));
        }
        let below = |schema: &'a Value, most, lost: bool| Place {
            schema,
            is_resource: schema["x-kubernetes-embedded-resource"] == true,
            most,
            lost: at.lost.clone().or_else(|| lost.then(|| path.to_string())),
        };
        let mut properties = Vec::new();
        for (name, of) in schema["properties"].as_object().into_iter().flatten() {
            let found =
                Self::compile_at(&below(of, at.most, false), &format!("{path}.properties[{name}]"), total, causes);
            properties.extend(found.map(|rules| (name.clone(), rules)));
        }
        let most = at.most.zip(most_children(schema)).map(|(most, children)| most.saturating_mul(children));
        let others = ["items", "additionalProperties"].into_iter().find_map(|part| {
            let of = schema.get(part).filter(|of| of.is_object())?;
            let lost = part == "items" && schema["x-kubernetes-list-type"] != "map";
            Self::compile_at(&below(of, most, lost), &format!("{path}.{part}"), total, causes)
        });
        let rules = Rules { here, properties, others: others.map(Box::new) };
        (!rules.here.is_empty() || !rules.properties.is_empty() || rules.others.is_some()).then_some(rules)
    }

    /// Checks a value, which replaces `old` if that is known.
    pub fn check(&self, schema: &Value, value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        let budget = Budget::new(Budget::REQUEST);
        let mut run = Run { budget: &budget, causes, is_over: false };
        self.visit(schema, value, old, "", &mut run);
    }

    /// Defaults must keep the rules, as values that come and as values that stay (upstream's `defaulting.validate`).
    pub fn check_defaults(&self, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
        let budget = Budget::new(Budget::REQUEST);
        let mut todo = vec![(self, schema, path.to_string())];
        while let Some((rules, of, path)) = todo.pop() {
            let default = &of["default"];
            if !default.is_null() {
                let mut found = Vec::new();
                let mut run = Run { budget: &budget, causes: &mut found, is_over: false };
                rules.visit(of, default, Some(default), "", &mut run);
                rules.visit(of, default, None, "", &mut run);
                let at = |field: &str| match field {
                    "" => format!("{path}.default"),
                    below if below.starts_with('[') => format!("{path}.default{below}"),
                    below => format!("{path}.default.{below}"),
                };
                causes.extend(found.into_iter().map(|cause| Cause { field: at(&cause.field), ..cause }));
            }
            for (name, rules) in &rules.properties {
                todo.push((rules, &of["properties"][name], format!("{path}.properties[{name}]")));
            }
            if let Some(rules) = rules.others.as_deref().filter(|_| of["items"].is_object()) {
                todo.push((rules, &of["items"], format!("{path}.items")));
            }
        }
    }

    /// Asks the rules of a value. Those that see the same share what they see.
    fn check_here(&self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, run: &mut Run<'_>) {
        for optional in [false, true] {
            let mut due = self
                .here
                .iter()
                .filter(|rule| rule.optional_old == optional && rule.is_due(schema, value, old))
                .peekable();
            if due.peek().is_none() {
                continue;
            }
            let mut scope = Scope::default();
            scope.bind_typed("self", value, schema);
            match old {
                old if optional => scope.bind_optional("oldSelf", old, schema),
                Some(old) => scope.bind_typed("oldSelf", old, schema),
                None => {}
            }
            for rule in due {
                if run.is_over {
                    return;
                }
                rule.check(schema, value, &scope, path, run);
            }
        }
    }

    fn visit(&self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, run: &mut Run<'_>) {
        if value.is_null() {
            return;
        }
        self.check_here(schema, value, old, path, run);
        let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        for (name, rules) in &self.properties {
            if let Some(member) = value.get(name) {
                let before = old.and_then(|o| o.get(name));
                rules.visit(&schema["properties"][name], member, before, &join(name), run);
            }
        }
        let Some(rules) = &self.others else { return };
        match value {
            Value::Object(members) => {
                let of = &schema["additionalProperties"];
                for (key, member) in members.iter().filter(|(k, _)| schema["properties"].get(k).is_none()) {
                    let before = old.and_then(|o| o.get(key));
                    rules.visit(of, member, before, &format!("{path}[{key}]"), run);
                }
            }
            Value::Array(items) => {
                let before = Keyed::of(schema, old);
                for (i, item) in items.iter().enumerate() {
                    rules.visit(&schema["items"], item, before.find(item), &format!("{path}[{i}]"), run);
                }
            }
            _ => {}
        }
    }
}

/// The check of one object.
struct Run<'a> {
    budget: &'a Budget,
    causes: &'a mut Vec<Cause>,
    /// Nothing was left to pay for more rules.
    is_over: bool,
}

/// Where in a version's schema rules stand.
struct Place<'a> {
    schema: &'a Value,
    is_resource: bool,
    /// How many values it can have in one object, if all lists and maps around it have limits.
    most: Option<u64>,
    /// The schema around it in which values can't be found again in the old object: that of a list without keys.
    lost: Option<String>,
}

impl Place<'_> {
    /// How often a rule may run. Once a list or map around it has no limit, all that counts is how many values of its own
    /// kind fit into a request: limits further in or out don't matter any more (upstream's `childContext`).
    fn rounds(&self) -> u64 {
        self.most.unwrap_or_else(|| expressions::most_in_request(self.schema, self.is_resource))
    }
}

/// How many values a schema below `schema` has for each of its own; `None` without limit.
fn most_children(schema: &Value) -> Option<u64> {
    let limit = |key: &str| schema[key].as_i64().map(|limit| u64::try_from(limit).unwrap_or(0));
    match schema["type"].as_str() {
        Some("array") => limit("maxItems"),
        Some("object") if schema.get("additionalProperties").is_some() => limit("maxProperties"),
        _ => Some(1),
    }
}

/// What a rule, and all rules of a schema, may cost by estimate (upstream's limits).
const ONE_RULE: u64 = 10_000_000;
const ALL_RULES: u64 = 100_000_000;
/// The longest message that an expression may make, in bytes (upstream's limit).
const LONGEST_MESSAGE: usize = 5 << 10;

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
                    // A message is made for the first value that breaks its rule.
                    let (cost, what) = match wanted {
                        Wanted::Truth => (cost.saturating_mul(at.rounds()), "rule"),
                        Wanted::Text => (cost, "messageExpression"),
                    };
                    *total = total.saturating_add(cost);
                    if let Some(factor) = excess(cost, ONE_RULE) {
                        let why = format!("estimated {what} cost {factor}");
                        causes.push(Cause::forbidden(format!("{path}.{key}"), &why));
                    }
                    Some(expression)
                }
                Err(why) => {
                    let before =
                        if key == "rule" { "compilation failed" } else { "messageExpression compilation failed" };
                    let why = if why.contains(" must evaluate to a ") { why } else { format!("{before}: {why}") };
                    causes.push(Cause::invalid(format!("{path}.{key}"), &rule[key], &why));
                    None
                }
            }
        };
        let expression = read("rule", text("rule"), Wanted::Truth);
        let message_expression = match text("messageExpression") {
            "" => None,
            source if expression.is_some() => read("messageExpression", source, Wanted::Text),
            _ => None,
        };
        if let (Some(expression), Some(lost)) = (&expression, &at.lost)
            && expression.uses("oldSelf")
        {
            let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}");
            causes.push(Cause::invalid(format!("{path}.rule"), &rule["rule"], &why));
        }
        if expression.as_ref().is_some_and(|rule| !rule.uses("oldSelf")) && !rule["optionalOldSelf"].is_null() {
            let why = "may not be set if oldSelf is not used in rule";
            causes.push(Cause::invalid(format!("{path}.optionalOldSelf"), &rule["optionalOldSelf"], why));
        }
        let reason = Self::reason(rule, path, causes)?;
        let message = match text("message") {
            "" => format!("failed rule: {}", text("rule")),
            message => message.into(),
        };
        // `.spec['a'].b` is told as `spec[a].b`.
        let field = text("fieldPath").trim_start_matches('.').replace(['\'', '"'], "");
        Some(Rule { expression: expression?, message, message_expression, reason, field, optional_old })
    }

    /// The reason of the cause when the rule is broken.
    fn reason(rule: &Value, path: &str, causes: &mut Vec<Cause>) -> Option<&'static str> {
        const ALLOWED: [&str; 4] =
            ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
        let given = rule.str_at(&["reason"]).trim();
        if given.is_empty() {
            return Some(ALLOWED[0]);
        }
        let known = ALLOWED.into_iter().find(|reason| *reason == given);
        if known.is_none() {
            causes.push(Cause::not_supported(format!("{path}.reason"), &rule["reason"], &ALLOWED));
        }
        known
    }

    /// Whether the rule is to be asked. A rule about a change asks for what was before; another one was asked when the
    /// value came.
    fn is_due(&self, schema: &Value, value: &Value, old: Option<&Value>) -> bool {
        if self.expression.uses("oldSelf") {
            return old.is_some() || self.optional_old;
        }
        !old.is_some_and(|old| same(schema, value, old))
    }

    fn check(&self, schema: &Value, value: &Value, scope: &Scope<'_>, path: &str, run: &mut Run<'_>) {
        let (at, message) = match self.expression.is_true(scope, run.budget) {
            Ok(true) => return,
            Ok(false) => {
                let message = self.message(scope, run.budget);
                run.causes.push(self.cause(self.place(path), schema, value, &message));
                return;
            }
            Err(Failure::Budget) => {
                run.is_over = true;
                let why =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                (path.to_string(), why.to_string())
            }
            Err(failure @ Failure::Call) => {
                run.is_over = true;
                let why = "no further validation rules will be run due to call cost exceeds limit for rule";
                (path.to_string(), format!("'{failure}': {why}: {}", self.message))
            }
            Err(failure) => (path.to_string(), format!("{failure} evaluating rule: {}", self.message)),
        };
        run.causes.push(Cause::invalid(at, &schema["type"], &message));
    }

    /// Where the rule's failure is told.
    fn place(&self, path: &str) -> String {
        match (path, self.field.as_str()) {
            (path, "") => path.to_string(),
            ("", field) => field.to_string(),
            (path, field) if field.starts_with('[') => format!("{path}{field}"),
            (path, field) => format!("{path}.{field}"),
        }
    }

    fn message(&self, scope: &Scope<'_>, budget: &Budget) -> String {
        let made = self.message_expression.as_ref().and_then(|e| e.text(scope, budget).ok());
        let is_good = |m: &String| !m.trim().is_empty() && !m.contains('\n') && m.len() <= LONGEST_MESSAGE;
        made.filter(is_good).unwrap_or_else(|| self.message.clone())
    }

    /// Lists and objects are left out of the text, as they may be long.
    fn cause(&self, at: String, schema: &Value, value: &Value, message: &str) -> Cause {
        let is_long = matches!(schema["type"].as_str(), Some("object" | "array"));
        let without = |reason: &'static str, what: &str| {
            let message = format!("{what}: {message}");
            Cause { reason, field: at.clone(), message }
        };
        match self.reason {
            "FieldValueForbidden" => Cause::forbidden(at, message),
            "FieldValueRequired" => Cause::required(at, message),
            "FieldValueDuplicate" if is_long => without("FieldValueDuplicate", "Duplicate value"),
            "FieldValueDuplicate" => Cause::duplicate(at, value),
            _ if is_long => without("FieldValueInvalid", "Invalid value"),
            _ => Cause::invalid(at, value, message),
        }
    }
}
