//! What the server is and has: `api-resources`, `api-versions`, `version`, `cluster-info`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Command, run, usage};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{list, optional_text, switch, switched_on, text};
use crate::print::{go_json_pretty, line, say, tabwriter, yaml};
use crate::resources::Resource;

pub const API_RESOURCES: Command = Command {
    name: "api-resources",
    about: "Print the supported API resources on the server",
    flags: &[&[
        text("api-group", "Of this group"),
        optional_text("namespaced", "", "true", "Only those that are in namespaces, or only those that aren't"),
        list("verbs", "With these verbs"),
        list("categories", "Of these categories"),
        text("output", "wide, name, json or yaml").short('o'),
        text("sort-by", "name or kind"),
        switch("no-headers", "Without the names of the columns"),
        switch("cached", "Accepted for scripts' sake"),
    ]],
    run: run!(api_resources),
    ..Command::NONE
};

pub const API_VERSIONS: Command = Command {
    name: "api-versions",
    about: "Print the supported API versions on the server, in the form of \"group/version\"",
    run: run!(api_versions),
    ..Command::NONE
};

pub const VERSION: Command = Command {
    name: "version",
    about: "Print the client and server version information",
    flags: &[&[
        switch("client", "Don't ask the server"),
        text("output", "yaml or json").short('o'),
        switched_on("short", "Accepted for scripts' sake"),
    ]],
    run: run!(version),
    ..Command::NONE
};

pub const CLUSTER_INFO: Command = Command {
    name: "cluster-info",
    about: "Display cluster information",
    commands: &[&super::dump::DUMP],
    run: run!(cluster_info),
    ..Command::NONE
};

async fn api_resources(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if !args.words.is_empty() {
        return usage(&cx, &format!("unexpected arguments: [{}]", args.words.join(" ")));
    }
    let output = args.text("output");
    if !["", "wide", "name", "json", "yaml"].contains(&output) {
        return fail(format!(
            "unable to match a printer suitable for the output format {output:?}, allowed formats are: json,kyaml,name,wide,yaml"
        ));
    }
    if !["", "name", "kind"].contains(&args.text("sort-by")) {
        return fail("--sort-by accepts only name or kind");
    }
    let all = cx.resources().await?;
    let mut shown: Vec<&Arc<Resource>> = all.0.iter().filter(|r| r.preferred && !r.verbs.is_empty()).collect();
    shown.retain(|r| {
        (!args.given("api-group") || r.group == args.text("api-group"))
            && (!args.given("namespaced") || r.namespaced == args.is("namespaced"))
            && args.many("verbs").iter().all(|v| r.verbs.contains(v))
            && args.many("categories").iter().all(|c| r.categories.contains(c))
    });
    match args.text("sort-by") {
        "kind" => shown.sort_by(|a, b| a.kind.cmp(&b.kind)),
        "name" => shown.sort_by(|a, b| a.plural.cmp(&b.plural)),
        _ => shown.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural))),
    }
    if output == "json" || output == "yaml" {
        let items: Vec<Value> = shown.iter().map(|r| json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "group": r.group,
            "version": r.version, "kind": r.kind, "verbs": r.verbs, "shortNames": r.short_names, "categories": r.categories})).collect();
        let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "", "resources": items});
        return say(&if output == "json" { go_json_pretty(&list) + "\n" } else { yaml::write(&list) });
    }
    let mut text = String::new();
    if !args.is("no-headers") && output != "name" {
        text.push_str(if output == "wide" {
            "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\tVERBS\tCATEGORIES\n"
        } else {
            "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\n"
        });
    }
    for r in shown {
        if output == "name" {
            text += &(r.group_resource() + "\n");
            continue;
        }
        text +=
            &format!("{}\t{}\t{}\t{}\t{}", r.plural, r.short_names.join(","), r.api_version(), r.namespaced, r.kind);
        if output == "wide" {
            text += &format!("\t{}\t{}", r.verbs.join(","), r.categories.join(","));
        }
        text.push('\n');
    }
    say(&if output == "name" { text } else { tabwriter::format(&text, tabwriter::TABLE, None) })
}

