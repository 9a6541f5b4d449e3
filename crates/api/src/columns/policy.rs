//! Kinds of the smaller groups: networking, RBAC, leases, certificates and the like.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, Printer, Shape, age, int, name, number, or_none, selector, text, wide};

pub fn printer(plural: &str) -> Option<Printer> {
    let (columns, row): Shape = match plural {
        "ingresses" => (const { &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE] }, ingress),
        "ingressclasses" => (const { &[NAME, text("Controller"), text("Parameters"), AGE] }, |o, now| {
            let parameters = match o.str_at(&["spec", "parameters", "kind"]) {
                "" => or_none(""),
                kind => format!("{kind}/{}", o.str_at(&["spec", "parameters", "name"])).into(),
            };
            vec![name(o), o.str_at(&["spec", "controller"]).into(), parameters, age(o, now)]
        }),
        "networkpolicies" => (const { &[NAME, text("Pod-Selector"), AGE] }, |o, now| {
            vec![name(o), selector(&o["spec"]["podSelector"]), age(o, now)]
        }),
        "endpointslices" => {
            (const { &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE] }, endpoint_slice)
        }
        "leases" => (const { &[NAME, text("Holder"), AGE] }, |o, now| {
            vec![name(o), o.str_at(&["spec", "holderIdentity"]).into(), age(o, now)]
        }),
        "clusterrolebindings" | "rolebindings" => {
            (const { &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")] }, binding)
        }
        "priorityclasses" => {
            (const { &[NAME, number("Value"), text("Global-Default"), AGE, text("PreemptionPolicy")] }, |o, now| {
                vec![
                    name(o),
                    json!(int(o, &["value"])),
                    json!(o["globalDefault"] == true),
                    age(o, now),
                    o.str_at(&["preemptionPolicy"]).into(),
                ]
            })
        }
        "runtimeclasses" => (const { &[NAME, text("Handler"), AGE] }, |o, now| {
            vec![name(o), o.str_at(&["handler"]).into(), age(o, now)]
        }),
        "flowschemas" => (FLOW_SCHEMA, |o, now| {
            let missing = o.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
            vec![
                name(o),
                o.str_at(&["spec", "priorityLevelConfiguration", "name"]).into(),
                json!(int(o, &["spec", "matchingPrecedence"])),
                or_none(o.str_at(&["spec", "distinguisherMethod", "type"])),
                age(o, now),
                missing.map_or("?", |c| c.str_at(&["status"])).into(),
            ]
        }),
        "prioritylevelconfigurations" => (PRIORITY_LEVEL, |o, now| {
            let kind = o.str_at(&["spec", "type"]);
            let of = if kind == "Exempt" { "exempt" } else { "limited" };
            let number = |path: &[&str]| match o.at(path).as_i64() {
                Some(n) => n.to_string().into(),
                None => or_none(""),
            };
            let queuing = |field| number(&["spec", "limited", "limitResponse", "queuing", field]);
            vec![
                name(o),
                kind.into(),
                number(&["spec", of, "nominalConcurrencyShares"]),
                queuing("queues"),
                queuing("handSize"),
                queuing("queueLengthLimit"),
                age(o, now),
            ]
        }),
        "poddisruptionbudgets" => (BUDGET, |o, now| {
            let of = |field: &str| match o.at(&["spec", field]) {
                Value::Null => "N/A".to_string(),
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            let allowed = json!(int(o, &["status", "disruptionsAllowed"]));
            vec![name(o), of("minAvailable").into(), of("maxUnavailable").into(), allowed, age(o, now)]
        }),
        "certificatesigningrequests" => (CSR, csr),
        "customresourcedefinitions" => {
            (const { &[NAME, Column { name: "Created At", kind: "date", wide: false }] }, |o, _| {
                vec![name(o), o.at(&["metadata", "creationTimestamp"]).clone()]
            })
        }
        "apiservices" => (const { &[NAME, text("Service"), text("Available"), AGE] }, |o, now| {
            let service = match o.str_at(&["spec", "service", "name"]) {
                "" => "Local".to_string(),
                service => format!("{}/{service}", o.str_at(&["spec", "service", "namespace"])),
            };
            let available = o.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Available");
            let available = available.map_or("Unknown", |c| c.str_at(&["status"]));
            vec![name(o), service.into(), available.into(), age(o, now)]
        }),
        _ => return None,
    };
    Some(Printer { columns, row })
}

const FLOW_SCHEMA: &[Column] =
    &[NAME, text("PriorityLevel"), number("MatchingPrecedence"), text("DistinguisherMethod"), AGE, text("MissingPL")];
const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    text("Type"),
    text("NominalConcurrencyShares"),
    text("Queues"),
    text("HandSize"),
    text("QueueLengthLimit"),
    AGE,
];
const BUDGET: &[Column] = &[NAME, text("Min Available"), text("Max Unavailable"), number("Allowed Disruptions"), AGE];

fn ingress(o: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<&str> =
        o.array_at(&["spec", "rules"]).iter().map(|r| r.str_at(&["host"])).filter(|h| !h.is_empty()).collect();
    let addresses: Vec<&str> = o
        .array_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| if i.str_at(&["ip"]).is_empty() { i.str_at(&["hostname"]) } else { i.str_at(&["ip"]) })
        .collect();
    let ports = if o.array_at(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        name(o),
        or_none(o.str_at(&["spec", "ingressClassName"])),
        if hosts.is_empty() { "*".into() } else { hosts.join(",").into() },
        addresses.join(",").into(),
        ports.into(),
        age(o, now),
    ]
}

fn endpoint_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = o.array_at(&["ports"]).iter().map(|p| int(p, &["port"]).to_string()).collect();
    let addresses: Vec<&str> = o.array_at(&["endpoints"]).iter().flat_map(|e| e.strings_at(&["addresses"])).collect();
    let shown = match addresses.len() {
        0 => "<unset>".to_string(),
        n if n > 3 => format!("{} + {} more...", addresses[..3].join(","), n - 3),
        _ => addresses.join(","),
    };
    let ports = if ports.is_empty() { "<unset>".to_string() } else { ports.join(",") };
    vec![name(o), o.str_at(&["addressType"]).into(), ports.into(), shown.into(), age(o, now)]
}

fn binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"]));
    let of = |kind: &str| -> Value {
        let names =
            o.array_at(&["subjects"]).iter().filter(|s| s["kind"] == kind).map(|s| match s.str_at(&["namespace"]) {
                "" => s.str_at(&["name"]).to_string(),
                namespace => format!("{namespace}/{}", s.str_at(&["name"])),
            });
        names.collect::<Vec<_>>().join(", ").into()
    };
    vec![name(o), role.into(), age(o, now), of("User"), of("Group"), of("ServiceAccount")]
}

const CSR: &[Column] =
    &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")];

fn csr(o: &Value, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| o.array_at(&["status", "conditions"]).iter().any(|c| c["type"] == kind);
    let mut condition = if has("Denied") {
        "Denied".to_string()
    } else if has("Approved") {
        "Approved".into()
    } else {
        "Pending".into()
    };
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !o.str_at(&["status", "certificate"]).is_empty() {
        condition.push_str(",Issued");
    }
    let duration = o.i64_at(&["spec", "expirationSeconds"]);
    let duration = duration
        .map(|s| apimachinery::clock::human_duration(jiff::SignedDuration::from_secs(s)))
        .unwrap_or_else(|| "<none>".into());
    vec![
        name(o),
        age(o, now),
        o.str_at(&["spec", "signerName"]).into(),
        o.str_at(&["spec", "username"]).into(),
        duration.into(),
        condition.into(),
    ]
}
