//! The part of kubectl that comes with the binary: `get`, `apply`, `delete`, `logs`, `exec`, `scale` and `version`.
//!
//! What it prints of objects are the server's own tables. It isn't the whole of kubectl and says so; the stock one works
//! with the same kubeconfig.

#![warn(missing_docs, clippy::missing_errors_doc)]

mod args;
mod discovery;
mod table;

use std::ffi::OsString;

use anyhow::{Context as _, bail};
use apimachinery::yaml;
use bounded::Limits;
use clap::Parser as _;
use kube::{Client, Config};
use serde_json::{Value, json};

use args::{Command, Kubectl};
use discovery::{Resource, Resources};

/// Runs one command; returns the exit code.
///
/// # Errors
/// With what the server said.
pub async fn run(arguments: Vec<OsString>) -> anyhow::Result<u8> {
    let kubectl = match Kubectl::try_parse_from([OsString::from("kubectl")].into_iter().chain(arguments)) {
        Ok(kubectl) => kubectl,
        Err(error) => {
            error.print()?;
            return Ok(error.exit_code() as u8);
        }
    };
    let session = Session::connect(&kubectl).await?;
    match kubectl.command {
        Command::Get { what, output, selector } => session.get(&what, output.as_deref(), selector.as_deref()).await,
        Command::Apply { files } => session.apply(&files).await,
        Command::Delete { what, files, selector } => session.delete(&what, &files, selector.as_deref()).await,
        Command::Logs { pod, container, follow, tail } => session.logs(&pod, container.as_deref(), follow, tail).await,
        Command::Scale { what, replicas } => session.scale(&what, replicas).await,
        Command::Exec { pod, container, stdin, command } => {
            return session.exec(&pod, container.as_deref(), stdin, &command).await;
        }
        Command::Version => session.version().await,
    }?;
    Ok(0)
}

struct Session {
    client: Client,
    namespace: String,
    all_namespaces: bool,
}

