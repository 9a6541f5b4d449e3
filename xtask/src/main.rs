//! Chores that write committed files. `cargo run --manifest-path xtask/Cargo.toml -- schema DEFINITIONS` renews
//! `crates/api/schema/*.json.zst`: the types of all built-in kinds from the `k8s-openapi` crate, and how their lists and
//! maps are merged (`x-kubernetes-*`, which that crate leaves out) from upstream's OpenAPI definitions of v1.37. Those
//! are, for example, `kubernetes-json-schema/v1.37.0-local/_definitions.json` in the PyPI package kubernetes-validate.

use std::collections::BTreeMap;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

macro_rules! kinds {
    ($generator:expr; $($kind:ty),* $(,)?) => {
        $( let _ = $generator.subschema_for::<$kind>(); )*
    };
}

fn definitions() -> Map<String, Value> {
    let mut generator = SchemaGenerator::new(schemars::generate::SchemaSettings::openapi3());
    add_kinds(&mut generator);
    generator.take_definitions(true)
}

fn add_kinds(generator: &mut SchemaGenerator) {
    fn assert_schema<T: JsonSchema>() {}
    assert_schema::<k8s_openapi::api::core::v1::Pod>();
    kinds!(generator;
    k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy,
    k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
    k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration,
    k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy,
    k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration,
    k8s_openapi::api::apps::v1::ControllerRevision,
    k8s_openapi::api::apps::v1::DaemonSet,
    k8s_openapi::api::apps::v1::Deployment,
    k8s_openapi::api::apps::v1::ReplicaSet,
    k8s_openapi::api::apps::v1::StatefulSet,
    k8s_openapi::api::authentication::v1::SelfSubjectReview,
    k8s_openapi::api::authentication::v1::TokenRequest,
    k8s_openapi::api::authentication::v1::TokenReview,
    k8s_openapi::api::authorization::v1::LocalSubjectAccessReview,
    k8s_openapi::api::authorization::v1::SelfSubjectAccessReview,
    k8s_openapi::api::authorization::v1::SelfSubjectRulesReview,
    k8s_openapi::api::authorization::v1::SubjectAccessReview,
    k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler,
    k8s_openapi::api::autoscaling::v1::Scale,
    k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler,
    k8s_openapi::api::batch::v1::CronJob,
    k8s_openapi::api::batch::v1::Job,
    k8s_openapi::api::certificates::v1::CertificateSigningRequest,
    k8s_openapi::api::certificates::v1::ClusterTrustBundle,
    k8s_openapi::api::certificates::v1::PodCertificateRequest,
    k8s_openapi::api::coordination::v1::Lease,
    k8s_openapi::api::core::v1::Binding,
    k8s_openapi::api::core::v1::ComponentStatus,
    k8s_openapi::api::core::v1::ConfigMap,
    k8s_openapi::api::core::v1::Endpoints,
    k8s_openapi::api::core::v1::Event,
    k8s_openapi::api::core::v1::LimitRange,
    k8s_openapi::api::core::v1::Namespace,
    k8s_openapi::api::core::v1::Node,
    k8s_openapi::api::core::v1::PersistentVolume,
    k8s_openapi::api::core::v1::PersistentVolumeClaim,
    k8s_openapi::api::core::v1::Pod,
    k8s_openapi::api::core::v1::PodTemplate,
    k8s_openapi::api::core::v1::ReplicationController,
    k8s_openapi::api::core::v1::ResourceQuota,
    k8s_openapi::api::core::v1::Secret,
    k8s_openapi::api::core::v1::Service,
    k8s_openapi::api::core::v1::ServiceAccount,
    k8s_openapi::api::discovery::v1::EndpointSlice,
    k8s_openapi::api::events::v1::Event,
    k8s_openapi::api::flowcontrol::v1::FlowSchema,
    k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration,
    k8s_openapi::api::networking::v1::IPAddress,
    k8s_openapi::api::networking::v1::Ingress,
    k8s_openapi::api::networking::v1::IngressClass,
    k8s_openapi::api::networking::v1::NetworkPolicy,
    k8s_openapi::api::networking::v1::ServiceCIDR,
    k8s_openapi::api::node::v1::RuntimeClass,
    k8s_openapi::api::policy::v1::Eviction,
    k8s_openapi::api::policy::v1::PodDisruptionBudget,
    k8s_openapi::api::rbac::v1::ClusterRole,
    k8s_openapi::api::rbac::v1::ClusterRoleBinding,
    k8s_openapi::api::rbac::v1::Role,
    k8s_openapi::api::rbac::v1::RoleBinding,
    k8s_openapi::api::resource::v1::DeviceClass,
    k8s_openapi::api::resource::v1::DeviceTaintRule,
    k8s_openapi::api::resource::v1::ResourceClaim,
    k8s_openapi::api::resource::v1::ResourceClaimTemplate,
    k8s_openapi::api::resource::v1::ResourceSlice,
    k8s_openapi::api::scheduling::v1::PriorityClass,
    k8s_openapi::api::storage::v1::CSIDriver,
    k8s_openapi::api::storage::v1::CSINode,
    k8s_openapi::api::storage::v1::CSIStorageCapacity,
    k8s_openapi::api::storage::v1::StorageClass,
    k8s_openapi::api::storage::v1::VolumeAttachment,
    k8s_openapi::api::storage::v1::VolumeAttributesClass,
    k8s_openapi::api::storagemigration::v1::StorageVersionMigration,
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions,
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Status,
    );
}

