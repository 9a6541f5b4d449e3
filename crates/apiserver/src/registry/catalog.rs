//! All kinds of this server: the built-in table, and those that custom resource definitions add.
//!
//! The watch cache feeds it with every definition before anything of the new kind can be written, so a definition is
//! in force as soon as its write is answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::custom::{self, Definition};
use api::managed::{Typed, typed};
use api::schema::{self, Findings};
use api::{KINDS, Kind, OLDER, columns, kinds};
use apimachinery::{Cause, ObjectExt as _, Status};
use parking_lot::RwLock;
use serde_json::Value;

/// Holds a definition until all objects of its kind are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// All kinds of the server.
#[derive(Default)]
pub struct Catalog {
    definitions: RwLock<BTreeMap<String, Arc<Definition>>>,
    generation: AtomicU64,
}

/// Whether a kind's objects define kinds.
pub fn is_definition(kind: &Kind) -> bool {
    kind == kinds::CUSTOM_RESOURCE_DEFINITIONS
}

impl Catalog {
    /// The kind that a path names, if it is served.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        api::find(group, version, plural).or_else(|| {
            let definition = self.definitions.read().get(&format!("{plural}.{group}")).cloned()?;
            definition.version(version).filter(|v| v.served).map(|v| v.kind)
        })
    }

    /// All kinds that are served. Of a group's versions, newer ones come first.
    pub fn kinds(&self) -> Vec<&'static Kind> {
        let mut custom: Vec<&'static Kind> = Vec::new();
        for definition in self.definitions.read().values() {
            custom.extend(definition.versions.iter().filter(|v| v.served).map(|v| v.kind));
        }
        custom.sort_by_key(|k| (k.group, std::cmp::Reverse(priority(k.version)), k.plural()));
        KINDS.iter().chain(OLDER).chain(custom).collect()
    }

    /// Changes whenever a definition does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The definition of a custom kind; none for built-in ones.
    pub fn definition(&self, kind: &Kind) -> Option<Arc<Definition>> {
        if !kind.custom {
            return None;
        }
        self.definitions.read().get(&kind.resource()).cloned()
    }

    /// Adds or replaces a definition. If it is established, returns the kind that its objects are stored as, and whether objects that
    /// were stored before may lack defaults of its schema.
    pub fn put(&self, object: &Value) -> Option<(&'static Kind, bool)> {
        let read = Definition::read(object);
        let kind = read.as_ref().map(|d| d.storage().kind);
        let before = match &read {
            Some(definition) => self.definitions.write().insert(object.name().into(), definition.clone()),
            None => self.definitions.write().remove(object.name()),
        };
        self.generation.fetch_add(1, Ordering::AcqRel);
        let changed = read.as_ref().is_some_and(|new| {
            let is_same = before.is_some_and(|old| old.storage().has_schema_of(new.storage()));
            !is_same && new.storage().has_defaults
        });
        kind.map(|kind| (kind, changed))
    }

    /// Removes a definition.
    pub fn remove(&self, name: &str) {
        self.definitions.write().remove(name);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Refuses new objects of a kind that is going away.
    ///
    /// # Errors
    /// 405 while the kind's definition is being deleted.
    pub fn admit_new(&self, kind: &Kind) -> Result<(), Status> {
        let Some(definition) = self.definition(kind) else { return Ok(()) };
        if definition.terminating {
            let text = "create not allowed while custom resource definition is terminating";
            return Err(Status::new(405, "MethodNotAllowed", text));
        }
        Ok(())
    }

    /// The other versions of a kind that are served; of some built-in kinds they are of another group.
    pub fn other_versions(&self, kind: &Kind) -> Vec<&'static Kind> {
        let is_other = |other: &Kind| (other.group, other.version) != (kind.group, kind.version);
        if let Some(definition) = self.definition(kind) {
            let served = definition.versions.iter().filter(|v| v.served && is_other(v.kind));
            return served.map(|v| v.kind).collect();
        }
        KINDS.iter().chain(OLDER).filter(|other| other.kept() == kind.kept() && is_other(other)).collect()
    }

    /// The `apiVersion` that objects of a kind are stored with.
    pub fn stored_version(&self, kind: &Kind) -> String {
        let built_in = || kind.kept_as().unwrap_or(kind).api_version();
        self.definition(kind).map_or_else(built_in, |d| d.storage().kind.api_version())
    }

    /// Whether the bytes of all objects have the version of `kind`.
    pub fn has_one_version(&self, kind: &Kind) -> bool {
        kind.kept_as().is_none() && self.definition(kind).is_none_or(|d| d.versions.len() == 1)
    }

    /// What clients that use a kind's version are warned of: that it is deprecated, or what its definition says.
    pub fn warnings(&self, kind: &Kind) -> Vec<String> {
        let Some(definition) = self.definition(kind) else {
            return kind.strategy.deprecation.map(String::from).into_iter().collect();
        };
        definition.version(kind.version).map(|v| v.warnings.clone()).unwrap_or_default()
    }

    /// Removes the fields that the kind doesn't have, and returns them with those of another type.
    pub fn prune(&self, kind: &Kind, object: &mut Value) -> Findings {
        match self.definition(kind).as_ref().and_then(|d| d.version(kind.version)) {
            Some(version) => version.prune(object),
            None => schema::types().check(&kind.schema(), object),
        }
    }

    /// The same for an applied configuration, in which empty values count.
    pub fn prune_applied(&self, kind: &Kind, object: &mut Value) -> Findings {
        match self.definition(kind).as_ref().and_then(|d| d.version(kind.version)) {
            Some(version) => version.prune(object),
            None => schema::types().check_applied(&kind.schema(), object),
        }
    }

    /// Removes nulls of custom resources that their schema doesn't allow. Nulls of built-in kinds go when they are pruned.
    pub fn drop_nulls(&self, kind: &Kind, object: &mut Value) {
        if let Some(version) = self.definition(kind).as_ref().and_then(|d| d.version(kind.version)) {
            version.drop_nulls(object);
        }
    }

    /// Sets the defaults of fields that an object lacks.
    pub fn apply_defaults(&self, kind: &Kind, object: &mut Value) {
        match self.definition(kind).as_ref().and_then(|d| d.version(kind.version)) {
            Some(version) => version.apply_defaults(object),
            None => kind.apply_defaults(object),
        }
    }

    /// What is wrong with an object that is about to be stored.
    pub fn check(&self, kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = kind.check(object, old);
        if let Some(version) = self.definition(kind).as_ref().and_then(|d| d.version(kind.version)) {
            causes.extend(version.check(object, old));
        }
        causes
    }

    /// The same of a write to the status alone.
    pub fn check_status(&self, kind: &Kind, object: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = kind.check_status(object, old);
        if let Some(version) = self.definition(kind).as_ref().and_then(|d| d.version(kind.version)) {
            causes.extend(version.check_status(object, old));
        }
        causes
    }

    /// The kind's type, for merges and managed fields.
    pub fn typed(&self, kind: &Kind) -> Typed {
        self.definition(kind).map_or_else(|| typed(&kind.schema()), |d| d.typed(kind.version))
    }

    /// What puts objects of a kind into a Table. It stays as it is when the kind's definition changes.
    pub fn printer(&self, kind: &'static Kind) -> Printer {
        Printer { kind, definition: self.definition(kind) }
    }

    /// Writes into a definition that is about to be stored whether its names are free, and the finalizer that lets its
    /// objects go before it.
    pub fn establish(&self, object: &mut Value) {
        let (own, group) = (object.name().to_string(), object.str_at(&["spec", "group"]).to_string());
        let mut others: Vec<&'static Kind> = KINDS.iter().filter(|k| k.group == group).collect();
        for definition in self.definitions.read().values().filter(|d| d.name != own) {
            others.extend(definition.versions.iter().map(|v| v.kind).filter(|k| k.group == group));
        }
        custom::establish(object, &others);
        if !object.is_deleting() && !object.strings_at(&["metadata", "finalizers"]).contains(&CLEANUP) {
            let mut finalizers = object.array_at(&["metadata", "finalizers"]).to_vec();
            finalizers.push(CLEANUP.into());
            object.set_meta("finalizers", finalizers);
        }
    }
}

