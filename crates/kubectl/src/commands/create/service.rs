//! `create service clusterip|nodeport|loadbalancer|externalname`

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{Command, run};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{Flag, list, text, text_or};

const PORTS: &[Flag] = &[list("tcp", "Ports: port[:target]")];

pub const COMMAND: Command = Command {
    name: "service",
    aliases: &["svc"],
    about: "Create a service using a specified subcommand",
    commands: &[&CLUSTER_IP, &NODE_PORT, &LOAD_BALANCER, &EXTERNAL_NAME],
    ..Command::NONE
};

const CLUSTER_IP: Command = Command {
    name: "clusterip",
    about: "Create a ClusterIP service",
    flags: &[FLAGS, PORTS, &[text("clusterip", "Address, or None")]],
    run: run!(create),
    ..Command::NONE
};

const NODE_PORT: Command = Command {
    name: "nodeport",
    about: "Create a NodePort service",
    flags: &[FLAGS, PORTS, &[text_or("node-port", "0", "Port of the nodes")]],
    run: run!(create),
    ..Command::NONE
};

const LOAD_BALANCER: Command = Command {
    name: "loadbalancer",
    about: "Create a LoadBalancer service",
    flags: &[FLAGS, PORTS],
    run: run!(create),
    ..Command::NONE
};

const EXTERNAL_NAME: Command = Command {
    name: "externalname",
    about: "Create an ExternalName service",
    flags: &[FLAGS, PORTS, &[text("external-name", "Name to which the service leads")]],
    run: run!(create),
    ..Command::NONE
};

async fn create(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let kind = match cx.args.command.rsplit(' ').next().unwrap_or("") {
        "nodeport" => "NodePort",
        "loadbalancer" => "LoadBalancer",
        "externalname" => "ExternalName",
        _ => "ClusterIP",
    };
    let headless = cx.args.text("clusterip") == "None";
    let ports = ports(&cx)?;
    if ports.is_empty() && kind != "ExternalName" && !headless {
        return fail("at least one tcp port specifier must be provided");
    }
    let labels = json!({"app": name});
    let mut spec = json!({"type": kind, "selector": labels});
    if !ports.is_empty() {
        spec["ports"] = ports.into();
    }
    if !cx.args.text("clusterip").is_empty() {
        spec["clusterIP"] = cx.args.text("clusterip").into();
    }
    if kind == "ExternalName" {
        if cx.args.text("external-name").is_empty() {
            return fail("required flag(s) \"external-name\" not set");
        }
        spec["externalName"] = cx.args.text("external-name").into();
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"loadBalancer": {}}});
    finish(&cx, "services", true, service).await
}

fn ports(cx: &Context) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for text in cx.args.many("tcp") {
        let (port, target) = text.split_once(':').unwrap_or((text, text));
        let number = |t: &str| t.parse::<u16>().ok().filter(|p| *p > 0);
        let Some(port) = number(port) else {
            return fail(format!("strconv.Atoi: parsing {port:?}: invalid syntax"));
        };
        let target = number(target).map_or_else(|| Value::from(target), Value::from);
        let port_name = text.replace(':', "-");
        let mut one = json!({"name": port_name, "port": port, "targetPort": target, "protocol": "TCP"});
        let node_port = if cx.args.given("node-port") { cx.args.number("node-port")? } else { 0 };
        if node_port > 0 {
            one["nodePort"] = node_port.into();
        }
        all.push(one);
    }
    Ok(all)
}
