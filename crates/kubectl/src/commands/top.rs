//! `top node`, `top pod`

use std::sync::Arc;

use apimachinery::quantity::Quantity;
use serde_json::Value;

use super::{Command, run};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{Flag, common as f, switch, switched_on, text};
use crate::print::{say, tabwriter};

pub const COMMAND: Command =
    Command { name: "top", about: "Display resource (CPU/memory) usage", commands: &[&NODE, &POD], ..Command::NONE };

const FLAGS: &[Flag] = &[
    f::SELECTOR,
    switch("no-headers", "Without the names of the columns"),
    text("sort-by", "cpu or memory"),
    switched_on("use-protocol-buffers", "Accepted for scripts' sake"),
];

const NODE: Command = Command {
    name: "node",
    aliases: &["nodes", "no"],
    about: "Display resource (CPU/memory) usage of nodes",
    flags: &[FLAGS, &[switch("show-capacity", "Shares of the capacity, not of what is allocatable")]],
    run: run!(node),
    ..Command::NONE
};
const POD: Command = Command {
    name: "pod",
    aliases: &["pods", "po"],
    about: "Display resource (CPU/memory) usage of pods",
    flags: &[
        FLAGS,
        &[
            f::ALL_NAMESPACES,
            f::FIELD_SELECTOR,
            switch("containers", "Of each container"),
            switch("sum", "With the sum of all"),
        ],
    ],
    run: run!(pod),
    ..Command::NONE
};

const ROOT: &str = "/apis/metrics.k8s.io/v1beta1";

fn unavailable(error: Error) -> Error {
    if error.is_not_found() && !error.text().contains('"') {
        Error::Message("Metrics API not available".into())
    } else {
        error
    }
}

async fn usage(cx: &Context, list: &str, one: &str) -> Result<Vec<Value>> {
    if !["", "cpu", "memory"].contains(&cx.args.text("sort-by")) {
        return fail("--sort-by accepts only cpu or memory");
    }
    if let Some(name) = cx.args.words.first() {
        if !cx.args.text("selector").is_empty() {
            return fail("only one of NAME or --selector can be provided");
        }
        return Ok(vec![cx.get(&format!("{one}/{name}")).await.map_err(unavailable)?]);
    }
    let call = Call::new("GET", list)
        .maybe("labelSelector", cx.args.text("selector"))
        .maybe("fieldSelector", cx.args.text("field-selector"));
    let found = cx.json(call).await.map_err(unavailable)?;
    Ok(found["items"].as_array().cloned().unwrap_or_default())
}

/// In thousandths of a CPU, and in bytes.
fn amounts(usage: &Value) -> (i64, i64) {
    let of = |name: &str| Quantity::from_json(&usage[name]);
    (of("cpu").map_or(0, Quantity::milli), of("memory").map_or(0, Quantity::value))
}

/// A name, what it uses, and more.
type Row<T> = (String, (i64, i64), T);

/// The order of `--sort-by`: the largest first, else by name.
fn sorted<T>(cx: &Context, rows: &mut [Row<T>]) {
    match cx.args.text("sort-by") {
        "cpu" => rows.sort_by_key(|row| std::cmp::Reverse(row.1.0)),
        "memory" => rows.sort_by_key(|row| std::cmp::Reverse(row.1.1)),
        _ => rows.sort_by(|a, b| a.0.cmp(&b.0)),
    }
}

const MEBI: i64 = 1 << 20;

