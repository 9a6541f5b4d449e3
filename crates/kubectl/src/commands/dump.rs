//! `cluster-info dump`: what somebody needs who looks for a problem elsewhere.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::{Command, run};
use crate::client::{Call, read};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, list, text, text_or};
use crate::print::{Printer, line};

pub const DUMP: Command = Command {
    name: "dump",
    about: "Dump relevant information for debugging and diagnosis",
    flags: &[&[
        f::ALL_NAMESPACES,
        text("output-directory", "Directory for the files; empty or - is standard output"),
        list("namespaces", "Namespaces to dump, with commas"),
        text_or("output", "json", "Output format").short('o'),
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        f::POD_RUNNING_TIMEOUT,
    ]],
    run: run!(dump),
    ..Command::NONE
};

/// What is listed of each namespace: the file's name, and the path of its group.
const LISTS: &[(&str, &str, &str)] = &[
    ("events", "/api/v1", "events"),
    ("replication-controllers", "/api/v1", "replicationcontrollers"),
    ("services", "/api/v1", "services"),
    ("daemonsets", "/apis/apps/v1", "daemonsets"),
    ("deployments", "/apis/apps/v1", "deployments"),
    ("replicasets", "/apis/apps/v1", "replicasets"),
    ("pods", "/api/v1", "pods"),
];

/// Where a dump goes.
struct Output<'a> {
    cx: &'a Context,
    printer: Printer,
    extension: &'static str,
}

async fn dump(cx: Arc<Context>) -> Result<()> {
    let extension = match cx.args.text("output") {
        "json" => ".json",
        "yaml" => ".yaml",
        _ => ".txt",
    };
    let Some(printer) = Printer::of(&cx.args, false)? else { return fail("an output format must be given with -o") };
    let output = Output { cx: &cx, printer, extension };
    output.object(&cx.get("/api/v1/nodes").await?, &["nodes"])?;
    for namespace in namespaces(&cx).await? {
        let mut pods = Value::Null;
        for (name, group, plural) in LISTS {
            let found = cx.get(&format!("{group}/namespaces/{namespace}/{plural}")).await?;
            output.object(&found, &[&namespace, name])?;
            pods = found;
        }
        for pod in pods["items"].as_array().into_iter().flatten() {
            output.logs(pod, &namespace).await?;
        }
    }
    let folder = cx.args.text("output-directory");
    if folder.is_empty() || folder == "-" { Ok(()) } else { line(&format!("Cluster info dumped to {folder}")) }
}

async fn namespaces(cx: &Context) -> Result<Vec<String>> {
    if cx.args.is("all-namespaces") {
        let found = cx.get("/api/v1/namespaces").await?;
        let all = found["items"].as_array().into_iter().flatten();
        return Ok(all.filter_map(|n| n["metadata"]["name"].as_str().map(String::from)).collect());
    }
    let named = cx.args.many("namespaces");
    if named.is_empty() { Ok(vec!["kube-system".into(), cx.namespace()?]) } else { Ok(named.to_vec()) }
}

/// The file of a dump. Names come from the server: none of them leads elsewhere.
fn file(folder: &str, parts: &[&str], extension: &str) -> Result<PathBuf> {
    let mut path = PathBuf::from(folder);
    for part in parts {
        if part.is_empty() || *part == "." || *part == ".." || part.contains(['/', '\0']) {
            return fail(format!("the server has an object whose name is no name of a file: {part:?}"));
        }
        path.push(part);
    }
    let name = format!("{}{extension}", path.file_name().and_then(|n| n.to_str()).unwrap_or(""));
    Ok(path.with_file_name(name))
}

impl Output<'_> {
    fn write(&self, content: &[u8], parts: &[&str], extension: &str) -> Result<()> {
        let folder = self.cx.args.text("output-directory");
        if folder.is_empty() || folder == "-" {
            let mut out = std::io::stdout().lock();
            out.write_all(content)?;
            return Ok(out.flush()?);
        }
        let path = file(folder, parts, extension)?;
        let wrong = |error: std::io::Error| Error::Message(format!("open {}: {error}", path.display()));
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(wrong)?;
        std::fs::write(&path, content).map_err(wrong)
    }

    fn object(&self, object: &Value, parts: &[&str]) -> Result<()> {
        self.write(self.printer.text(object, true)?.as_bytes(), parts, self.extension)
    }

    async fn logs(&self, pod: &Value, namespace: &str) -> Result<()> {
        let name = pod["metadata"]["name"].as_str().unwrap_or("");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/log");
        let mut all = Vec::new();
        for container in ["initContainers", "containers"].iter().flat_map(|f| pod["spec"][f].as_array()).flatten() {
            let container = container["name"].as_str().unwrap_or("");
            let about = format!("logs for container {container} of pod {namespace}/{name} ====\n");
            all.extend_from_slice(format!("==== START {about}").as_bytes());
            let answer = self.cx.send(Call::new("GET", &path).query("container", container).accept("*/*")).await;
            match answer {
                Ok(answer) => all.extend(read(answer).await?),
                Err(error) => all.extend_from_slice(format!("Request log error: {}\n", error.text()).as_bytes()),
            }
            all.extend_from_slice(format!("==== END {about}").as_bytes());
        }
        self.write(&all, &[namespace, name, "logs"], ".txt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_in_the_directory() {
        assert_eq!(file("/d", &["n", "p.q", "logs"], ".txt").unwrap(), Path::new("/d/n/p.q/logs.txt"));
        assert_eq!(file("d", &["n", "a.b"], ".json").unwrap(), Path::new("d/n/a.b.json"));
        for bad in ["..", "a/b", "", "."] {
            assert!(file("/d", &["n", bad, "logs"], ".txt").is_err(), "{bad}");
        }
    }
}
