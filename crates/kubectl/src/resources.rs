//! Resources, and which of them a word means.

use std::sync::Arc;

use crate::error::{Error, Result, fail};

/// A resource of the server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub verbs: Vec<String>,
    /// Whether this is the version that the server prefers of its group.
    pub preferred: bool,
}

impl Resource {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// The path of all objects, or of one.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let scope =
            if self.namespaced && !namespace.is_empty() { format!("/namespaces/{namespace}") } else { String::new() };
        let name = if name.is_empty() { String::new() } else { format!("/{}", encode_segment(name)) };
        format!("{}{scope}/{}{name}", self.root(), self.plural)
    }

    fn with_group(&self, word: &str) -> String {
        if self.group.is_empty() { word.to_string() } else { format!("{word}.{}", self.group) }
    }

    /// `pod`, `deployment.apps`: by the kind, as objects are told of.
    pub fn qualified(&self) -> String {
        self.with_group(&self.kind.to_ascii_lowercase())
    }

    /// `pods`, `deployments.apps`
    pub fn group_resource(&self) -> String {
        self.with_group(&self.plural)
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

fn encode_segment(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~:@!$&'()*+,;=".contains(&b);
    name.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

pub struct Resources(pub Vec<Arc<Resource>>);

impl Resources {
    /// What a word means: `pods`, `po`, `deployments.apps`, `deployments.v1.apps`.
    ///
    /// # Errors
    /// When the server has nothing of that name.
    pub fn find(&self, word: &str) -> Result<Arc<Resource>> {
        let wanted = word.to_ascii_lowercase();
        let (name, rest) = wanted.split_once('.').map_or((wanted.as_str(), None), |(n, r)| (n, Some(r)));
        let (version, group) =
            rest.and_then(|r| r.split_once('.')).map_or((rest.unwrap_or(""), None), |(v, g)| (v, Some(g)));
        let matches = |r: &&Arc<Resource>| r.plural == name || r.singular == name;
        let short = |r: &&Arc<Resource>| r.short_names.iter().any(|s| s == name);
        // A version with its group, a group, and last a name alone: in this order upstream tries them.
        let by = |test: &dyn Fn(&&Arc<Resource>) -> bool| {
            let of = || self.0.iter().filter(|r| test(r));
            of().find(|r| matches(r) && r.preferred)
                .or_else(|| of().find(matches))
                .or_else(|| of().find(short))
                .cloned()
        };
        let found = match rest {
            None => by(&|_| true),
            Some(rest) => group
                .and_then(|group| by(&|r| r.version == version && r.group == group))
                .or_else(|| by(&|r| r.group == rest))
                .or_else(|| by(&|r| r.group.is_empty() && r.version == rest))
                .or_else(|| by(&|r| r.group.starts_with(rest) && !rest.is_empty())),
        };
        let missing = || {
            Error::NoResource(word.split('.').next().unwrap_or(word).into(), String::new(), rest.unwrap_or("").into())
        };
        found.ok_or_else(missing)
    }

    /// What words with commas mean; `all` and other categories are their resources.
    ///
    /// # Errors
    /// When the server has nothing of a name.
    pub fn find_all(&self, words: &str) -> Result<Vec<Arc<Resource>>> {
        let mut all: Vec<Arc<Resource>> = Vec::new();
        for word in words.split(',') {
            let word = word.trim();
            if word.is_empty() {
                return fail("arguments must consist of a resource or a resource and name");
            }
            let listed: Vec<_> =
                self.0.iter().filter(|r| r.categories.iter().any(|c| c == word) && r.preferred).cloned().collect();
            let found = if listed.is_empty() { vec![self.find(word)?] } else { listed };
            for one in found {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        Ok(all)
    }

    /// The resource of a kind.
    ///
    /// # Errors
    /// When the server doesn't have it.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Result<Arc<Resource>> {
        let found = self.0.iter().find(|r| r.api_version() == api_version && r.kind == kind);
        found.cloned().ok_or_else(|| {
            Error::Message(format!(
                "no matches for kind {kind:?} in version {api_version:?}\nensure CRDs are installed first"
            ))
        })
    }

    /// A resource by group and plural, whichever version the server prefers.
    ///
    /// # Errors
    /// When the server doesn't have it.
    pub fn named(&self, group: &str, plural: &str) -> Result<Arc<Resource>> {
        let found = self
            .0
            .iter()
            .find(|r| r.is(group, plural) && r.preferred)
            .or_else(|| self.0.iter().find(|r| r.is(group, plural)));
        found.cloned().ok_or_else(|| Error::NoResource(plural.into(), String::new(), group.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_mean_upstream() {
        let make = |group: &str, version: &str, kind: &str, plural: &str, short: &str, preferred: bool| {
            Arc::new(Resource {
                group: group.into(),
                version: version.into(),
                plural: plural.into(),
                singular: kind.to_ascii_lowercase(),
                kind: kind.into(),
                short_names: vec![short.into()],
                categories: vec!["all".into()],
                preferred,
                ..Resource::default()
            })
        };
        let all = Resources(vec![
            make("", "v1", "Pod", "pods", "po", true),
            make("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", true),
            make("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", false),
            make("apps", "v1", "Deployment", "deployments", "deploy", true),
        ]);
        for (word, want) in [
            ("po", "v1/pods"),
            ("Pods", "v1/pods"),
            ("hpa", "v2/horizontalpodautoscalers"),
            ("hpa.v1.autoscaling", "v1/horizontalpodautoscalers"),
            ("deployments.apps", "v1/deployments"),
            ("deploy.v1.apps", "v1/deployments"),
        ] {
            let found = all.find(word).unwrap();
            assert_eq!(format!("{}/{}", found.version, found.plural), want, "{word}");
        }
        assert_eq!(all.find("x.y").unwrap_err().text(), "the server doesn't have a resource type \"x\" in group \"y\"");
        assert_eq!(all.find_all("all").unwrap().len(), 3);
        assert_eq!(all.find_all("po,pods").unwrap().len(), 1);
    }
}
