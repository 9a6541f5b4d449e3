//! What a kind is: its identity, its names, and how the API serves it.

use std::fmt;

use apimachinery::{Cause, Status};
use serde_json::Value;

use super::{Strategy, Subresource};
use crate::validate::field::STRICT;
use crate::validate::{finalizers_are_qualified, metadata};

/// Which verbs a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// Kept in the store: get, list, watch, create, update, patch, delete, deletecollection.
    All,
    /// Answered on the spot and not kept (reviews).
    Create,
    /// Computed (component statuses).
    Read,
}

/// A kind in one version.
///
/// Two kinds are equal if group and resource are, and if both are built in or neither is; so what is particular to a built-in
/// kind can't be taken for that of a custom kind, whatever that is called. A built-in kind is a constant of this module
/// (`kinds::PODS`); a custom one comes from [`Kind::custom`] alone. Kinds can't be copied.
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version in that group, such as `v1`.
    pub version: &'static str,
    /// The name of the type, such as `Pod`.
    pub kind: &'static str,
    /// Read by [`Kind::plural`], for paths and messages.
    pub(super) plural: &'static str,
    /// What `kubectl` takes for its name, such as `po`.
    pub short_names: &'static [&'static str],
    /// Names of several kinds together, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether changes of `spec` raise `metadata.generation`.
    pub has_generation: bool,
    /// What can be done with its objects.
    pub verbs: Verbs,
    /// Further fields that field selectors may name, beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// In the order in which discovery lists them.
    pub(super) subresources: &'static [Subresource],
    /// The kind that objects of this one are kept as, if that is another version or group.
    pub(super) kept_as: Option<&'static Kind>,
    /// Of a custom resource definition.
    pub custom: bool,
    /// What is particular to it.
    pub strategy: Strategy,
}

/// What a custom resource definition can say of a version of its kind. There are no other subresources for it to declare.
#[derive(Debug)]
pub struct CustomKind {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version in that group, such as `v1`.
    pub version: &'static str,
    /// The name of the type, such as `Pod`.
    pub kind: &'static str,
    /// The name of the resource in paths, such as `pods`.
    pub plural: &'static str,
    /// What `kubectl` takes for its name, such as `po`.
    pub short_names: &'static [&'static str],
    /// Names of several kinds together, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Fields that field selectors may name, beside name and namespace.
    pub selectable: &'static [&'static str],
    /// Whether it declares the subresource `status`.
    pub status: bool,
    /// Whether it declares the subresource `scale`.
    pub scale: bool,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.custom == other.custom && self.plural == other.plural && self.group == other.group)
    }
}

impl Eq for Kind {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.group, self.version, self.kind)
    }
}

impl Kind {
    /// A kind of a custom resource definition.
    pub fn custom(of: CustomKind) -> Self {
        const STATUS: Subresource = Subresource::Status;
        const SCALE: Subresource = Subresource::Scale;
        let CustomKind { group, version, kind, plural, short_names, categories, namespaced, selectable, .. } = of;
        Kind {
            group,
            version,
            kind,
            plural,
            short_names,
            categories,
            namespaced,
            has_generation: true,
            verbs: Verbs::All,
            selectable,
            subresources: match (of.status, of.scale) {
                (false, false) => &[],
                (true, false) => &[STATUS],
                (false, true) => &[SCALE],
                (true, true) => &[STATUS, SCALE],
            },
            kept_as: None,
            custom: true,
            strategy: Strategy::CUSTOM,
        }
    }

    /// Whether all that a definition says of a kind is the same.
    pub(crate) fn is_same_in_all(&self, other: &Self) -> bool {
        let all = |k: &Kind| (k.group, k.version, k.kind, k.plural, k.short_names, k.categories, k.selectable);
        self.custom == other.custom
            && all(self) == all(other)
            && (self.namespaced, self.subresources) == (other.namespaced, other.subresources)
    }

