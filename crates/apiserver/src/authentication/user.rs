//! Users and the groups that the server knows by name.

use serde_json::{Value, json};

/// May do everything, whatever RBAC says.
pub const MASTERS: &str = "system:masters";
/// All users that showed credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// All that showed none.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// All nodes; with a name `system:node:NAME` the Node authorizer decides about them.
pub const NODES: &str = "system:nodes";
/// Users with the join token: they may request a node's certificate, and nothing else.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// An authenticated user (upstream's `user.ResourceRequest`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// As RBAC names it.
    pub name: String,
    /// The groups that it is a member of.
    pub groups: Vec<String>,
    /// Empty where the authenticator has none.
    pub uid: String,
    /// What the authenticator says besides, by keys.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// A user in groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_string()).collect();
        User { name: name.into(), groups, ..User::default() }
    }

    /// Whether the user is a member of a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// As `UserInfo` of `authentication.k8s.io/v1`.
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

    /// The user that a service account is.
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
