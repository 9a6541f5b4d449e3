//! What is particular to a kind, as one table that its module fills in. What a module leaves out is what most kinds have.

use apimachinery::{Cause, names};
use serde_json::Value;

use super::quota::Usage;
use crate::columns::Printer;

/// Which part of an object an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All but the status, for kinds with a status subresource.
    Main,
    /// The status and nothing else.
    Status,
    /// What a pod's containers may use.
    Resize,
    /// A pod's node.
    Binding,
    /// Whatever the caller changed (finalizers of namespaces, approvals, ephemeral containers).
    Everything,
}

/// What of the metadata a write to `status` can't change: upstream's strategies differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusKeeps {
    /// Finalizers and owner references.
    FinalizersAndOwners,
    /// These and labels.
    LabelsToo,
    /// These, labels and annotations.
    LabelsAndAnnotationsToo,
    /// All but what the server itself writes there.
    All,
}

/// What becomes of an object's dependents if the client that deletes it doesn't say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    /// The garbage collector deletes them (background propagation).
    Collected,
    /// They stay, for compatibility with clients older than the garbage collector; the client gets a warning, if there is one.
    Orphaned(Option<&'static str>),
}

/// What a selectable field is where an object doesn't have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// This value.
    Is(&'static str),
    /// As another selectable field.
    As(&'static str),
}

/// A selectable field that isn't found at its name, or has a value where an object has none.
#[derive(Debug, Clone, Copy)]
pub struct SelectedField {
    /// As field selectors name it.
    pub name: &'static str,
    /// Where its value is in the object, as names with dots between them.
    pub path: &'static str,
    /// Its value in an object that has none.
    pub absent: Absent,
}

impl SelectedField {
    pub(super) const fn new(name: &'static str, path: &'static str, absent: Absent) -> Self {
        SelectedField { name, path, absent }
    }
}

/// How an object of a kind is deleted.
pub struct Deletion {
    /// Refuses by name what can't be deleted, and says why.
    pub refuse: fn(&str) -> Option<&'static str>,
    /// Seconds from the deletion to the end of the object; the client may have said some.
    pub grace_period: fn(&Value, Option<i64>) -> i64,
    /// What a deletion writes into an object beside its metadata.
    pub mark: fn(&mut Value),
    /// Whether something other than finalizers of the metadata holds an object that is being deleted.
    pub is_held: fn(&Value) -> bool,
    /// What becomes of its dependents where the client says nothing.
    pub dependents: Dependents,
    /// The answer is the last state of the object, and no Status.
    pub returns_object: bool,
    /// Whether all that a selector takes can be deleted in one request.
    pub by_collection: bool,
}

impl Deletion {
    /// Any object may be deleted, at once but for its finalizers, and the garbage collector deletes its dependents.
    pub const PLAIN: Deletion = Deletion {
        refuse: |_| None,
        grace_period: |_, _| 0,
        mark: |_| {},
        is_held: |_| false,
        dependents: Dependents::Collected,
        returns_object: false,
        by_collection: true,
    };
}

/// What is particular to a kind. All functions are pure; what asks other objects is admission's.
pub struct Strategy {
    /// Which names objects may have.
    pub name: fn(&str) -> Result<(), String>,
    /// Fills in what upstream fills in where an object is silent.
    pub defaults: fn(&mut Value),
    /// Changes a new object before it gets defaults.
    pub prepare_create: fn(&mut Value),
    /// Adds to a new object what the server generates.
    pub generate: fn(&mut Value),
    /// Takes from the old object (the second) what the target may not change.
    pub prepare_update: fn(&mut Value, &Value, Target),
    /// Whether an update of an object that isn't there makes it (upstream's `AllowCreateOnUpdate`).
    pub made_by_updates: bool,
    /// Whether an update must say which version of the object it was made from (the opposite of upstream's
    /// `AllowUnconditionalUpdate`).
    pub updates_name_version: bool,
    /// Whether the status that a new object is sent with is kept, and doesn't begin empty.
    pub created_with_status: bool,
    /// What an update of the status leaves as it was.
    pub status_keeps: StatusKeeps,
    /// Appends what is wrong with an object that is about to be stored; the second is the stored one, for an update.
    pub validate: fn(&Value, Option<&Value>, &mut Vec<Cause>),
    /// The same of a write to the status, which changes nothing else (upstream's `Validate…StatusUpdate`); where a kind has none, `validate`.
    pub validate_status: Option<fn(&Value, &Value, &mut Vec<Cause>)>,
    /// What `kubectl get` prints.
    pub printer: Printer,
    /// Adds what an object uses of a quota, beside being one.
    pub usage: fn(&Value, &mut Usage),
    /// Brings an object to a version (the whole `apiVersion`), whichever it has; the version itself is the caller's to write.
    pub convert: fn(&mut Value, &str),
    /// Selectable fields that something is particular about.
    pub selected: &'static [SelectedField],
    /// The template of the pods that the object stands for, if it has one.
    pub pod_template: fn(&Value) -> &Value,
    /// How an object is deleted.
    pub deletion: Deletion,
    /// What clients that use the kind are warned of (upstream's `APILifecycleDeprecated`).
    pub deprecation: Option<&'static str>,
}

impl Strategy {
    /// That of most kinds.
    pub const PLAIN: Strategy = Strategy {
        name: names::dns1123_subdomain,
        defaults: |_| {},
        prepare_create: |_| {},
        generate: |_| {},
        prepare_update: |_, _, _| {},
        made_by_updates: false,
        updates_name_version: false,
        created_with_status: false,
        status_keeps: StatusKeeps::FinalizersAndOwners,
        validate: |_, _, _| {},
        validate_status: None,
        printer: Printer::PLAIN,
        usage: |_, _| {},
        convert: |_, _| {},
        selected: &[],
        pod_template: |_| &Value::Null,
        deletion: Deletion::PLAIN,
        deprecation: None,
    };

    /// The path at which a selectable field is found, and its value where an object has none.
    pub fn selected<'a>(&self, name: &'a str) -> (&'a str, Absent) {
        match self.selected.iter().find(|field| field.name == name) {
            Some(field) => (field.path, field.absent),
            None => (name, Absent::Is("")),
        }
    }

    /// That of all custom kinds: their definitions say the rest.
    pub(super) const CUSTOM: Strategy =
        Strategy { status_keeps: StatusKeeps::All, updates_name_version: true, ..Strategy::PLAIN };
}
