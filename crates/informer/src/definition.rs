//! Custom resource definitions without their schemas.
//!
//! A decoded schema takes some 25 times its JSON (`JSONSchemaProps` has 43 members), control loops hold all definitions of the cluster, and none reads
//! a schema of them. This type has the fields that say which kinds there are, under the API's names. It isn't a [`k8s_openapi`] type, so it can't be
//! written back by mistake.

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinitionNames, CustomResourceDefinitionStatus, CustomResourceSubresources, SelectableField,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::custom_kind;

/// A custom resource definition, with the fields that control loops read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CustomResourceDefinition {
    /// Name, uid, finalizers.
    pub metadata: ObjectMeta,
    /// What its kind is called.
    pub spec: Spec,
    /// As the API has it.
    pub status: Option<CustomResourceDefinitionStatus>,
}

/// What a kind is called.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// Its API group.
    pub group: String,
    /// `Namespaced` or `Cluster`
    pub scope: String,
    /// Plural, kind, short names.
    pub names: CustomResourceDefinitionNames,
    /// Its versions, without their schemas.
    pub versions: Vec<Version>,
}

/// A version, with what makes the identity of its kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Version {
    /// Its name.
    pub name: String,
    /// Whether clients may use it.
    pub served: bool,
    /// Whether objects are kept in it.
    pub storage: bool,
    /// Which subresources it has.
    pub subresources: Option<CustomResourceSubresources>,
    /// What field selectors may name.
    pub selectable_fields: Option<Vec<SelectableField>>,
}

custom_kind!(CustomResourceDefinition, "apiextensions.k8s.io", "v1", "customresourcedefinitions", ClusterResourceScope);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_definition_its_kinds_are_kept_and_no_schema() {
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com", "uid": "u"},
            "spec": {"group": "example.com", "scope": "Namespaced", "conversion": {"strategy": "None"},
                "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["w"], "categories": ["all"]},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "description": "a long text"}},
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
                    "selectableFields": [{"jsonPath": ".spec.color"}],
                    "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}]}]},
            "status": {"conditions": [{"type": "Established", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let read: CustomResourceDefinition = serde_json::from_value(definition.clone()).unwrap();
        let kept = serde_json::to_value(&read).unwrap();
        assert!(!kept.to_string().contains("a long text"));
        for path in [
            "/metadata/uid",
            "/spec/group",
            "/spec/scope",
            "/spec/names",
            "/spec/versions/0/name",
            "/spec/versions/0/served",
            "/spec/versions/0/storage",
            "/spec/versions/0/subresources/scale/specReplicasPath",
            "/spec/versions/0/selectableFields/0/jsonPath",
            "/status/conditions/0/type",
        ] {
            assert_eq!(kept.pointer(path), definition.pointer(path), "{path}");
        }
    }
}