/// How a kind is printed.
pub struct Printer {
    kind: &'static Kind,
    definition: Option<Arc<Definition>>,
}

impl Printer {
    /// Objects as a Table; `include` says what of each comes along.
    pub fn table(&self, objects: &[Value], include: impl Fn(&Value) -> Value, metadata: Value) -> Value {
        match self.definition.as_ref().and_then(|d| d.version(self.kind.version)) {
            Some(version) => version.table(objects, include, metadata),
            None => columns::table(&self.kind.strategy.printer, objects, include, metadata),
        }
    }
}

/// Orders versions as clients prefer them: `v2` before `v1` before `v1beta2` before `v1alpha1` before anything else.
fn priority(version: &str) -> (u8, u32, u32) {
    let read = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        let (stage, minor) = match &rest[end..] {
            "" => (3, ""),
            tail if tail.starts_with("beta") => (2, &tail[4..]),
            tail if tail.starts_with("alpha") => (1, &tail[5..]),
            _ => return None,
        };
        Some((stage, major, if minor.is_empty() { 0 } else { minor.parse().ok()? }))
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_before_beta_and_alpha() {
        let mut versions = ["v1alpha1", "v10", "foo", "v1", "v2beta1", "v2", "v1beta1"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta1", "v1alpha1", "foo"]);
    }
}
