//! Whether the expressions of a policy go with the kinds that it is about: told in its status, so that whoever writes one hears of a
//! field that isn't there before an object is refused for it (upstream's `TypeChecker`).

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::ObjectExt as _;
use expressions::admission::{Known, Result as Wanted};
use serde_json::{Map, Value, json};

use crate::custom::Definition;
use crate::schema;

/// The most kinds that a policy is checked for.
const MAX_KINDS: usize = 10;

/// Group, version and kind.
type Named = (String, String, String);

/// What doesn't go with what: the `expressionWarnings` of a policy's status.
pub fn warnings(policy: &Value, definitions: &[Arc<Definition>]) -> Vec<Value> {
    let schemas = Schemas { builtin: schema::raw().0, definitions };
    let spec = &policy["spec"];
    let kinds = schemas.of_rules(spec.array_at(&["matchConstraints", "resourceRules"]));
    let params = spec["paramKind"].is_object().then(|| schemas.of_kind(&spec["paramKind"]));
    let mut told = Vec::new();
    for (i, validation) in spec.array_at(&["validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = validation.str_at(&[field]);
            if source.is_empty() {
                continue;
            }
            let mistakes = kinds.iter().filter_map(|((group, version, kind), schema)| {
                let mut known = Known::of(Some(schema)).authorizer();
                if let Some(params) = &params {
                    known = known.params(params.as_ref());
                }
                for variable in spec.array_at(&["variables"]) {
                    // One that is wrong was refused, or is so only for this kind.
                    let _ = known.compute(variable.str_at(&["name"]), variable.str_at(&["expression"]));
                }
                let why = known.check(source, Wanted::Anything).err()?;
                let of = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
                Some(format!("{of}, Kind={kind}: {why}\n"))
            });
            let mistakes: Vec<String> = mistakes.collect();
            if !mistakes.is_empty() {
                told.push(
                    json!({"fieldRef": format!("spec.validations[{i}].{field}"), "warning": mistakes.join("\n")}),
                );
            }
        }
    }
    told
}

struct Schemas<'a> {
    builtin: Map<String, Value>,
    definitions: &'a [Arc<Definition>],
}

impl Schemas<'_> {
    /// The kinds that rules name; one that says "all of them" says nothing of types.
    fn of_rules(&self, rules: &[Value]) -> BTreeMap<Named, Value> {
        let mut found = BTreeMap::new();
        for rule in rules {
            let (groups, versions) = (rule.strings_at(&["apiGroups"]), rule.strings_at(&["apiVersions"]));
            if groups.iter().chain(&versions).any(|name| name.contains('*')) {
                continue;
            }
            let resources = rule.strings_at(&["resources"]);
            let resources: Vec<&str> = resources.into_iter().filter(|name| !name.contains(['*', '/'])).collect();
            for group in &groups {
                for version in &versions {
                    for resource in &resources {
                        if found.len() == MAX_KINDS {
                            return found;
                        }
                        found.extend(self.of(group, version, |plural, _| plural == *resource));
                    }
                }
            }
        }
        found
    }

    fn of_kind(&self, reference: &Value) -> Option<Value> {
        let version = reference.str_at(&["apiVersion"]);
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let name = reference.str_at(&["kind"]);
        self.of(group, version, |_, kind| kind == name).map(|(_, schema)| schema)
    }

    /// A served kind, chosen by its plural and its name, and its schema.
    fn of(&self, group: &str, version: &str, is: impl Fn(&str, &str) -> bool) -> Option<(Named, Value)> {
        let mut lists = crate::KINDS.iter().chain(crate::OLDER);
        let builtin = lists.find(|kind| kind.group == group && kind.version == version && is(kind.plural(), kind.kind));
        if let Some(kind) = builtin {
            let schema = self.expand(self.builtin.get(&kind.schema())?, &mut vec![kind.schema()]);
            return Some(((group.into(), version.into(), kind.kind.into()), schema));
        }
        let versions = self.definitions.iter().flat_map(|definition| &definition.versions);
        let mut custom = versions.filter(|of| of.served && of.kind.group == group && of.kind.version == version);
        let custom = custom.find(|of| is(of.kind.plural(), of.kind.kind))?;
        let mut schema = custom.schema();
        let properties = schema.child_mut("properties");
        for field in ["apiVersion", "kind"] {
            properties.insert(field.into(), json!({"type": "string"}));
        }
        const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
        let metadata = self.builtin.get(METADATA).map(|of| self.expand(of, &mut vec![METADATA.into()]));
        properties.insert("metadata".into(), metadata.unwrap_or_else(anything));
        Some(((group.into(), version.into(), custom.kind.kind.into()), schema))
    }

    /// A schema with what it refers to in the place of the references; `inside` are the names of those around.
    fn expand(&self, schema: &Value, inside: &mut Vec<String>) -> Value {
        let reference = schema.get("$ref").or_else(|| schema.get("allOf").and_then(|all| all.get(0)?.get("$ref")));
        if let Some(name) = reference.and_then(Value::as_str) {
            let name = name.trim_start_matches("#/components/schemas/");
            return match (name.rsplit('.').next(), self.builtin.get(name)) {
                (Some("Time" | "MicroTime"), _) => json!({"type": "string", "format": "date-time"}),
                (Some("Quantity" | "IntOrString" | "FieldsV1" | "JSON" | "RawExtension"), _) | (_, None) => anything(),
                _ if inside.iter().any(|around| around == name) => anything(),
                (_, Some(of)) => {
                    inside.push(name.into());
                    let expanded = self.expand(of, inside);
                    inside.pop();
                    expanded
                }
            };
        }
        let Some(of) = schema["type"].as_str().filter(|_| schema["x-kubernetes-int-or-string"] != true) else {
            return anything();
        };
        let mut expanded = json!({"type": of});
        if let Some(format) = schema.get("format") {
            expanded["format"] = format.clone();
        }
        match (of, schema["properties"].as_object()) {
            ("array", _) => expanded["items"] = self.expand(&schema["items"], inside),
            ("object", Some(fields)) => {
                let fields = fields.iter().map(|(name, of)| (name.clone(), self.expand(of, inside)));
                expanded["properties"] = fields.collect::<Map<_, _>>().into();
            }
            ("object", None) if schema["additionalProperties"].is_object() => {
                expanded["additionalProperties"] = self.expand(&schema["additionalProperties"], inside);
            }
            ("object", None) => return anything(),
            _ => {}
        }
        expanded
    }
}

