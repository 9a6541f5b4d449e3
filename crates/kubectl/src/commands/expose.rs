//! `expose` and `run`

use std::sync::Arc;

use apimachinery::patch::merge_patch;
use apimachinery::yaml;
use bounded::Limits;
use serde_json::{Value, json};

use super::common::{DryRun, each, keep_config, label_map, pause, targets, told, write};
use super::{Command, run, usage};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{Flag, common as f, many, optional_text, switch, text, text_or};
use crate::select::Target;
use crate::workload::selector_of;

const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::DRY_RUN,
    f::FIELD_MANAGER,
    f::SAVE_CONFIG,
    text("labels", "Labels of what is made: k=v,…").short('l'),
    text("overrides", "JSON to merge into what is made"),
    text_or("override-type", "merge", "How --overrides is merged: merge"),
    text("port", "Port"),
];

pub const EXPOSE: Command = Command {
    name: "expose",
    about: "Take a replication controller, service, deployment or pod and expose it as a new Kubernetes service",
    flags: &[
        FLAGS,
        &[
            f::FILENAME,
            f::KUSTOMIZE,
            f::RECURSIVE,
            text("name", "Name of the service"),
            text("selector", "Labels of its pods"),
            text("target-port", "Port of the pods"),
            text("protocol", "TCP, UDP or SCTP"),
            text("type", "ClusterIP, NodePort, LoadBalancer or ExternalName"),
            text("cluster-ip", "Address, or None"),
            text("external-ip", "Further address"),
            text("load-balancer-ip", "Address of the load balancer"),
            text("session-affinity", "None or ClientIP"),
        ],
    ],
    run: run!(expose),
    ..Command::NONE
};

pub const RUN: Command = Command {
    name: "run",
    about: "Run a particular image on the cluster",
    flags: &[
        FLAGS,
        &[
            f::CONTAINER,
            f::POD_RUNNING_TIMEOUT,
            text("image", "Image of the container"),
            text("image-pull-policy", "Always, IfNotPresent or Never"),
            text_or("restart", "Always", "Always, OnFailure or Never"),
            many("env", "Variables: NAME=VALUE"),
            many("annotations", "Annotations: key=value"),
            switch("command", "The words are the command, not its arguments"),
            switch("stdin", "Keep standard input open").short('i'),
            switch("tty", "With a terminal").short('t'),
            switch("attach", "Wait for the pod and attach to it"),
            switch("rm", "Delete the pod at the end"),
            switch("quiet", "Only what the container prints").short('q'),
            switch("privileged", "Privileged container"),
            switch("expose", "With a service for the pod"),
            switch("leave-stdin-open", "Accepted for scripts' sake"),
            text("detach-keys", "Keys that leave the container"),
            text_or("grace-period", "-1", "Seconds to end in"),
            optional_text("cascade", "background", "background", "What becomes of dependents"),
            switch("force", "Delete without waiting"),
            switch("wait", "Wait for the deletion"),
            f::TIMEOUT,
        ],
    ],
    run: run!(run_pod),
    ..Command::NONE
};

async fn expose(cx: Arc<Context>) -> Result<()> {
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    if found.is_empty() && errors.is_empty() {
        return usage(&cx, "no objects passed to expose");
    }
    each(&found, errors, |target| expose_one(&cx, target)).await
}

/// What can be exposed, by group and plural.
const EXPOSED: &[(&str, &str)] =
    &[("", "pods"), ("", "services"), ("", "replicationcontrollers"), ("apps", "deployments"), ("apps", "replicasets")];

async fn expose_one(cx: &Context, target: &Target) -> Result<()> {
    let args = &cx.args;
    if !EXPOSED.iter().any(|(group, plural)| target.resource.is(group, plural)) {
        return fail(format!("cannot expose a {}", target.resource.kind));
    }
    let selector = match args.text("selector") {
        "" => of_labels(target)?,
        text => label_map(text)?,
    };
    let ports = ports(cx, target)?;
    let name = if args.text("name").is_empty() { target.name.as_str() } else { args.text("name") };
    let labels = match args.text("labels") {
        "" => target.object["metadata"]["labels"].clone(),
        text => label_map(text)?,
    };
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": selector}, "status": {"loadBalancer": {}}});
    if labels.as_object().is_some_and(|l| !l.is_empty()) {
        service["metadata"]["labels"] = labels;
    }
    if !ports.is_empty() {
        service["spec"]["ports"] = ports.into();
    }
    for (flag, field) in [
        ("type", "type"),
        ("cluster-ip", "clusterIP"),
        ("load-balancer-ip", "loadBalancerIP"),
        ("session-affinity", "sessionAffinity"),
    ] {
        if !args.text(flag).is_empty() {
            service["spec"][field] = args.text(flag).into();
        }
    }
    if !args.text("external-ip").is_empty() {
        service["spec"]["externalIPs"] = json!([args.text("external-ip")]);
    }
    make(cx, "services", &target.namespace, service, "exposed", "kubectl-expose").await.map(|_| ())
}

