//! Kinds that custom resource definitions add (`apiextensions.k8s.io/v1`).
//!
//! A [`Definition`] is read from its object once per change. What the API server asks of a built-in kind's schema,
//! defaults, checks and columns, it asks of a [`Version`] here.

mod columns;
mod interned;
mod scale;

use std::sync::{Arc, OnceLock};

use apimachinery::{Cause, ObjectExt as _};
use serde_json::{Value, json};

use crate::Kind;
use crate::kinds::CustomKind;
use crate::managed::{TypeSource, Typed};
use crate::schema::{self, Findings, Type};
use crate::structural::{self, Rules, validation};

pub use crate::kinds::definition::{check, default, establish};
pub use crate::structural::formats::warnings;
pub use scale::ScalePaths;

/// A custom resource definition, understood.
#[derive(Debug)]
pub struct Definition {
    /// `plural.group`, which is also the name of the resource in the store.
    pub name: String,
    /// Its versions, in the order of its spec.
    pub versions: Vec<Version>,
    storage: usize,
    /// Where the webhook is that converts between versions (`clientConfig`), if they differ in more than their name.
    pub webhook: Option<Value>,
    /// Whether it is being deleted: then no object is created any more.
    pub terminating: bool,
}

/// One version of a custom kind.
#[derive(Debug)]
pub struct Version {
    /// The kind, as the rest of the server knows it.
    pub kind: &'static Kind,
    /// Whether clients may use this version.
    pub served: bool,
    /// What the server tells whoever writes objects of this version.
    pub warnings: Vec<String>,
    /// Where `scale` is found in an object, if the version declares it.
    pub scale: Option<ScalePaths>,
    /// Whether the schema has defaults, which objects of before may lack.
    pub has_defaults: bool,
    columns: columns::Columns,
    /// The schema as JSON, compressed: a hundredth of what it takes when it is read. Of many definitions, few have objects.
    source: Box<[u8]>,
    read: OnceLock<Read>,
}

/// What a version's schema says, made when it is first needed.
#[derive(Debug)]
struct Read {
    schema: Value,
    rules: Option<Rules>,
    of: Type,
}

impl Read {
    fn of(schema: Value) -> Self {
        let mut of = schema::read_type("", &schema);
        if let Type::Object { fields, .. } = &mut of {
            fields.retain(|(name, _)| name != "metadata");
            fields.push(("metadata".into(), Type::Named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".into())));
        }
        // Rules that can't be compiled are refused when the definition is written.
        Read { rules: Rules::compile(&schema, "", &mut Vec::new()), schema, of }
    }
}

impl Definition {
    /// Reads a definition that has been checked; `None` if it isn't established.
    pub fn read(object: &Value) -> Option<Arc<Self>> {
        let conditions = object.array_at(&["status", "conditions"]);
        if !conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return None;
        }
        let spec = &object["spec"];
        let listed = spec.array_at(&["versions"]);
        let storage = listed.iter().position(|v| v["storage"] == true)?;
        Some(Arc::new(Definition {
            name: object.name().into(),
            versions: listed.iter().map(|v| Version::new(spec, v)).collect(),
            storage,
            webhook: (spec.at(&["conversion", "strategy"]) == "Webhook")
                .then(|| spec.at(&["conversion", "webhook", "clientConfig"]).clone()),
            terminating: object.is_deleting(),
        }))
    }

    /// The version that objects are kept in.
    pub fn storage(&self) -> &Version {
        &self.versions[self.storage]
    }

    /// The version of that name.
    pub fn version(&self, version: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.kind.version == version)
    }

    /// What server-side apply needs to know of a version.
    pub fn typed(self: &Arc<Self>, version: &str) -> Typed {
        Typed::custom(self.clone(), version)
    }
}

impl TypeSource for Definition {
    fn type_of(&self, version: &str) -> Option<&Type> {
        self.version(version).map(|v| &v.read().of)
    }
}

