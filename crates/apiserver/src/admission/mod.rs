//! Admission: the plugins that are built in, and what a cluster's users bring (policies and webhooks).
//!
//! The order in which both are asked about a write is that of the steps in [`crate::pipeline`].

pub mod builtin;
pub mod dynamic;

use api::{Kind, Subresource};
use serde_json::Value;

use crate::authentication::User;
use crate::request::DeleteOptions;

pub use builtin::SERVER;

/// Admission plugins that are off unless an administrator turns them on, as upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// Pods that use extended resources tolerate the taints of nodes that have them.
    ExtendedResourceToleration,
    /// Owner references take the right to delete the object that has them.
    OwnerReferencesPermissionEnforcement,
}

impl std::str::FromStr for Plugin {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "ExtendedResourceToleration" => Ok(Plugin::ExtendedResourceToleration),
            "OwnerReferencesPermissionEnforcement" => Ok(Plugin::OwnerReferencesPermissionEnforcement),
            _ => Err(format!(
                "{name:?} can't be enabled: ExtendedResourceToleration and OwnerReferencesPermissionEnforcement can; \
                 upstream's default plugins are always on"
            )),
        }
    }
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules of webhooks and policies name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A write, or a connection, that admission decides about (`admission.k8s.io/v1` AdmissionRequest, without the object).
pub struct AdmissionAttributes<'a> {
    pub user: &'a User,
    pub kind: &'a Kind,
    pub subresource: Option<Subresource>,
    pub operation: Operation,
    pub name: &'a str,
    pub namespace: &'a str,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    pub options: Options<'a>,
}

/// What a request says beside the object (`metav1.CreateOptions` and the like), as webhooks are told of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    pub field_manager: &'a str,
    pub field_validation: &'a str,
    pub delete: Option<&'a DeleteOptions>,
}

impl AdmissionAttributes<'_> {
    /// The subresource as rules name it; empty for the object itself.
    fn subresource_name(&self) -> &'static str {
        self.subresource.map_or("", Subresource::name)
    }

    /// Whether policies and webhooks aren't asked: not about their own configuration, else a broken one couldn't be repaired.
    fn is_exempt(&self) -> bool {
        self.kind.group == "admissionregistration.k8s.io"
    }
}
