//! Which resources there are, and which of them a word means.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::Session;

/// A resource of the server.
#[derive(Debug, Clone)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespaced: bool,
    kind: String,
    names: Vec<String>,
    categories: Vec<String>,
}

impl Resource {
    pub fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// `pod`, `deployment.apps`
    pub fn qualified(&self) -> String {
        let singular = self.kind.to_ascii_lowercase();
        if self.group.is_empty() { singular } else { format!("{singular}.{}", self.group) }
    }
}

pub struct Resources(Vec<Resource>);

impl Resources {
    pub async fn load(session: &Session) -> anyhow::Result<Self> {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let list = session
                .send("GET", path, accept, "application/json", &Value::Null)
                .await
                .context("the cluster can't be reached")?;
            for group in list["items"].as_array().into_iter().flatten() {
                for version in group["versions"].as_array().into_iter().flatten() {
                    let read = |r: &Value| read(group, version, r);
                    all.extend(version["resources"].as_array().into_iter().flatten().map(read));
                }
            }
        }
        Ok(Resources(all))
    }

    fn find(&self, word: &str) -> anyhow::Result<&Resource> {
        let wanted = word.to_ascii_lowercase();
        let found = self.0.iter().find(|r| r.names.contains(&wanted));
        found.with_context(|| format!("the server doesn't have a resource type {word:?}"))
    }

    /// What `TYPE NAME…`, `TYPE/NAME…` or `TYPE,TYPE` mean.
    pub fn targets(&self, what: &[String]) -> anyhow::Result<Vec<(Vec<&Resource>, Vec<String>)>> {
        let Some(first) = what.first() else { bail!("say what: a type, as in pods") };
        if first.contains('/') {
            return what
                .iter()
                .map(|w| {
                    let (kind, name) =
                        w.split_once('/').with_context(|| format!("{w:?} must read TYPE/NAME, as the first does"))?;
                    Ok((vec![self.find(kind)?], vec![name.to_string()]))
                })
                .collect();
        }
        let kinds = if first == "all" {
            self.0.iter().filter(|r| r.categories.iter().any(|c| c == "all")).collect()
        } else {
            first.split(',').map(|word| self.find(word)).collect::<anyhow::Result<Vec<_>>>()?
        };
        Ok(vec![(kinds, what[1..].to_vec())])
    }

    pub fn of_object(&self, object: &Value) -> anyhow::Result<&Resource> {
        let (version, kind) = (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
        let found = self.0.iter().find(|r| {
            let own = if r.group.is_empty() { r.version.clone() } else { format!("{}/{}", r.group, r.version) };
            own == version && r.kind == kind
        });
        found.with_context(|| format!("no matches for kind {kind:?} in version {version:?}"))
    }
}

fn read(group: &Value, version: &Value, resource: &Value) -> Resource {
    let text = |v: &Value| v.as_str().unwrap_or("").to_string();
    let list = |v: &Value| v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let mut names = list(&resource["shortNames"]);
    names.extend([text(&resource["resource"]), text(&resource["singularResource"])]);
    let group = text(&group["metadata"]["name"]);
    if !group.is_empty() {
        names.push(format!("{}.{group}", text(&resource["resource"])));
        names.push(format!("{}.{group}", text(&resource["singularResource"])));
    }
    Resource {
        group,
        version: text(&version["version"]),
        plural: text(&resource["resource"]),
        namespaced: resource["scope"] == "Namespaced",
        kind: text(&resource["responseKind"]["kind"]),
        names,
        categories: list(&resource["categories"]),
    }
}

/// Encodes a text for a query.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}
