//! The kinds of `gateway.networking.k8s.io`, the fields of its standard channel.
//!
//! Source: <https://gateway-api.sigs.k8s.io/reference/spec/>

use gateway::kinds::GROUP;
use serde_json::{Value, json};

use crate::toolkit::definitions::{Kind, definition, fixed, keyed_list, list, object, one_of, text, texts};

const APPROVED: &str = "https://github.com/kubernetes-sigs/gateway-api/pull/3328";
const NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const HOST: &str = "^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// A field with a default.
fn or(mut schema: Value, default: Value) -> Value {
    schema["default"] = default;
    schema
}

fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": pattern})
}

fn port() -> Value {
    json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535})
}

fn duration() -> Value {
    json!({"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"})
}

fn at_most(mut list: Value, most: u32) -> Value {
    list["maxItems"] = most.into();
    list
}

/// Rules of the schema: what must hold, and what is said if it doesn't.
fn with_rules(mut schema: Value, rules: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect();
    schema["x-kubernetes-validations"] = rules.into();
    schema
}

fn conditions() -> Value {
    let time = json!({"type": "string", "format": "date-time"});
    let status = one_of(&["True", "False", "Unknown"]);
    let condition = object(
        json!({"type": text(), "status": status, "reason": text(), "message": text(), "lastTransitionTime": time,
               "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0}}),
        &["type", "status", "reason", "message", "lastTransitionTime"],
    );
    at_most(keyed_list(condition, "type"), 8)
}

/// A reference to an object, of a kind if nothing else is said.
fn reference(group: &str, kind: &str) -> Value {
    json!({"group": or(text(), group.into()), "kind": or(text(), kind.into()), "namespace": pattern(NAME), "name": pattern(NAME)})
}

fn parent() -> Value {
    let mut properties = reference(GROUP, "Gateway");
    properties["sectionName"] = pattern(NAME);
    properties["port"] = port();
    object(properties, &["name"])
}

fn listeners() -> Value {
    let selector = json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
        "matchLabels": texts(),
        "matchExpressions": list(object(json!({"key": text(), "operator": text(), "values": list(text())}), &["key", "operator"]))}});
    let from = or(one_of(&["All", "Selector", "Same", "None"]), "Same".into());
    let namespaces = or(object(json!({"from": from, "selector": selector}), &[]), json!({"from": "Same"}));
    let kinds = at_most(list(object(json!({"group": or(text(), GROUP.into()), "kind": text()}), &["kind"])), 8);
    let allowed =
        or(object(json!({"namespaces": namespaces, "kinds": kinds}), &[]), json!({"namespaces": {"from": "Same"}}));
    let certificates = at_most(list(object(reference("", "Secret"), &["name"])), 64);
    let mode = or(one_of(&["Terminate", "Passthrough"]), "Terminate".into());
    let tls = object(json!({"mode": mode, "certificateRefs": certificates, "options": texts()}), &[]);
    let listener = object(
        json!({"name": pattern(NAME), "hostname": pattern(HOST), "port": port(), "protocol": text(), "tls": tls, "allowedRoutes": allowed}),
        &["name", "port", "protocol"],
    );
    let mut all = with_rules(
        at_most(keyed_list(listener, "name"), 64),
        &[
            (
                "self.all(l, l.protocol in ['HTTP', 'TCP', 'UDP'] ? !has(l.tls) : true)",
                "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
            ),
            (
                "self.all(l, (l.protocol == 'HTTPS' && has(l.tls)) ? (l.tls.mode == '' || l.tls.mode == 'Terminate') : true)",
                "tls mode must be Terminate for protocol HTTPS",
            ),
        ],
    );
    all["minItems"] = 1.into();
    all
}