async fn node(cx: Arc<Context>) -> Result<()> {
    let list = format!("{ROOT}/nodes");
    let found = usage(&cx, &list, &list).await?;
    let nodes = cx.get("/api/v1/nodes").await?;
    let field = if cx.args.is("show-capacity") { "capacity" } else { "allocatable" };
    let mut rows: Vec<Row<(i64, i64)>> = Vec::new();
    for metrics in &found {
        let name = metrics["metadata"]["name"].as_str().unwrap_or("").to_string();
        let own = nodes["items"].as_array().into_iter().flatten().find(|n| n["metadata"]["name"] == name.as_str());
        let whole = own.map_or((0, 0), |n| amounts(&n["status"][field]));
        rows.push((name, amounts(&metrics["usage"]), whole));
    }
    sorted(&cx, &mut rows);
    let mut out = if cx.args.is("no-headers") {
        String::new()
    } else {
        "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\n".into()
    };
    let share = |used: i64, whole: i64| {
        if whole == 0 { "<unknown>".into() } else { format!("{}%", i128::from(used) * 100 / i128::from(whole)) }
    };
    for (name, (cpu, memory), whole) in rows {
        out += &format!("{name}\t{cpu}m\t{}\t{}Mi\t{}\n", share(cpu, whole.0), memory / MEBI, share(memory, whole.1));
    }
    say(&tabwriter::format(&out, tabwriter::TABLE, None))
}

async fn pod(cx: Arc<Context>) -> Result<()> {
    let everywhere = cx.args.is("all-namespaces");
    let namespace = cx.namespace()?;
    let own = format!("{ROOT}/namespaces/{namespace}/pods");
    let list = if everywhere { format!("{ROOT}/pods") } else { own.clone() };
    let found = usage(&cx, &list, &own).await?;
    if found.is_empty() {
        return nothing(&cx, everywhere, &namespace).await;
    }
    let by_container = cx.args.is("containers");
    let mut rows: Vec<Row<String>> = Vec::new();
    for metrics in &found {
        let text = |field: &str| metrics["metadata"][field].as_str().unwrap_or("").to_string();
        let (name, place) = (text("name"), if everywhere { text("namespace") + "\t" } else { String::new() });
        let containers: Vec<(String, (i64, i64))> = metrics["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| (c["name"].as_str().unwrap_or("").to_string(), amounts(&c["usage"])))
            .collect();
        if by_container {
            rows.extend(
                containers
                    .into_iter()
                    .map(|(container, used)| (format!("{place}{name}\t{container}"), used, String::new())),
            );
            continue;
        }
        let sum = containers.iter().fold((0_i64, 0_i64), |(cpu, memory), (_, used)| {
            (cpu.saturating_add(used.0), memory.saturating_add(used.1))
        });
        rows.push((format!("{place}{name}"), sum, String::new()));
    }
    sorted(&cx, &mut rows);
    let mut out = String::new();
    if !cx.args.is("no-headers") {
        out += &format!(
            "{}{}\tCPU(cores)\tMEMORY(bytes)\n",
            if everywhere { "NAMESPACE\t" } else { "" },
            if by_container { "POD\tNAME" } else { "NAME" }
        );
    }
    let mut total = (0_i64, 0_i64);
    for (name, (cpu, memory), _) in rows {
        total = (total.0.saturating_add(cpu), total.1.saturating_add(memory));
        out += &format!("{name}\t{cpu}m\t{}Mi\n", memory / MEBI);
    }
    if cx.args.is("sum") {
        let empty = "\t".repeat(usize::from(everywhere).saturating_add(usize::from(by_container)));
        out += &format!("{empty}\t________\t________\n{empty}\t{}m\t{}Mi\n", total.0, total.1 / MEBI);
    }
    say(&tabwriter::format(&out, tabwriter::TABLE, None))
}

/// Without metrics there are no pods, or nobody has measured them yet.
async fn nothing(cx: &Context, everywhere: bool, namespace: &str) -> Result<()> {
    let path = if everywhere { "/api/v1/pods".to_string() } else { format!("/api/v1/namespaces/{namespace}/pods") };
    let call = Call::new("GET", &path).query("limit", "1").maybe("labelSelector", cx.args.text("selector"));
    if cx.json(call).await?["items"].as_array().is_some_and(|all| !all.is_empty()) {
        return fail("metrics not available yet");
    }
    eprintln!("No resources found{}", if everywhere { String::new() } else { format!(" in {namespace} namespace.") });
    Ok(())
}