async fn api_versions(cx: Arc<Context>) -> Result<()> {
    let groups = cx.json(Call::new("GET", "/apis")).await?;
    let core = cx.json(Call::new("GET", "/api")).await?;
    let mut all: Vec<String> =
        core["versions"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect();
    for group in groups["groups"].as_array().into_iter().flatten() {
        let versions = group["versions"].as_array().into_iter().flatten();
        all.extend(versions.filter_map(|v| v["groupVersion"].as_str().map(String::from)));
    }
    all.sort();
    say(&all.iter().map(|v| format!("{v}\n")).collect::<String>())
}

/// What upstream's kubectl of the same abilities calls itself: scripts compare versions.
const VERSION_TEXT: &str = "v1.37.1";
/// The kustomize that upstream's has built in; this one has none.
const KUSTOMIZE: &str = "v5.8.1";

async fn version(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if !args.words.is_empty() {
        return fail(format!("extra arguments: [{}]", args.words.join(" ")));
    }
    if !["", "json", "yaml"].contains(&args.text("output")) {
        return fail("--output must be 'yaml' or 'json'");
    }
    let client = json!({"major": "1", "minor": "37", "gitVersion": VERSION_TEXT, "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" })});
    let server = if args.is("client") { Ok(Value::Null) } else { cx.get("/version").await };
    let mut whole = json!({"clientVersion": client, "kustomizeVersion": KUSTOMIZE});
    if let Ok(server) = &server
        && !server.is_null()
    {
        whole["serverVersion"] = server.clone();
    }
    match args.text("output") {
        "json" => say(&(super::info::two_spaces(&whole) + "\n"))?,
        "yaml" => say(&yaml::write(&whole))?,
        _ => {
            line(&format!("Client Version: {VERSION_TEXT}\nKustomize Version: {KUSTOMIZE}"))?;
            if let Some(version) = whole["serverVersion"]["gitVersion"].as_str() {
                line(&format!("Server Version: {version}"))?;
            }
        }
    }
    server.map(|_| ())
}

/// JSON with an indentation of two.
pub fn two_spaces(value: &Value) -> String {
    format!("{value:#}")
}

async fn cluster_info(cx: Arc<Context>) -> Result<()> {
    let url = cx.connection().await?.url.clone();
    let namespace = if cx.has_explicit_namespace() { cx.namespace()? } else { "kube-system".into() };
    let found = cx
        .json(
            Call::new("GET", &format!("/api/v1/namespaces/{namespace}/services"))
                .query("labelSelector", "kubernetes.io/cluster-service=true"),
        )
        .await?;
    line(&format!(
        "{}Kubernetes control plane{} is running at {}{url}{}",
        colour("32"),
        colour("0"),
        colour("33"),
        colour("0")
    ))?;
    for service in found["items"].as_array().into_iter().flatten() {
        let metadata = &service["metadata"];
        let name = metadata["name"].as_str().unwrap_or("");
        let label = metadata["labels"]["kubernetes.io/name"].as_str().unwrap_or(name);
        let mut target = name.to_string();
        if let Some(port) = service["spec"]["ports"].as_array().and_then(|p| p.first()) {
            let port_name = port["name"].as_str().unwrap_or("");
            let scheme = if port_name == "https" || port["port"] == 443 { "https:" } else { "" };
            target = format!("{scheme}{name}:{port_name}");
        }
        line(&format!(
            "{}{label}{} is running at {}{url}/api/v1/namespaces/{namespace}/services/{target}/proxy{}",
            colour("32"),
            colour("0"),
            colour("33"),
            colour("0")
        ))?;
    }
    line("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.")
}

/// Colours are for terminals.
fn colour(code: &str) -> &'static str {
    use std::io::IsTerminal as _;
    match (std::io::stdout().is_terminal(), code) {
        (false, _) => "",
        (true, "32") => "\u{1b}[0;32m",
        (true, "33") => "\u{1b}[0;33m",
        (true, _) => "\u{1b}[0m",
    }
}