/// Takes the descriptions out of `schema` into `docs`, keyed by `type` and `type.field`.
fn split_docs(name: &str, schema: &mut Value, docs: &mut Map<String, Value>) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(text) = object.remove("description") {
        docs.insert(name.into(), text);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for (field, schema) in properties {
            if let Some(text) = schema.as_object_mut().and_then(|s| s.remove("description")) {
                docs.insert(format!("{name}.{field}"), text);
            }
        }
    }
}

/// The sources of the `k8s-pb` crate, whose attributes name the field numbers.
fn protobuf_sources() -> std::io::Result<std::path::PathBuf> {
    let output = std::process::Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let package = metadata["packages"].as_array().into_iter().flatten().find(|p| p["name"] == "k8s-pb");
    let manifest = package.and_then(|p| p["manifest_path"].as_str()).unwrap_or("");
    Ok(std::path::Path::new(manifest).with_file_name("src"))
}

/// The prefix of type names in a module of `k8s-pb`: `api/core/v1` → `io.k8s.api.core.v1`.
fn package_name(module: &str) -> String {
    let name = module.replace('/', ".").replace("apiextensions_apiserver", "apiextensions-apiserver").replace("kube_aggregator", "kube-aggregator");
    format!("io.k8s.{name}")
}

/// A message of `k8s-pb`: its fields as number, name and type.
type Messages = BTreeMap<String, Vec<(String, String, String)>>;

/// All messages, by the name of their type as the generated code writes it.
fn messages() -> std::io::Result<Messages> {
    let root = protobuf_sources()?;
    let mut folders = vec![root.clone()];
    let mut all = Messages::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)?.flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
        let module = folder.strip_prefix(&root).unwrap_or(&folder).display().to_string();
        let Ok(text) = std::fs::read_to_string(folder.join("mod.rs")) else { continue };
        let (mut current, mut number) = (String::new(), String::new());
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("pub struct ") {
                let name = rest.trim_end_matches(" {").trim_end_matches(" {}");
                current = format!("{}.{name}", package_name(&module));
                all.entry(current.clone()).or_default();
            } else if let Some((_, tag)) = line.strip_prefix("#[prost(").and_then(|r| r.split_once("tag = \"")) {
                number = tag.split('"').next().unwrap_or("").to_string();
            } else if let Some((field, of)) = line.strip_prefix("pub ").and_then(|r| r.split_once(':')) {
                let of = of.trim().trim_start_matches("::core::option::Option<").trim_end_matches([',', '>']);
                let field = (number.clone(), field.trim_start_matches("r#").to_string(), of.to_string());
                all.entry(current.clone()).or_default().push(field);
            }
        }
    }
    Ok(all)
}

