//! Chores that write committed files. `cargo run --manifest-path xtask/Cargo.toml -- schema` renews
//! `crates/api/schema/*.json.zst`, the types of all built-in kinds, from the `k8s-openapi` crate.

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

fn write(path: &str, value: &Value) -> std::io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let packed = zstd::encode_all(text.as_slice(), 19)?;
    eprintln!("{path}: {} bytes, {} packed", text.len(), packed.len());
    std::fs::write(path, packed)
}

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() != Some("schema") {
        eprintln!("usage: xtask schema");
        std::process::exit(2);
    }
    let mut types = definitions();
    let mut docs = Map::new();
    for (name, schema) in &mut types {
        split_docs(name, schema, &mut docs);
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/api/schema");
    std::fs::create_dir_all(folder)?;
    write(&format!("{folder}/types.json.zst"), &json!(types))?;
    write(&format!("{folder}/docs.json.zst"), &json!(docs))
}
