//! `create ingress`

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::{Command, run};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{many, text};

pub const COMMAND: Command = Command {
    name: "ingress",
    aliases: &["ing"],
    about: "Create an ingress with the specified name",
    flags: &[
        FLAGS,
        &[
            text("class", "Ingress class"),
            many("rule", "host/path=service:port[,tls[=secret]]"),
            text("default-backend", "service:port"),
            many("annotation", "Annotations: key=value"),
        ],
    ],
    run: run!(create),
    ..Command::NONE
};

async fn create(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let rules = cx.args.many("rule");
    if rules.is_empty() && cx.args.text("default-backend").is_empty() {
        return fail(
            "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)",
        );
    }
    let mut metadata = json!({"name": name});
    for annotation in cx.args.many("annotation") {
        let Some((key, value)) = annotation.split_once('=') else {
            return fail(format!("annotation {annotation} is invalid and should be in format key=[value]"));
        };
        metadata["annotations"][key] = value.into();
    }
    let mut spec = json!({});
    if !cx.args.text("class").is_empty() {
        spec["ingressClassName"] = cx.args.text("class").into();
    }
    if !cx.args.text("default-backend").is_empty() {
        spec["defaultBackend"] = backend(cx.args.text("default-backend"))?;
    }
    let (made, tls) = hosts(rules)?;
    if !made.is_empty() {
        spec["rules"] = made.into();
    }
    if !tls.is_empty() {
        spec["tls"] = tls.into();
    }
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec, "status": {"loadBalancer": {}}});
    finish(&cx, "ingresses", true, ingress).await
}

fn backend(text: &str) -> Result<Value> {
    let Some((service, port)) = text.split_once(':').filter(|(s, p)| !s.is_empty() && !p.is_empty()) else {
        return fail("default-backend should be in format servicename:serviceport");
    };
    let port = port.parse::<u16>().map_or_else(|_| json!({"name": port}), |number| json!({"number": number}));
    Ok(json!({"service": {"name": service, "port": port}}))
}

fn hosts(rules: &[String]) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut made: Vec<(String, Vec<Value>)> = Vec::new();
    let mut tls: Vec<Value> = Vec::new();
    for rule in rules {
        let wrong =
            || fail(format!("rule {rule} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"));
        let (target, options) = rule.split_once(',').map_or((rule.as_str(), None), |(t, o)| (t, Some(o)));
        let Some((place, to)) = target.split_once('=') else { return wrong() };
        let Some((host, path)) = place.split_once('/') else { return wrong() };
        let Ok(backend) = backend(to) else { return wrong() };
        let (path, kind) = match path.strip_suffix('*') {
            Some(prefix) => (format!("/{prefix}"), "Prefix"),
            None => (format!("/{path}"), "Exact"),
        };
        let entry = json!({"path": path, "pathType": kind, "backend": backend});
        match made.iter_mut().find(|(known, _)| known == host) {
            Some((_, paths)) => paths.push(entry),
            None => made.push((host.into(), vec![entry])),
        }
        if let Some(options) = options {
            let secret = options.strip_prefix("tls=").unwrap_or("");
            if !options.starts_with("tls") {
                return wrong();
            }
            let mut one = Map::new();
            if !host.is_empty() {
                one.insert("hosts".into(), json!([host]));
            }
            if !secret.is_empty() {
                one.insert("secretName".into(), secret.into());
            }
            tls.push(Value::Object(one));
        }
    }
    let rule = |(host, paths): (String, Vec<Value>)| {
        let mut rule = json!({"http": {"paths": paths}});
        if !host.is_empty() {
            rule["host"] = host.into();
        }
        rule
    };
    Ok((made.into_iter().map(rule).collect(), tls))
}