impl Session {
    async fn connect(kubectl: &Kubectl) -> anyhow::Result<Self> {
        const OWN: &str = "/etc/timonel/kubeconfig.yaml";
        let given = kubectl.kubeconfig.clone().or_else(|| std::env::var_os("KUBECONFIG").map(Into::into));
        let path = given.unwrap_or_else(|| OWN.into());
        let text = bounded::text(&path, bounded::MAX_OWN_FILE_BYTES)
            .with_context(|| format!("{} can't be read; --kubeconfig names another file", path.display()))?;
        let kubeconfig: kube::config::Kubeconfig = kube::config::Kubeconfig::from_yaml(&text)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        let namespace = kubectl.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Session { client: Client::try_from(config)?, namespace, all_namespaces: kubectl.all_namespaces })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        content_type: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Accept", accept)
            .header("Content-Type", content_type)
            .body(body)?;
        Ok(self.client.request(request).await?)
    }

    async fn json(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(method, path, "application/json", "application/json", body).await
    }

    /// The path of a resource, of one object if `name` isn't empty.
    fn path(&self, resource: &Resource, namespace: &str, name: &str) -> String {
        let scope = if resource.namespaced && !namespace.is_empty() {
            format!("/namespaces/{namespace}")
        } else {
            String::new()
        };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{}{scope}/{}{name}", resource.root(), resource.plural)
    }

    async fn get(&self, what: &[String], output: Option<&str>, selector: Option<&str>) -> anyhow::Result<()> {
        let resources = Resources::load(self).await?;
        let namespace = if self.all_namespaces { "" } else { &self.namespace };
        for (kinds, names) in resources.targets(what)? {
            for resource in kinds {
                let names = if names.is_empty() { vec![String::new()] } else { names.clone() };
                for name in names {
                    let query = selector.map_or(String::new(), |s| format!("?labelSelector={}", discovery::encode(s)));
                    let path = format!("{}{query}", self.path(resource, namespace, &name));
                    match output {
                        None | Some("wide") => {
                            let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
                            let answer = self.send("GET", &path, accept, "application/json", &Value::Null).await?;
                            let many = what.first().is_some_and(|w| w.contains(',') || w == "all");
                            table::print(
                                &answer,
                                output == Some("wide"),
                                self.all_namespaces,
                                many.then_some(resource),
                                &name,
                            );
                        }
                        Some("json") => println!("{:#}", self.json("GET", &path, &Value::Null).await?),
                        Some("yaml") => {
                            print!("{}", yaml::write(&self.json("GET", &path, &Value::Null).await?))
                        }
                        Some("name") => {
                            let answer = self.json("GET", &path, &Value::Null).await?;
                            let one = [answer.clone()];
                            for object in answer["items"].as_array().map_or(&one[..], Vec::as_slice) {
                                println!(
                                    "{}/{}",
                                    resource.qualified(),
                                    object["metadata"]["name"].as_str().unwrap_or("")
                                );
                            }
                        }
                        Some(other) => bail!("-o {other} isn't known: wide, json, yaml or name"),
                    }
                }
            }
        }
        Ok(())
    }

    fn documents(files: &[String]) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        for file in files {
            let text = match file.as_str() {
                "-" => bounded::text_of(std::io::stdin(), bounded::MAX_OWN_FILE_BYTES),
                _ => bounded::text(file, bounded::MAX_OWN_FILE_BYTES),
            };
            let text = text.with_context(|| format!("{file} can't be read"))?;
            let documents =
                yaml::all(text.as_bytes(), Limits::FILE).with_context(|| format!("{file} can't be read"))?;
            for document in documents {
                if let Some(duplicate) = document.duplicates.first() {
                    bail!("{file}: yaml: {duplicate}");
                }
                let value = document.value;
                match value["items"].as_array() {
                    Some(items) if value["kind"] == "List" => all.extend(items.clone()),
                    _ => all.push(value),
                }
            }
        }
        if all.is_empty() { bail!("no objects were given: -f names a file, - the standard input") } else { Ok(all) }
    }

    async fn apply(&self, files: &[String]) -> anyhow::Result<()> {
        const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
        let resources = Resources::load(self).await?;
        for object in Self::documents(files)? {
            let resource = resources.of_object(&object)?;
            let name = object["metadata"]["name"].as_str().context("an object has no metadata.name")?.to_string();
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.namespace).to_string();
            let mut desired = object.clone();
            desired["metadata"]["annotations"][LAST] = object.to_string().into();
            let path = self.path(resource, &namespace, &name);
            let outcome = match self.json("GET", &path, &Value::Null).await {
                Ok(present) => {
                    let last = present["metadata"]["annotations"][LAST].as_str().unwrap_or("{}");
                    let patch = three_way(&serde_json::from_str(last).unwrap_or(Value::Null), &desired);
                    let changed = self
                        .send(
                            "PATCH",
                            &format!("{path}?fieldValidation=Strict"),
                            "application/json",
                            "application/merge-patch+json",
                            &patch,
                        )
                        .await?;
                    if changed["metadata"]["resourceVersion"] == present["metadata"]["resourceVersion"] {
                        "unchanged"
                    } else {
                        "configured"
                    }
                }
                Err(_) => {
                    let path = format!("{}?fieldValidation=Strict", self.path(resource, &namespace, ""));
                    self.json("POST", &path, &desired).await?;
                    "created"
                }
            };
            println!("{}/{name} {outcome}", resource.qualified());
        }
        Ok(())
    }

    async fn delete(&self, what: &[String], files: &[String], selector: Option<&str>) -> anyhow::Result<()> {
        let resources = Resources::load(self).await?;
        let options = json!({"propagationPolicy": "Background"});
        if !files.is_empty() {
            for object in Self::documents(files)? {
                let resource = resources.of_object(&object)?;
                let name = object["metadata"]["name"].as_str().unwrap_or("");
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.namespace);
                self.json("DELETE", &self.path(resource, namespace, name), &options).await?;
                println!("{} {name:?} deleted", resource.qualified());
            }
            return Ok(());
        }
        for (kinds, names) in resources.targets(what)? {
            for resource in kinds {
                if let Some(selector) = selector {
                    let path = format!(
                        "{}?labelSelector={}",
                        self.path(resource, &self.namespace, ""),
                        discovery::encode(selector)
                    );
                    self.json("DELETE", &path, &options).await?;
                    println!("{} deleted", resource.qualified());
                    continue;
                }
                if names.is_empty() {
                    bail!("say which: a name, or a selector with -l");
                }
                for name in &names {
                    self.json("DELETE", &self.path(resource, &self.namespace, name), &options).await?;
                    println!("{} {name:?} deleted", resource.qualified());
                }
            }
        }
        Ok(())
    }

    async fn logs(&self, pod: &str, container: Option<&str>, follow: bool, tail: Option<i64>) -> anyhow::Result<()> {
        let pod = pod.rsplit('/').next().unwrap_or(pod);
        let mut path = format!("/api/v1/namespaces/{}/pods/{pod}/log?follow={follow}", self.namespace);
        if let Some(container) = container {
            path = format!("{path}&container={container}");
        }
        if let Some(tail) = tail {
            path = format!("{path}&tailLines={tail}");
        }
        let stream = self.client.request_stream(http::Request::get(path).body(Vec::new())?).await?;
        futures::io::copy(stream, &mut futures::io::AllowStdIo::new(std::io::stdout())).await?;
        Ok(())
    }

    /// Returns the command's exit code.
    async fn exec(&self, pod: &str, container: Option<&str>, stdin: bool, command: &[String]) -> anyhow::Result<u8> {
        let api: kube::Api<k8s_openapi::api::core::v1::Pod> =
            kube::Api::namespaced(self.client.clone(), &self.namespace);
        let mut params = kube::api::AttachParams::default().stdin(stdin).stdout(true).stderr(true);
        if let Some(container) = container {
            params = params.container(container);
        }
        let mut process = api.exec(pod.rsplit('/').next().unwrap_or(pod), command, &params).await?;
        let (stdout, stderr, input, status) =
            (process.stdout(), process.stderr(), process.stdin(), process.take_status());
        let feed = tasks::spawn("standard-input", async move {
            if let Some(mut input) = input {
                let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut input).await;
            }
        });
        let out = async {
            if let Some(mut from) = stdout {
                let _ = tokio::io::copy(&mut from, &mut tokio::io::stdout()).await;
            }
        };
        let err = async {
            if let Some(mut from) = stderr {
                let _ = tokio::io::copy(&mut from, &mut tokio::io::stderr()).await;
            }
        };
        tokio::join!(out, err);
        feed.abort();
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let Some(status) = status.filter(|s| s.status.as_deref() != Some("Success")) else { return Ok(0) };
        let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
        let code = causes
            .iter()
            .find(|c| c.reason.as_deref() == Some("ExitCode"))
            .and_then(|c| c.message.as_ref()?.parse().ok());
        code.with_context(|| status.message.unwrap_or_else(|| "the command could not be run".into()))
    }

    async fn scale(&self, what: &[String], replicas: u32) -> anyhow::Result<()> {
        let resources = Resources::load(self).await?;
        for (kinds, names) in resources.targets(what)? {
            for (resource, name) in kinds.iter().flat_map(|r| names.iter().map(move |n| (r, n))) {
                let path = format!("{}/scale", self.path(resource, &self.namespace, name));
                let patch = json!({"spec": {"replicas": replicas}});
                self.send("PATCH", &path, "application/json", "application/merge-patch+json", &patch).await?;
                println!("{}/{name} scaled", resource.qualified());
            }
        }
        Ok(())
    }

    async fn version(&self) -> anyhow::Result<()> {
        let server = self.json("GET", "/version", &Value::Null).await?;
        println!("Client Version: timonel {}", env!("CARGO_PKG_VERSION"));
        println!("Server Version: {}", server["gitVersion"].as_str().unwrap_or("unknown"));
        Ok(())
    }
}

/// A merge patch to `desired` that also removes what was in `last` and isn't wanted any more.
fn three_way(last: &Value, desired: &Value) -> Value {
    let (Value::Object(last), Value::Object(desired)) = (last, desired) else { return desired.clone() };
    let mut patch = serde_json::Map::new();
    for (key, value) in desired {
        patch.insert(key.clone(), three_way(last.get(key).unwrap_or(&Value::Null), value));
    }
    for key in last.keys().filter(|k| !desired.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_wanted_is_removed() {
        let last = json!({"spec": {"a": 1, "b": {"c": 2}}});
        let desired = json!({"spec": {"b": {"d": 3}}});
        assert_eq!(three_way(&last, &desired), json!({"spec": {"a": null, "b": {"c": null, "d": 3}}}));
    }
}
