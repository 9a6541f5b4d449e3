//! Users and the groups that the server knows by name.

use serde_json::{Value, json};

pub const MASTERS: &str = "system:masters";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const NODES: &str = "system:nodes";
/// Those who hold the join token: they may ask for a node's certificate, and nothing else.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// An authenticated requester.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    pub uid: String,
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_string()).collect();
        User { name: name.into(), groups, ..User::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// As `authentication.k8s.io/v1` writes a user.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        for (key, values) in &self.extra {
            info["extra"][key] = json!(values);
        }
        info
    }

    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups =
            ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), AUTHENTICATED].map(String::from);
        User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: groups.into(),
            uid: uid.into(),
            extra: Vec::new(),
        }
    }
}
