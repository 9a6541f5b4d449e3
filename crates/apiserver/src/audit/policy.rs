//! `Policy` (`audit.k8s.io/v1`): the first rule that matches a request says how much is recorded of it.

use serde::Deserialize;

use crate::authentication::User;
use crate::request::ResourcePath;

/// How much is recorded of a request, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    /// As policies and events write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// What is wrong with a policy; names the field.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

/// An audit policy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    kind: String,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says of a request.
pub struct Decision {
    pub level: Level,
    pub omit_stages: Vec<String>,
    pub omit_managed_fields: bool,
}

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

impl Policy {
    /// Reads a policy (YAML or JSON).
    ///
    /// # Errors
    /// When it is malformed or says contradictory things; names the field.
    pub fn read(text: &str) -> Result<Self, PolicyError> {
        let policy: Policy = apimachinery::yaml::from_str(text).map_err(|e| PolicyError(e.to_string()))?;
        if policy.kind != "Policy" {
            return Err(PolicyError(format!("kind: must be Policy, not {:?}", policy.kind)));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError("rules: must have at least one rule, else nothing would be recorded".into()));
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if about_resources && !rule.paths.is_empty() {
                let text = format!(
                    "rules[{i}].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                );
                return Err(PolicyError(text));
            }
        }
        let all = policy.rules.iter().flat_map(|r| &r.omit_stages).chain(&policy.omit_stages);
        for stage in all {
            if !STAGES.contains(&stage.as_str()) {
                return Err(PolicyError(format!("omitStages: {stage:?} is none of {}", STAGES.join(", "))));
            }
        }
        Ok(policy)
    }

    /// How much is recorded of a request; `path` is its resource, `url` its path.
    pub fn decide(&self, user: &User, verb: &str, path: Option<&ResourcePath>, url: &str) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.fits(user, verb, path, url));
        let omit_stages =
            rule.map(|r| &r.omit_stages).into_iter().flatten().chain(&self.omit_stages).cloned().collect();
        let omit_managed_fields = rule.and_then(|r| r.omit_managed_fields).unwrap_or(self.omit_managed_fields);
        Decision { level: rule.map_or(Level::None, |r| r.level), omit_stages, omit_managed_fields }
    }
}

impl Rule {
    fn fits(&self, user: &User, verb: &str, path: Option<&ResourcePath>, url: &str) -> bool {
        let any_or = |list: &[String], wanted: &str| list.is_empty() || list.iter().any(|l| l == wanted);
        if !any_or(&self.users, &user.name) || !any_or(&self.verbs, verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(|g| user.is_in(g)) {
            return false;
        }
        match path {
            Some(path) => {
                self.paths.is_empty()
                    && (self.namespaces.is_empty() || self.namespaces.contains(&path.namespace))
                    && (self.resources.is_empty() || self.resources.iter().any(|r| r.fits(path)))
            }
            None => {
                let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
                !about_resources && (self.paths.is_empty() || self.paths.iter().any(|p| path_fits(p, url)))
            }
        }
    }
}

fn path_fits(wanted: &str, url: &str) -> bool {
    wanted == "*" || wanted == url || wanted.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix))
}

impl Resources {
    fn fits(&self, path: &ResourcePath) -> bool {
        let own = match path.subresource.as_str() {
            "" => path.plural.clone(),
            subresource => format!("{}/{subresource}", path.plural),
        };
        let fits = |wanted: &String| {
            *wanted == own
                || wanted == "*"
                || *wanted == format!("{}/*", path.plural)
                || (!path.subresource.is_empty() && *wanted == format!("*/{}", path.subresource))
        };
        self.group == path.group
            && (self.resources.is_empty() || self.resources.iter().any(fits))
            && (self.resource_names.is_empty() || self.resource_names.contains(&path.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch]}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: Metadata, resources: [{group: '', resources: [secrets, configmaps, pods/log]}]}
- {level: Request, resources: [{group: '', resources: [pods], resourceNames: [a]}], omitStages: [ResponseStarted]}
- {level: RequestResponse, userGroups: ['system:masters'], namespaces: [prod], resources: [{group: apps}]}
- {level: Metadata}
";

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::read(POLICY).unwrap();
        let admin = User::new("admin", &["system:masters"]);
        let other = User::new("system:kube-proxy", &[]);
        for (user, verb, url, wanted) in [
            (&other, "watch", "/api/v1/services", Level::None),
            (&other, "get", "/healthz/ping", Level::None),
            (&other, "get", "/metrics", Level::Metadata),
            (&admin, "get", "/api/v1/namespaces/x/secrets/s", Level::Metadata),
            (&admin, "get", "/api/v1/namespaces/x/pods/a", Level::Request),
            (&admin, "get", "/api/v1/namespaces/x/pods/b", Level::Metadata),
            (&admin, "get", "/api/v1/namespaces/x/pods/a/log", Level::Metadata),
            (&admin, "create", "/apis/apps/v1/namespaces/prod/deployments", Level::RequestResponse),
            (&other, "create", "/apis/apps/v1/namespaces/prod/deployments", Level::Metadata),
        ] {
            let path = crate::request::resource_path(url);
            let decision = policy.decide(user, verb, path.as_ref(), url);
            assert_eq!(decision.level, wanted, "{} {verb} {url}", user.name);
        }
    }

    #[test]
    fn policies_that_mean_nothing_are_refused() {
        for (bad, why) in [
            ("kind: Pod\nrules: [{level: None}]", "kind"),
            ("kind: Policy\nrules: []", "rules"),
            ("kind: Policy\nrules: [{level: Loud}]", "Loud"),
            ("kind: Policy\nrules: [{level: None, usres: [a]}]", "usres"),
            ("kind: Policy\nrules: [{level: None, omitStages: [Never]}]", "Never"),
            ("kind: Policy\nrules: [{level: None, namespaces: [a], nonResourceURLs: [/a]}]", "both"),
        ] {
            let error = Policy::read(bad).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