    pub(super) const fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Kind {
            group,
            version,
            kind,
            plural,
            short_names: &[],
            categories: &[],
            namespaced: true,
            has_generation: false,
            verbs: Verbs::All,
            selectable: &[],
            subresources: &[],
            kept_as: None,
            custom: false,
            strategy: Strategy::PLAIN,
        }
    }

    pub(super) const fn cluster(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Kind { namespaced: false, ..Kind::namespaced(group, version, kind, plural) }
    }

    /// What paths, rules of roles and messages call the kind. Kinds themselves are compared, never this.
    pub const fn plural(&self) -> &'static str {
        self.plural
    }

    /// The name of one object, as discovery lists it.
    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, or `deployments.apps`: what keys, quotas and definitions call the kind's resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether a rule, a path or a reference by group and resource means this kind.
    pub fn is_named(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.plural == resource
    }

    /// The name of the kind's type in the schema.
    pub fn schema(&self) -> String {
        if self.custom {
            let reversed: Vec<&str> = self.group.rsplit('.').collect();
            return format!("{}.{}.{}", reversed.join("."), self.version, self.kind);
        }
        let package = match self.group {
            "" => "io.k8s.api.core".to_string(),
            "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".into(),
            "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".into(),
            group => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
        };
        format!("{package}.{}.{}", self.version, self.kind)
    }

    /// The subresources that the kind declares, in the order in which discovery lists them.
    pub fn subresources(&self) -> &'static [Subresource] {
        self.subresources
    }

    /// What the kind calls `name`, if it has such a subresource.
    pub fn subresource(&self, name: &str) -> Option<Subresource> {
        self.subresources.iter().copied().find(|s| s.name() == name)
    }

    /// Whether the status is written apart from the rest.
    pub fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }

    /// The kind that objects of this one are kept as, if that is another version or group.
    pub fn kept_as(&self) -> Option<&'static Kind> {
        self.kept_as
    }

    /// The kind itself, or the one that its objects are kept as.
    pub fn kept(&self) -> &Kind {
        self.kept_as.unwrap_or(self)
    }

    /// What keys of the store and of the cache call the resource that the kind's objects are in.
    pub fn kept_resource(&self) -> String {
        self.kept().resource()
    }

    /// Whether what is kept may be of another version than this one.
    pub fn has_versions(&self) -> bool {
        self.custom || self.kept_as.is_some()
    }

    /// Fills in the defaults of an object of this kind.
    pub fn apply_defaults(&self, object: &mut Value) {
        (self.strategy.defaults)(object);
    }

    /// What is wrong with an object that is about to be stored. `old` is the stored one, for an update.
    pub fn check(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        metadata(self.strategy.name, object, old, &mut causes);
        // The kinds of API machinery itself are checked as custom ones are.
        const MACHINERY: [&str; 3] = ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io"];
        if old.is_none() && !self.custom && !MACHINERY.contains(&self.group) {
            finalizers_are_qualified(object, &mut causes);
        }
        (self.strategy.validate)(object, old, &mut causes);
        let is_strict = |cause: &Cause| STRICT.iter().any(|why| cause.message.ends_with(why));
        if let Some(old) = old
            && causes.iter().any(is_strict)
        {
            let mut before = Vec::new();
            (self.strategy.validate)(old, None, &mut before);
            let was_there =
                |cause: &Cause| before.iter().any(|b| (&b.field, &b.message) == (&cause.field, &cause.message));
            causes.retain(|cause| !is_strict(cause) || !was_there(cause));
        }
        causes
    }

    /// The same of an object whose status alone was written.
    pub fn check_status(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let Some(validate) = self.strategy.validate_status else { return self.check(object, Some(old)) };
        let mut causes = Vec::new();
        metadata(self.strategy.name, object, Some(old), &mut causes);
        validate(object, old, &mut causes);
        causes
    }

    /// Brings an object of the kind, in any version, to `version`, the whole `apiVersion`: it is kept in the newest one, and
    /// read and written in any.
    pub fn convert(&self, object: &mut Value, version: &str) {
        if object["apiVersion"] == version || !object.is_object() {
            return;
        }
        (self.strategy.convert)(object, version);
        object["apiVersion"] = version.into();
    }

    /// The answer 404 about the object `name`.
    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.group, self.plural, name)
    }

    /// The answer 409 about an object `name` that is there already.
    pub fn already_exists(&self, name: &str) -> Status {
        Status::already_exists(self.group, self.plural, name)
    }

    /// The answer 403 about the object `name`, and why.
    pub fn forbidden(&self, name: &str, why: &str) -> Status {
        Status::forbidden(self.group, self.plural, name, why)
    }

    /// The answer 409 about the object `name`, and why.
    pub fn conflict(&self, name: &str, why: &str) -> Status {
        Status::conflict(self.group, self.plural, name, why)
    }

    /// The conflict of a write whose object changed meanwhile.
    pub fn modified(&self, name: &str) -> Status {
        Status::modified(self.group, self.plural, name)
    }

    /// The answer 422 about the object `name`, with what is wrong with it.
    pub fn invalid(&self, name: &str, causes: Vec<Cause>) -> Status {
        Status::invalid(self.group, self.kind, name, causes)
    }
}