/// Names are told apart from case and underscores, which the generated code has changed.
fn plain(name: &str) -> String {
    name.replace(['_', '$'], "").to_ascii_lowercase()
}

/// Field numbers of all types: type → number → name of the field in JSON. Where Go embeds a type, its fields stand in JSON
/// beside those of the type that embeds it, but in protobuf in a message of their own; then the name is `@` and the key
/// of that message's fields, `type/Embedded`.
fn field_numbers(types: &Map<String, Value>) -> std::io::Result<Map<String, Value>> {
    let messages = messages()?;
    let mut all = Map::new();
    for (name, schema) in types {
        let found = messages.iter().find(|(message, _)| plain(message) == plain(name));
        if let (Some((message, _)), Some(properties)) = (found, schema["properties"].as_object()) {
            number_fields(&messages, message, name, properties, &mut all);
        }
    }
    Ok(all)
}

fn number_fields(
    messages: &Messages,
    message: &str,
    key: &str,
    properties: &Map<String, Value>,
    all: &mut Map<String, Value>,
) {
    let mut numbers = Map::new();
    for (number, field, of) in &messages[message] {
        if let Some(name) = properties.keys().find(|n| plain(n) == plain(field)) {
            numbers.insert(number.clone(), name.as_str().into());
            continue;
        }
        // No such field in JSON: embedded, if it is a message of the same package with fields of ours.
        let package = message.rsplit_once('.').map_or("", |(package, _)| package);
        let embedded = format!("{package}.{of}");
        if messages.contains_key(&embedded) {
            let inner = format!("{key}/{of}");
            number_fields(messages, &embedded, &inner, properties, all);
            if all[&inner].as_object().is_some_and(|n| !n.is_empty()) {
                numbers.insert(number.clone(), format!("@{inner}").into());
            }
        }
    }
    all.insert(key.into(), numbers.into());
}

/// Extensions that say how a list or map is merged.
const EXTENSIONS: [&str; 5] = [
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-patch-merge-key",
];

/// Copies the extensions of upstream's definitions to our types; returns how many.
fn add_extensions(types: &mut Map<String, Value>, definitions: &Value) -> usize {
    let mut count = 0;
    let mut copy = |from: &Value, to: &mut Value| {
        for key in EXTENSIONS {
            if let Some(value) = from.get(key) {
                to[key] = value.clone();
                count += 1;
            }
        }
    };
    for (name, schema) in types {
        let Some(upstream) = definitions.get(name) else { continue };
        copy(upstream, schema);
        let Some(Value::Object(properties)) = schema.get_mut("properties") else { continue };
        for (field, schema) in properties {
            copy(&upstream["properties"][field], schema);
        }
    }
    count
}

fn write(path: &str, value: &Value) -> std::io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let packed = zstd::encode_all(text.as_slice(), 19)?;
    eprintln!("{path}: {} bytes, {} packed", text.len(), packed.len());
    std::fs::write(path, packed)
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, path] = arguments.as_slice() else {
        eprintln!("usage: xtask schema DEFINITIONS");
        std::process::exit(2);
    };
    if command != "schema" {
        eprintln!("usage: xtask schema DEFINITIONS");
        std::process::exit(2);
    }
    let upstream: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let upstream = upstream.get("$defs").or_else(|| upstream.get("definitions")).unwrap_or(&upstream);
    let mut types = definitions();
    eprintln!("{} extensions", add_extensions(&mut types, upstream));
    let mut docs = Map::new();
    for (name, schema) in &mut types {
        split_docs(name, schema, &mut docs);
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/api/schema");
    std::fs::create_dir_all(folder)?;
    let numbers = field_numbers(&types)?;
    write(&format!("{folder}/numbers.json.zst"), &json!(numbers))?;
    write(&format!("{folder}/types.json.zst"), &json!(types))?;
    write(&format!("{folder}/docs.json.zst"), &json!(docs))
}