/// The labels of the pods that a workload selects.
fn of_labels(target: &Target) -> Result<Value> {
    if target.resource.is("", "pods") {
        let labels = target.object["metadata"]["labels"].clone();
        if labels.as_object().is_none_or(|l| l.is_empty()) {
            return fail(
                "couldn't retrieve selectors via --selector flag or introspection: the pod has no labels and cannot be exposed",
            );
        }
        return Ok(labels);
    }
    if target.object["spec"]["selector"]["matchExpressions"].as_array().is_some_and(|e| !e.is_empty()) {
        return fail(
            "couldn't retrieve selectors via --selector flag or introspection: couldn't convert expressions to map-based selector format",
        );
    }
    label_map(&selector_of(target).unwrap_or_default())
}

fn ports(cx: &Context, target: &Target) -> Result<Vec<Value>> {
    let args = &cx.args;
    let mut found: Vec<(i64, String)> = Vec::new();
    let spec = if target.resource.is("", "pods") {
        &target.object["spec"]
    } else {
        &target.object["spec"]["template"]["spec"]
    };
    if target.resource.is("", "services") {
        found.extend(
            target.object["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|p| (p["port"].as_i64().unwrap_or(0), p["protocol"].as_str().unwrap_or("TCP").to_string())),
        );
    }
    for port in
        spec["containers"].as_array().into_iter().flatten().flat_map(|c| c["ports"].as_array().into_iter().flatten())
    {
        found.push((
            port["containerPort"].as_i64().unwrap_or(0),
            port["protocol"].as_str().unwrap_or("TCP").to_string(),
        ));
    }
    let protocol_of = |number: i64| {
        found.iter().find(|(p, _)| *p == number).map_or("TCP".to_string(), |(_, protocol)| protocol.clone())
    };
    let asked: Vec<i64> = if args.text("port").is_empty() {
        found.iter().map(|(port, _)| *port).collect()
    } else {
        args.text("port")
            .split(',')
            .map(|p| p.parse().map_err(|_| Error::Message(format!("strconv.Atoi: parsing {p:?}: invalid syntax"))))
            .collect::<Result<_>>()?
    };
    if asked.is_empty() && args.text("cluster-ip") != "None" {
        return fail("couldn't find port via --port flag or introspection");
    }
    let many = asked.len() > 1;
    let made = asked.iter().enumerate().map(|(i, port)| {
        let protocol =
            if args.text("protocol").is_empty() { protocol_of(*port) } else { args.text("protocol").to_uppercase() };
        let target_port = match args.text("target-port") {
            "" => Value::from(*port),
            text => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        };
        let mut one = json!({"port": port, "protocol": protocol, "targetPort": target_port});
        if many {
            one["name"] = format!("port-{}", i.saturating_add(1)).into();
        }
        one
    });
    Ok(made.collect())
}

/// Makes an object with what `--overrides` says, and tells of it.
async fn make(
    cx: &Context,
    plural: &str,
    namespace: &str,
    mut object: Value,
    done: &str,
    manager: &str,
) -> Result<Value> {
    let overrides = cx.args.text("overrides");
    if !overrides.is_empty() {
        let patch = yaml::first(overrides.as_bytes(), Limits::FILE)
            .map_err(|error| Error::Message(format!("Invalid JSON Patch: {error}")))?
            .value;
        merge_patch(&mut object, &patch);
    }
    if cx.args.is("save-config") {
        keep_config(&mut object);
    }
    if DryRun::of(cx)? == DryRun::Client {
        if cx.has_explicit_namespace() {
            object["metadata"]["namespace"] = namespace.into();
        }
        if plural == "services" {
            object["metadata"]["namespace"] = namespace.into();
        }
        told(cx, &object, done)?;
        return Ok(object);
    }
    let path = format!("/api/v1/namespaces/{namespace}/{plural}");
    let made = cx.json(write(cx, Call::new("POST", &path).body(&object), manager)?).await?;
    told(cx, &made, done)?;
    Ok(made)
}

/// The pod that `run` makes.
fn pod(cx: &Context, name: &str, words: &[String]) -> Result<Value> {
    let args = &cx.args;
    let restart = args.text("restart");
    if !["Always", "OnFailure", "Never"].contains(&restart) {
        return fail(format!("invalid restart policy: {restart}"));
    }
    let mut container = json!({"name": name, "image": args.text("image"), "resources": {}});
    if !words.is_empty() {
        container[if args.is("command") { "command" } else { "args" }] = json!(words);
    }
    let mut env = Vec::new();
    for pair in args.many("env") {
        let Some((key, value)) = pair.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            return fail(format!("invalid env: {pair}"));
        };
        env.push(json!({"name": key, "value": value}));
    }
    if !env.is_empty() {
        container["env"] = env.into();
    }
    if !args.text("port").is_empty() {
        container["ports"] = json!([{"containerPort": args.number("port")?}]);
    }
    if !args.text("image-pull-policy").is_empty() {
        container["imagePullPolicy"] = args.text("image-pull-policy").into();
    }
    if args.is("privileged") {
        container["securityContext"] = json!({"privileged": true});
    }
    if args.is("stdin") {
        container["stdin"] = true.into();
        container["stdinOnce"] = true.into();
    }
    if args.is("tty") {
        container["tty"] = true.into();
    }
    let labels = if args.text("labels").is_empty() { json!({"run": name}) } else { label_map(args.text("labels"))? };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": restart, "dnsPolicy": "ClusterFirst"}, "status": {}});
    for pair in args.many("annotations") {
        let Some((key, value)) = pair.split_once('=') else { return fail(format!("unexpected annotation: {pair}")) };
        pod["metadata"]["annotations"][key] = value.into();
    }
    Ok(pod)
}

