//! Field managers: `metadata.managedFields`, kept on every write (KEP-555), and server-side apply on top of it.

use std::collections::HashMap;

use api::Kind;
use api::managed::{Difference, Typed};
use api::schema;
use apimachinery::{FieldSet, ObjectExt as _, Status, clock};
use serde_json::{Value, json};

use api::kinds::Target;

use crate::request::ResourceRequest;

mod last_applied;

/// Managers by update that have an entry of their own; the oldest beyond them share one.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Whose the fields are of an object without managers that is applied for the first time.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Whom the fields that a write sets belong to.
#[derive(Debug, Clone)]
pub struct FieldManager {
    pub manager: String,
    pub subresource: String,
}

impl FieldManager {
    /// The manager that a request names, for the subresource that it writes.
    pub fn of(info: &ResourceRequest) -> Self {
        FieldManager { manager: info.manager.clone(), subresource: info.path.subresource.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    manager: String,
    applies: bool,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Record {
    fn read(entry: &Value) -> Result<Self, String> {
        let text = |key: &str| entry.str_at(&[key]).to_string();
        let applies = match entry.str_at(&["operation"]) {
            "Apply" => true,
            "Update" => false,
            other => return Err(format!("operation {other:?} must be Apply or Update")),
        };
        if text("fieldsType") != "FieldsV1" {
            return Err("fieldsType must be FieldsV1".into());
        }
        Ok(Record {
            manager: text("manager"),
            applies,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::from_v1(entry.at(&["fieldsV1"]))?,
        })
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({"manager": self.manager, "operation": if self.applies { "Apply" } else { "Update" },
            "apiVersion": self.api_version, "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_v1()});
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }

    /// Who applies is one manager whatever version he applies in; who updates is one for each.
    fn is_of(&self, writer: &FieldManager, applies: bool, kind: &Kind) -> bool {
        self.applies == applies
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            && (applies || self.api_version == kind.api_version())
    }

    /// As conflicts name it.
    fn title(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {} at {}", self.api_version, self.time));
        }
        text
    }
}

fn read(object: &Value) -> Result<Vec<Record>, String> {
    object.array_at(&["metadata", "managedFields"]).iter().map(Record::read).collect()
}

fn write(object: &mut Value, mut records: Vec<Record>) {
    records.retain(|r| !r.fields.is_empty());
    records.sort_by(|a, b| {
        let key = |r: &Record| (!r.applies, r.time.clone(), r.manager.clone(), r.subresource.clone());
        key(a).cmp(&key(b))
    });
    if records.is_empty() {
        object.meta_mut().remove("managedFields");
    } else {
        object.set_meta("managedFields", records.iter().map(Record::to_json).collect::<Vec<_>>());
    }
}

/// Of too many managers that update, the oldest of a version become one (upstream's `capManagersManager`).
fn merge_oldest(records: &mut Vec<Record>) {
    let mut updaters: Vec<Record> = records.extract_if(.., |r| !r.applies).collect();
    updaters.sort_by(|a, b| (&a.time, &a.manager, &a.subresource).cmp(&(&b.time, &b.manager, &b.subresource)));
    let mut surplus = updaters.len().saturating_sub(MAX_UPDATE_MANAGERS);
    // Where the first record of each version is, which takes in those after it.
    let mut first: HashMap<String, usize> = HashMap::new();
    let mut kept: Vec<Record> = Vec::with_capacity(updaters.len());
    for record in updaters {
        match first.get(&record.api_version) {
            Some(at) if surplus > 0 => {
                let bucket = &mut kept[*at];
                (bucket.manager, bucket.subresource) = (ANCIENT.into(), String::new());
                bucket.fields.union(&record.fields);
                bucket.time = record.time;
                surplus -= 1;
            }
            _ => {
                first.entry(record.api_version.clone()).or_insert(kept.len());
                kept.push(record);
            }
        }
    }
    records.extend(kept);
}

/// Removes fields that have no manager: the object's identity, what the server sets, and those of the other target (spec or status).
fn strip(kind: &Kind, target: Target, fields: &mut FieldSet) {
    fields.remove("f:apiVersion");
    fields.remove("f:kind");
    for name in
        ["name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion"]
    {
        fields.remove_path(&["f:metadata", &format!("f:{name}")]);
    }
    match target {
        Target::Main if kind.has_status() => fields.remove("f:status"),
        Target::Status => {
            let others: Vec<String> =
                fields.iter().map(|(step, _)| step.clone()).filter(|s| s != "f:status" && s != "f:metadata").collect();
            others.iter().for_each(|step| fields.remove(step));
        }
        _ => {}
    }
}

/// What every object of a kind has: a creation is compared with it.
pub fn empty(kind: &Kind) -> Value {
    if kind.custom { json!({}) } else { schema::types().empty(&kind.schema()) }
}

fn difference(of: &Typed, kind: &Kind, target: Target, old: &Value, new: &Value) -> Difference {
    let mut found = of.compare(old, new);
    strip(kind, target, &mut found.changed);
    strip(kind, target, &mut found.removed);
    found
}

/// Sets the managers that a write starts from: those that the client sent, if they can be read, else those of the stored
/// object. An empty list, or one empty entry, resets them. By a subresource nobody sets them.
pub fn inherit(new: &mut Value, old: &Value, writer: &FieldManager) {
    let sent = new.at(&["metadata", "managedFields"]);
    if sent == old.at(&["metadata", "managedFields"]) {
        return;
    }
    let is_subresource = !writer.subresource.is_empty();
    let resets = sent.as_array().is_some_and(|list| list.is_empty() || *list == [json!({})]);
    if resets && !is_subresource {
        new.meta_mut().remove("managedFields");
    } else if is_subresource || sent.is_null() || read(new).is_err() {
        match old.at(&["metadata", "managedFields"]) {
            Value::Null => {
                new.meta_mut().remove("managedFields");
            }
            present => new.set_meta("managedFields", present.clone()),
        }
    }
}

/// Gives the writer of an update what changed, and takes it from all others. `old` is [`empty`] for a create.
pub fn track(of: &Typed, kind: &Kind, target: Target, writer: &FieldManager, old: &Value, new: &mut Value) {
    let Difference { changed, removed } = difference(of, kind, target, old, new);
    if changed.is_empty() && removed.is_empty() {
        return;
    }
    // Entries that can't be read were replaced by `inherit`.
    let mut records = read(new).unwrap_or_default();
    // Whose the fields are of an object that has forgotten its managers is known again when it is applied.
    if records.is_empty() && !old.uid().is_empty() {
        return;
    }
    for record in &mut records {
        record.fields.subtract(&removed);
        if !record.is_of(writer, false, kind) {
            record.fields.subtract(&changed);
        }
    }
    if !changed.is_empty() {
        match records.iter_mut().find(|r| r.is_of(writer, false, kind)) {
            Some(own) => {
                own.fields.union(&changed);
                own.time = clock::now_rfc3339();
                own.api_version = kind.api_version();
            }
            None => records.push(new_record(kind, writer, false, changed)),
        }
    }
    merge_oldest(&mut records);
    write(new, records);
}

fn new_record(kind: &Kind, writer: &FieldManager, applies: bool, fields: FieldSet) -> Record {
    Record {
        manager: writer.manager.clone(),
        applies,
        api_version: kind.api_version(),
        subresource: writer.subresource.clone(),
        time: clock::now_rfc3339(),
        fields,
    }
}

/// The object that results when `writer` applies `applied` to `live`, an empty object where there is none yet.
///
/// # Errors
/// A conflict that names the other managers, unless `force` takes their fields.
pub fn apply(
    of: &Typed,
    kind: &Kind,
    target: Target,
    writer: &FieldManager,
    live: &Value,
    applied: &Value,
    force: bool,
) -> Result<Value, Status> {
    let mut records = read(live).unwrap_or_default();
    let exists = live.as_object().is_some_and(|live| !live.is_empty());
    if records.is_empty() && exists {
        let present = difference(of, kind, target, &empty(kind), live).changed;
        let nobody = FieldManager { manager: BEFORE_FIRST_APPLY.into(), ..writer.clone() };
        records.extend((!present.is_empty()).then(|| new_record(kind, &nobody, false, present)));
    }
    // Fields without a manager count while fields are removed: else `metadata` would be removed with its last label.
    let all = of.fields(applied);
    let mut now = all.clone();
    strip(kind, target, &mut now);
    let mut new = of.merge(live, applied);
    let before = records.iter().find(|r| r.is_of(writer, true, kind)).map(|r| r.fields.clone());
    let mut others = FieldSet::default();
    records.iter().filter(|r| !r.is_of(writer, true, kind)).for_each(|r| others.union(&r.fields));
    if let Some(before) = &before {
        of.prune(&mut new, before, &all, &others);
    }
    let Difference { changed, removed } = difference(of, kind, target, live, &new);
    let mut conflicts: Vec<(String, FieldSet)> = Vec::new();
    for record in records.iter_mut().filter(|r| !r.is_of(writer, true, kind)) {
        let contested = record.fields.intersection(&changed);
        record.fields.subtract(&contested);
        record.fields.subtract(&removed);
        conflicts.push((record.title(), contested));
    }
    if !force {
        let allowed = last_applied::fields(of, kind, writer, live);
        let conflicts = conflicts.iter_mut().flat_map(|(title, contested)| {
            contested.subtract(&allowed);
            contested.paths().into_iter().map(|path| (title.clone(), path))
        });
        let conflicts: Vec<(String, String)> = conflicts.collect();
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts));
        }
    }
    match records.iter_mut().find(|r| r.is_of(writer, true, kind)) {
        Some(own) => {
            if own.fields != now {
                own.fields = now;
                own.time = clock::now_rfc3339();
            }
            own.api_version = kind.api_version();
        }
        None => records.push(new_record(kind, writer, true, now)),
    }
    write(&mut new, records);
    last_applied::update(writer, applied, &mut new);
    Ok(new)
}

/// The conflict in upstream's words, which kubectl prints.
fn conflict(conflicts: &[(String, String)]) -> Status {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, path)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": path})
        })
        .collect();
    let message = if let [(manager, path)] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
    } else {
        let mut managers: Vec<&String> = conflicts.iter().map(|(m, _)| m).collect();
        managers.dedup();
        let parts: Vec<String> = managers
            .into_iter()
            .map(|manager| {
                let paths = conflicts.iter().filter(|(m, _)| m == manager).map(|(_, p)| format!("\n- {p}"));
                format!("conflicts with {manager}:{}", paths.collect::<String>())
            })
            .collect();
        format!("Apply failed with {} conflicts: {}", conflicts.len(), parts.join("\n"))
    };
    let mut status = Status::new(409, "Conflict", message);
    status.details = Some(json!({ "causes": causes }));
    status
}

/// Whether two versions of an object differ in nothing but the times of their managers.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let rest = |v: &Value| {
        let mut v = v.clone();
        for entry in v["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            entry["time"] = Value::Null;
        }
        v
    };
    a == b || rest(a) == rest(b)
}

#[cfg(test)]
mod tests;