fn gateway() -> Value {
    let kind = or(text(), "IPAddress".into());
    let address = object(json!({"type": kind, "value": text()}), &[]);
    let group_kind = object(json!({"group": or(text(), GROUP.into()), "kind": text()}), &["kind"]);
    let number = json!({"type": "integer", "format": "int32"});
    let listener = object(
        json!({"name": text(), "attachedRoutes": number, "supportedKinds": list(group_kind), "conditions": conditions()}),
        &["name", "attachedRoutes", "conditions"],
    );
    let infrastructure = object(
        json!({"labels": texts(), "annotations": texts(),
        "parametersRef": object(json!({"group": text(), "kind": text(), "name": text()}), &["group", "kind", "name"])}),
        &[],
    );
    json!({
        "spec": object(json!({"gatewayClassName": pattern(NAME), "listeners": listeners(),
            "addresses": at_most(list(address.clone()), 16), "infrastructure": infrastructure}), &["gatewayClassName", "listeners"]),
        "status": object(json!({"addresses": at_most(list(address), 16), "conditions": conditions(),
            "listeners": at_most(keyed_list(listener, "name"), 64)}), &[])})
}

fn filters() -> Value {
    let header = object(json!({"name": text(), "value": text()}), &["name", "value"]);
    let some = || at_most(keyed_list(header.clone(), "name"), 16);
    let modifier = || object(json!({"set": some(), "add": some(), "remove": at_most(list(text()), 16)}), &[]);
    let path = || {
        object(
            json!({"type": one_of(&["ReplaceFullPath", "ReplacePrefixMatch"]), "replaceFullPath": text(), "replacePrefixMatch": text()}),
            &["type"],
        )
    };
    let code = or(json!({"type": "integer", "enum": [301, 302, 303, 307, 308]}), 302.into());
    let redirect = object(
        json!({"scheme": one_of(&["http", "https"]), "hostname": pattern(HOST), "path": path(),
        "port": port(), "statusCode": code}),
        &[],
    );
    let rewrite = object(json!({"hostname": pattern(HOST), "path": path()}), &[]);
    let mut backend = reference("", "Service");
    backend["port"] = port();
    let mirror = object(
        json!({"backendRef": object(backend, &["name"]), "percent": {"type": "integer"},
        "fraction": object(json!({"numerator": {"type": "integer"}, "denominator": {"type": "integer"}}), &[])}),
        &["backendRef"],
    );
    let extension = object(json!({"group": text(), "kind": text(), "name": text()}), &["group", "kind", "name"]);
    let kinds = [
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestMirror",
        "RequestRedirect",
        "URLRewrite",
        "ExtensionRef",
    ];
    let filter = object(
        json!({"type": one_of(&kinds), "requestHeaderModifier": modifier(), "responseHeaderModifier": modifier(),
               "requestRedirect": redirect, "urlRewrite": rewrite, "requestMirror": mirror, "extensionRef": extension}),
        &["type"],
    );
    let fields = [
        "requestHeaderModifier",
        "responseHeaderModifier",
        "requestMirror",
        "requestRedirect",
        "urlRewrite",
        "extensionRef",
    ];
    let rules: Vec<(String, String)> = kinds
        .iter()
        .zip(fields)
        .map(|(kind, field)| {
            (
                format!("has(self.{field}) == (self.type == '{kind}')"),
                format!("filter.{field} must be set if, and only if, filter.type is {kind}"),
            )
        })
        .collect();
    let rules: Vec<(&str, &str)> = rules.iter().map(|(rule, message)| (rule.as_str(), message.as_str())).collect();
    at_most(list(with_rules(filter, &rules)), 16)
}