async fn run_pod(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let Some((name, rest)) = args.words.split_first() else { return fail("NAME is required for run") };
    if args.text("image").is_empty() {
        return fail("required flag(s) \"image\" not set");
    }
    if args.text("image").contains([' ', '\t']) || args.text("image").ends_with(':') {
        return fail(format!("Invalid image name {:?}: invalid reference format", args.text("image")));
    }
    if args.is("tty") && !args.is("stdin") {
        return fail("-i/--stdin is required for containers with -t/--tty=true");
    }
    let attaches = args.is("attach") || args.is("stdin");
    if args.is("rm") && !attaches {
        return fail("--rm should only be used for attached containers");
    }
    if args.is("expose") && args.text("port").is_empty() {
        return fail("--port must be set when exposing a service");
    }
    let words: Vec<String> = rest.iter().cloned().chain(args.after_dash.clone().unwrap_or_default()).collect();
    let namespace = cx.namespace()?;
    let pod = pod(&cx, name, &words)?;
    let labels = pod["metadata"]["labels"].clone();
    if args.is("expose") {
        let port = args.number("port")?;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": port, "protocol": "TCP", "targetPort": port}]}, "status": {"loadBalancer": {}}});
        make(&cx, "services", &namespace, service, "created", "kubectl-run").await?;
    }
    if !attaches || DryRun::of(&cx)? != DryRun::No {
        return make(&cx, "pods", &namespace, pod, "created", "kubectl-run").await.map(|_| ());
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let made = cx.json(write(&cx, Call::new("POST", &path).body(&pod), "kubectl-run")?).await?;
    let outcome = attached(&cx, &made).await;
    if args.is("rm") {
        let path = format!("{path}/{}", made["metadata"]["name"].as_str().unwrap_or(name));
        cx.send(Call::new("DELETE", &path)).await?;
        if !args.is("quiet") {
            crate::print::line(&format!("pod {:?} deleted from {namespace} namespace", name))?;
        }
    }
    outcome
}

/// Waits until a pod runs, attaches to it, and ends as its container ends.
async fn attached(cx: &Context, pod: &Value) -> Result<()> {
    let metadata = &pod["metadata"];
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}",
        metadata["namespace"].as_str().unwrap_or(""),
        metadata["name"].as_str().unwrap_or("")
    );
    let limit = cx.args.duration("pod-running-timeout")?;
    let begun = std::time::Instant::now();
    let current = loop {
        let current = cx.get(&path).await?;
        if current["status"]["phase"] != "Pending" {
            break current;
        }
        if begun.elapsed().as_nanos() > u128::from(limit.unsigned_abs()) {
            return fail("timed out waiting for the condition");
        }
        pause().await;
    };
    if current["status"]["phase"] == "Running" {
        if !cx.args.is("quiet") {
            eprintln!(
                "All commands and output from this session will be recorded in container logs, including credentials and sensitive information passed through the command prompt."
            );
            eprintln!("If you don't see a command prompt, try pressing enter.");
        }
        super::exec::into(cx, &current, None).await?;
    } else {
        let log = crate::client::read(cx.send(Call::new("GET", &format!("{path}/log"))).await?).await?;
        crate::print::say(&String::from_utf8_lossy(&log))?;
    }
    loop {
        let current = cx.get(&path).await?;
        let status = &current["status"]["containerStatuses"][0];
        if let Some(code) = status["state"]["terminated"]["exitCode"].as_i64() {
            return if code == 0 { Ok(()) } else { Err(Error::Exit(u8::try_from(code).unwrap_or(1))) };
        }
        if current["status"]["phase"] == "Running" && current["spec"]["restartPolicy"] != "Never" {
            return Ok(());
        }
        pause().await;
    }
}