/// The schema of a value that may be anything.
fn anything() -> Value {
    json!({"x-kubernetes-int-or-string": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(spec: Value, definitions: &[Arc<Definition>]) -> Vec<(String, String)> {
        let text = |warning: &Value, key: &str| warning[key].as_str().unwrap().to_string();
        let all = warnings(&json!({ "spec": spec }), definitions);
        all.iter().map(|warning| (text(warning, "fieldRef"), text(warning, "warning"))).collect()
    }

    fn of(groups: &[&str], resources: &[&str], rest: Value) -> Value {
        let mut spec = json!({"matchConstraints": {"resourceRules": [
            {"apiGroups": groups, "apiVersions": ["v1"], "operations": ["*"], "resources": resources}]}});
        apimachinery::patch::merge_patch(&mut spec, &rest);
        spec
    }

    #[test]
    fn expressions_go_with_the_kinds_that_their_policy_is_about() {
        let deployments = |rest: Value| of(&["apps"], &["deployments"], rest);
        let with = |expression: &str| json!({"validations": [{"expression": expression}]});
        for good in [
            "object.spec.replicas > 1 && object.metadata.labels['a'] == 'b'",
            "oldObject == null || object.spec.template.spec.containers.all(c, c.image != '' && !has(c.resources.limits))",
            "quantity(object.spec.template.spec.containers[0].resources.limits['cpu']).isGreaterThan(quantity('1'))",
            "object.spec.template.spec.containers[0].livenessProbe.httpGet.port == 80",
            "object.metadata.creationTimestamp < timestamp('2026-01-01T00:00:00Z')",
            "authorizer.group('').resource('pods').check('get').allowed() && request.userInfo.groups.exists(g, g == 'a')",
        ] {
            assert_eq!(told(deployments(with(good)), &[]), [], "{good}");
        }
        let confused = deployments(json!({"validations": [{"expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}]}));
        let all = told(confused, &[]);
        assert_eq!(all[0].0, "spec.validations[0].expression");
        let begin = "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n";
        assert!(all[0].1.starts_with(begin) && all[0].1.ends_with("^\n"), "{}", all[0].1);
        assert_eq!(all[1].0, "spec.validations[0].messageExpression");
        assert!(all[1].1.contains("found no matching overload for '_+_' applied to '(string, int)'"), "{}", all[1].1);
        // Of each kind that is named, in order; what is about everything, or about subresources, isn't known.
        let several = of(&["", "apps"], &["pods", "deployments", "pods/exec"], with("object.spec.replicas == 1"));
        let all = told(several, &[]);
        assert_eq!(all.len(), 1);
        assert!(all[0].1.starts_with("v1, Kind=Pod: ERROR") && all[0].1.contains("undefined field 'replicas'"));
        assert_eq!(told(of(&["*"], &["pods"], with("object.nothing == 1")), &[]), []);
        assert_eq!(told(of(&[""], &["*"], with("object.nothing == 1")), &[]), []);
        // What a policy computes has the type of what it is computed from.
        let computed = |expression: &str| {
            deployments(json!({"variables": [{"name": "n", "expression": "object.spec.replicas"},
                {"name": "wrong", "expression": "object.spec.replicas + 'a'"}],
                "validations": [{"expression": expression}]}))
        };
        assert_eq!(told(computed("variables.n == 1 && variables.wrong == object.spec.replicas"), &[]), []);
        assert!(told(computed("variables.n == 'a'"), &[])[0].1.contains("applied to '(int, string)'"));
        assert!(told(computed("variables.m == 1"), &[])[0].1.contains("undefined field 'm'"));
        let params = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [{"expression": "params.data.a == 'b' && params.spec.a == 'b'"}]});
        let all = told(deployments(params), &[]);
        assert!(all[0].1.contains("undefined field 'spec'"), "{all:?}");
    }

    #[test]
    fn expressions_go_with_the_schemas_of_definitions() {
        let status = json!({"conditions": [{"type": "Established", "status": "True"}]});
        let definition = json!({"metadata": {"name": "crontabs.stable.example.com"}, "status": status, "spec": {
            "group": "stable.example.com", "scope": "Namespaced", "names": {"kind": "CronTab", "plural": "crontabs"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}]}});
        let definitions = [Definition::read(&definition).unwrap()];
        let spec = json!({"validations": [{"expression": "object.spec.replicas > '1'"},
            {"expression": "object.spec.maxRetries < 10"},
            {"expression": "object.spec.replicas > 1 && object.metadata.labels['a'] == object.kind"}]});
        let all = told(of(&["stable.example.com"], &["crontabs"], spec), &definitions);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].1.starts_with("stable.example.com/v1, Kind=CronTab: ERROR"), "{all:?}");
        assert!(all[1].0 == "spec.validations[1].expression" && all[1].1.contains("undefined field 'maxRetries'"));
    }
}