fn route() -> Value {
    let named = |kinds: &[&str]| {
        object(json!({"type": or(one_of(kinds), "Exact".into()), "name": text(), "value": text()}), &["name", "value"])
    };
    let kinds = ["Exact", "RegularExpression"];
    let path = object(
        json!({"type": or(one_of(&["Exact", "PathPrefix", "RegularExpression"]), "PathPrefix".into()),
        "value": or(json!({"type": "string", "maxLength": 1024}), "/".into())}),
        &[],
    );
    let path = with_rules(
        path,
        &[(
            "self.type == 'RegularExpression' || self.value.startsWith('/')",
            "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
        )],
    );
    let prefix = json!({"type": "PathPrefix", "value": "/"});
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let matches = object(
        json!({"path": or(path, prefix.clone()), "headers": at_most(keyed_list(named(&kinds), "name"), 16),
               "queryParams": at_most(keyed_list(named(&kinds), "name"), 16), "method": one_of(&methods)}),
        &[],
    );
    let mut backend = reference("", "Service");
    backend["port"] = port();
    backend["weight"] = or(json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 1_000_000}), 1.into());
    backend["filters"] = filters();
    let timeouts = object(json!({"request": duration(), "backendRequest": duration()}), &[]);
    let rule = object(
        json!({"name": text(), "matches": or(at_most(list(matches), 64), json!([{"path": prefix.clone()}])), "filters": filters(),
               "backendRefs": at_most(list(object(backend, &["name"])), 16), "timeouts": timeouts}),
        &[],
    );
    let rule = with_rules(
        rule,
        &[(
            "!(has(self.backendRefs) && self.backendRefs.size() > 0 && has(self.filters) && self.filters.exists(f, has(f.requestRedirect)))",
            "RequestRedirect filter must not be used together with backendRefs",
        )],
    );
    let rules = or(at_most(list(rule), 16), json!([{"matches": [{"path": prefix}]}]));
    let of_parent = object(
        json!({"parentRef": parent(), "controllerName": text(), "conditions": conditions()}),
        &["parentRef", "controllerName", "conditions"],
    );
    json!({
        "spec": object(json!({"parentRefs": at_most(list(parent()), 32), "hostnames": at_most(list(pattern(HOST)), 16), "rules": rules}), &[]),
        "status": object(json!({"parents": at_most(list(of_parent), 32)}), &["parents"])})
}

fn grant() -> Value {
    let from =
        object(json!({"group": text(), "kind": text(), "namespace": pattern(NAME)}), &["group", "kind", "namespace"]);
    let to = object(json!({"group": text(), "kind": text(), "name": pattern(NAME)}), &["group", "kind"]);
    json!({"spec": object(json!({"from": at_most(list(from), 16), "to": at_most(list(to), 16)}), &["from", "to"])})
}

pub fn kinds() -> [Value; 4] {
    let of = |kind, plural, short, version, namespaced, properties, columns| {
        definition(Kind {
            group: GROUP,
            version,
            approved: APPROVED,
            kind,
            plural,
            short,
            namespaced,
            properties,
            required: &["spec"],
            columns,
        })
    };
    let class = json!({
        "spec": object(json!({"controllerName": fixed(text(), "controllerName"), "description": text(),
            "parametersRef": object(json!({"group": text(), "kind": text(), "name": text(), "namespace": text()}), &["group", "kind", "name"])}),
            &["controllerName"]),
        "status": object(json!({"conditions": conditions(), "supportedFeatures": list(object(json!({"name": text()}), &["name"]))}), &[])});
    [
        of(
            "GatewayClass",
            "gatewayclasses",
            &["gc"],
            "v1",
            false,
            class,
            &[
                ("Controller", "string", ".spec.controllerName"),
                ("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].status"),
            ],
        ),
        of(
            "Gateway",
            "gateways",
            &["gtw"],
            "v1",
            true,
            gateway(),
            &[
                ("Class", "string", ".spec.gatewayClassName"),
                ("Address", "string", ".status.addresses[*].value"),
                ("Programmed", "string", ".status.conditions[?(@.type==\"Programmed\")].status"),
            ],
        ),
        of("HTTPRoute", "httproutes", &[], "v1", true, route(), &[("Hostnames", "string", ".spec.hostnames")]),
        of("ReferenceGrant", "referencegrants", &["refgrant"], "v1beta1", true, grant(), &[]),
    ]
}