impl Version {
    fn new(spec: &Value, version: &Value) -> Self {
        let names = &spec["names"];
        let interned = |list: &[Value]| {
            let texts: Vec<&'static str> = list.iter().filter_map(Value::as_str).map(interned::intern).collect();
            interned::intern_list(texts)
        };
        let selectable = version.array_at(&["selectableFields"]).iter().map(|f| f["jsonPath"].clone());
        let selectable: Vec<Value> =
            selectable.filter_map(|p| p.as_str().map(|p| Value::from(p.trim_start_matches('.')))).collect();
        let scaled = version.at(&["subresources", "scale"]);
        let kind = interned::intern_kind(Kind::custom(CustomKind {
            group: interned::intern(spec.str_at(&["group"])),
            version: interned::intern(version.str_at(&["name"])),
            kind: interned::intern(names.str_at(&["kind"])),
            plural: interned::intern(names.str_at(&["plural"])),
            short_names: interned(names.array_at(&["shortNames"])),
            categories: interned(names.array_at(&["categories"])),
            namespaced: spec["scope"] == "Namespaced",
            selectable: interned(&selectable),
            status: version.at(&["subresources", "status"]).is_object(),
            scale: scaled.is_object(),
        }));
        let mut schema = version.at(&["schema", "openAPIV3Schema"]).clone();
        // Every object has these, whatever its schema says of them.
        for (field, of) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
            if schema["properties"][field].is_null() {
                schema["properties"][field] = json!({ "type": of });
            }
        }
        let mut warnings = Vec::new();
        if version["deprecated"] == true {
            let default = format!("{}/{} {} is deprecated", kind.group, kind.version, kind.kind);
            warnings.push(version["deprecationWarning"].as_str().map_or(default, String::from));
        }
        Version {
            served: version["served"] == true,
            warnings,
            scale: scaled.is_object().then(|| ScalePaths {
                spec_replicas: scale::names(scaled.str_at(&["specReplicasPath"])),
                status_replicas: scale::names(scaled.str_at(&["statusReplicasPath"])),
                selector: scaled["labelSelectorPath"].as_str().map(scale::names),
            }),
            columns: columns::Columns::read(version.array_at(&["additionalPrinterColumns"])),
            has_defaults: structural::has_defaults(&schema),
            kind,
            source: zstd::encode_all(schema.to_string().as_bytes(), 3).unwrap_or_default().into(),
            read: OnceLock::new(),
        }
    }

    fn read(&self) -> &Read {
        self.read.get_or_init(|| Read::of(self.schema()))
    }

    /// The schema, read anew: for who seldom asks.
    pub fn schema(&self) -> Value {
        let text = zstd::decode_all(&*self.source).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Whether another version has the same schema.
    pub fn has_schema_of(&self, other: &Version) -> bool {
        self.source == other.source
    }

    /// Removes the fields that the schema doesn't have, and tells of them. The metadata is checked as that of built-in
    /// kinds is, also that of resources within the object.
    pub fn prune(&self, object: &mut Value) -> Findings {
        let mut findings = Findings::default();
        let metadata = object.get_mut("metadata").map(Value::take);
        structural::prune(&self.read().schema, object, "", true, &mut findings.unknown);
        structural::coerce(&self.read().schema, object, "", true, &mut findings);
        if let Some(mut metadata) = metadata {
            let found = schema::types().check("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &mut metadata);
            findings.unknown.extend(found.unknown.into_iter().map(|f| format!("metadata.{f}")));
            findings.mismatched.extend(found.mismatched);
            object["metadata"] = metadata;
        }
        findings
    }

    /// Removes nulls that aren't allowed, as decoding does.
    pub fn drop_nulls(&self, object: &mut Value) {
        structural::drop_nulls(&self.read().schema, object);
    }

    /// Fills in the defaults of the schema.
    pub fn apply_defaults(&self, object: &mut Value) {
        structural::apply_defaults(&self.read().schema, object);
    }

    /// Checks an object, which replaces `old`, against the schema and its rules. What was wrong before and did not change
    /// is let through, so that a stricter schema doesn't make objects of before unwritable (KEP-4008).
    pub fn check(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let Read { schema, rules, .. } = self.read();
        let mut causes = validation::check(schema, object, old, None);
        if let Some(paths) = &self.scale {
            scale::check(paths, object, true, &mut causes);
        }
        validation::embedded(schema, object, &mut causes);
        validation::duplicates(schema, object, old, &mut causes);
        self.ask_rules(rules.as_ref(), object, old, causes)
    }

    /// The same of a write to the status, of which only that is checked against the schema.
    pub fn check_status(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let Read { schema, rules, .. } = self.read();
        let (of, status) = (&schema["properties"]["status"], &object["status"]);
        let mut causes = Vec::new();
        if of.is_object() && object.get("status").is_some() {
            causes = validation::check(of, status, old.get("status"), Some("status"));
        }
        if let Some(paths) = &self.scale {
            scale::check(paths, object, false, &mut causes);
        }
        validation::duplicates(schema, object, Some(old), &mut causes);
        self.ask_rules(rules.as_ref(), object, Some(old), causes)
    }

    /// Rules rely on values of the right kinds, of which there aren't too many (upstream's `hasBlockingErr`).
    fn ask_rules(
        &self,
        rules: Option<&Rules>,
        object: &Value,
        old: Option<&Value>,
        mut causes: Vec<Cause>,
    ) -> Vec<Cause> {
        const BLOCKING: [&str; 5] = [
            "FieldValueNotSupported",
            "FieldValueRequired",
            "FieldValueTooLong",
            "FieldValueTooMany",
            "FieldValueTypeInvalid",
        ];
        let Some(rules) = rules else { return causes };
        if causes.iter().any(|cause| BLOCKING.contains(&cause.reason)) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors \
                       to complete validation";
            causes.push(Cause::invalid("<nil>", &Value::Null, why));
        } else {
            rules.check(&self.read().schema, object, old, &mut causes);
        }
        causes
    }

    /// The table of `objects`, each with the cells of its row and what `include` makes of it.
    pub fn table(&self, objects: &[Value], include: impl Fn(&Value) -> Value, metadata: Value) -> Value {
        self.columns.table(objects, include, metadata)
    }
}

#[cfg(test)]
mod tests;
