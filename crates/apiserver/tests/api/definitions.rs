//! What a custom resource definition may be (upstream's `apiextensions/validation`): a change of one that is right, and what is said
//! of it.

use serde_json::{Value, json};

use crate::server::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn definition() -> Value {
    let spec = json!({"type": "object", "properties": {"size": {"type": "integer"}, "name": {"type": "string"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"key": {"type": "string"}, "n": {"type": "integer"}}}}}});
    let schema =
        json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": {"type": "object"}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "kites.air.example.com"},
        "spec": {"group": "air.example.com", "scope": "Namespaced",
            "names": {"plural": "kites", "singular": "kite", "kind": "Kite", "listKind": "KiteList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}}]}})
}

/// The definition with a change (a merge patch), and what is said of it by `field: words`.
async fn refused(server: &Server, change: &Value) -> Vec<String> {
    let mut object = definition();
    apimachinery::patch::merge_patch(&mut object, change);
    let (code, answer) = server.json("POST", &format!("{DEFINITIONS}?dryRun=All"), &object).await;
    let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
    assert_eq!(code == 201, causes.is_empty(), "{answer}");
    causes.iter().map(|c| format!("{}: {}", c["field"].as_str().unwrap(), c["message"].as_str().unwrap())).collect()
}

/// A change of the only version.
fn version(change: Value) -> Value {
    let mut version = definition()["spec"]["versions"][0].clone();
    apimachinery::patch::merge_patch(&mut version, &change);
    json!({"spec": {"versions": [version]}})
}

fn spec(of: Value) -> Value {
    version(json!({"schema": {"openAPIV3Schema": {"properties": {"spec": of}}}}))
}

#[tokio::test]
async fn definitions_are_refused_for_what_upstream_refuses() {
    let server = Server::start().await;
    const AT: &str = "spec.validation.openAPIV3Schema";
    let of = format!("{AT}.properties[spec]");
    let list = |more: Value| {
        let mut list = json!({"properties": {"list": {}}});
        list["properties"]["list"] = more;
        spec(list)
    };
    let rule = |rule: Value| spec(json!({"x-kubernetes-validations": [rule]}));
    let items = format!("{of}.properties[list]");
    let root = |more: Value| version(json!({"schema": {"openAPIV3Schema": more}}));
    let scale = |more: Value| version(json!({"subresources": {"scale": more}}));
    let paths = json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"});
    let column = |more: Value| version(json!({"additionalPrinterColumns": [more]}));
    let hook = |more: Value| json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": more}}});
    let client = json!({"service": {"name": "s", "namespace": "n"}});
    let second = |name: &str, storage: bool| {
        let mut all = definition()["spec"]["versions"].clone();
        let mut more = all[0].clone();
        (more["name"], more["storage"]) = (name.into(), storage.into());
        all.as_array_mut().unwrap().push(more);
        json!({"spec": {"versions": all}})
    };
    for (change, wanted) in [
        (json!({}), String::new()),
        // Names.
        (json!({"spec": {"names": {"listKind": "Kite"}}}), "spec.names.listKind: Invalid value: \"Kite\": kind and listKind may not be the same".into()),
        (json!({"spec": {"names": {"kind": "Kite_"}}}), "spec.names.kind: Invalid value: \"Kite_\": may have mixed case, but should otherwise match".into()),
        (json!({"spec": {"names": {"shortNames": ["1k"]}}}), "spec.names.shortNames[0]: Invalid value: \"1k\": a DNS-1035 label".into()),
        (json!({"spec": {"names": {"categories": ["All"]}}}), "spec.names.categories[0]: Invalid value: \"All\"".into()),
        // Groups of the project's own.
        (json!({"metadata": {"name": "kites.x-k8s.io"}, "spec": {"group": "x-k8s.io"}}), String::new()),
        (json!({"metadata": {"name": "kites.air.k8s.io"}, "spec": {"group": "air.k8s.io"}}), "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see".into()),
        (json!({"metadata": {"name": "kites.air.k8s.io", "annotations": {"api-approved.kubernetes.io": "yes"}}, "spec": {"group": "air.k8s.io"}}), "metadata.annotations[api-approved.kubernetes.io]: Invalid value: \"yes\": protected groups must have".into()),
        (json!({"metadata": {"name": "kites.air.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, a trial"}}, "spec": {"group": "air.k8s.io"}}), String::new()),
        // Versions.
        (second("v1", false), "spec.versions: Invalid value: ".into()),
        (second("v2", true), "spec.versions: Invalid value: ".into()),
        (second("v2", false), String::new()),
        (second("V2", false), "spec.versions[1].name: Invalid value: \"V2\"".into()),
        (version(json!({"deprecationWarning": "old"})), "spec.versions[0].deprecationWarning: Invalid value: \"old\": can only be set for deprecated versions".into()),
        (json!({"spec": {"preserveUnknownFields": true}}), "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields".into()),
        // Structure.
        (root(json!({"nullable": true})), format!("{AT}: Invalid value: ")),
        (root(json!({"oneOf": [{"required": ["spec"]}]})), format!("{AT}: Invalid value: ")),
        (root(json!({"properties": {"metadata": {"type": "object", "description": "no"}}})), format!("{AT}.properties[metadata]: Forbidden: must not specify anything other than name and generateName")),
        (root(json!({"properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}}}})), String::new()),
        (root(json!({"properties": {"kind": {"type": "integer"}}})), format!("{AT}.properties[kind].type: Invalid value: \"integer\": must be string")),
        (list(json!({"type": "array", "items": null})), format!("{items}.items: Required value: must be specified")),
        (list(json!({"items": {"type": null}})), format!("{items}.items.type: Required value: must not be empty for specified array items")),
        (spec(json!({"type": "null"})), format!("{of}.type: Unsupported value: \"null\"")),
        (spec(json!({"x-kubernetes-preserve-unknown-fields": false})), format!("{of}.x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined")),
        (spec(json!({"additionalProperties": {"type": "string"}})), format!("{of}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive")),
        (spec(json!({"properties": {"x": {"$ref": "#/definitions/x"}}})), format!("{of}.properties[x].type: Required value")),
        (list(json!({"uniqueItems": true})), format!("{items}.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic")),
        (spec(json!({"properties": {"x": {"type": "object", "x-kubernetes-embedded-resource": true}}})), format!("{of}.properties[x].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without")),
        (spec(json!({"properties": {"x": {"x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}}})), format!("{of}.properties[x].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true")),
        (spec(json!({"properties": {"x": {"type": "string", "pattern": "("}}})), format!("{of}.properties[x].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't")),
        // What is said more of a value.
        (spec(json!({"anyOf": [{"required": ["size"]}, {"properties": {"name": {"minLength": 1}}}]})), String::new()),
        (spec(json!({"anyOf": [{"type": "object"}]})), format!("{of}.anyOf[0].type: Forbidden: must be empty to be structural")),
        (spec(json!({"allOf": [{"properties": {"other": {"minLength": 1}}}]})), format!("{of}.properties[other]: Required value: because it is defined in {of}.allOf[0].properties[other]")),
        (spec(json!({"not": {"properties": {"name": {"description": "x"}}}})), format!("{of}.not.properties[name].description: Forbidden: must be empty to be structural")),
        (spec(json!({"properties": {"x": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}})), String::new()),
        (spec(json!({"properties": {"x": {"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}]}}})), String::new()),
        // Lists and maps.
        (list(json!({"x-kubernetes-list-type": "bag"})), format!("{items}.x-kubernetes-list-type: Unsupported value: \"bag\"")),
        (list(json!({"x-kubernetes-list-type": "map"})), format!("{items}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map")),
        (list(json!({"x-kubernetes-list-map-keys": ["key"]})), format!("{items}.x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty")),
        (list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["other"]})), format!("{items}.x-kubernetes-list-map-keys: Invalid value: [\"other\"]: entries must all be names of item properties")),
        (list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]})), format!("{items}.items.properties[key].default: Required value: this property is in x-kubernetes-list-map-keys")),
        (list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"], "items": {"required": ["key"]}})), String::new()),
        (list(json!({"x-kubernetes-list-type": "set"})), format!("{items}.items.x-kubernetes-map-type: Invalid value")),
        (spec(json!({"properties": {"name": {"x-kubernetes-map-type": "atomic"}}})), format!("{of}.properties[name].type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified")),
        // Defaults.
        (spec(json!({"properties": {"size": {"default": 1}}})), String::new()),
        (spec(json!({"properties": {"size": {"default": "x"}}})), format!("{of}.properties[size].default: Invalid value: \"string\"")),
        (spec(json!({"default": {"other": 1}})), format!("{of}.default: Invalid value: {{\"other\":1}}: must not have unknown fields")),
        (root(json!({"properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "default": "x"}}}}})), format!("{AT}.properties[metadata].properties[name].default: Forbidden: must not be set in top-level metadata")),
        // Rules.
        (rule(json!({"rule": " "})), format!("{of}.x-kubernetes-validations[0].rule: Required value: rule is not specified")),
        (rule(json!({"rule": "true\n&& true"})), format!("{of}.x-kubernetes-validations[0].message: Required value: message must be specified if rule contains line breaks")),
        (rule(json!({"rule": "true", "message": "a\nb"})), format!("{of}.x-kubernetes-validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks")),
        (rule(json!({"rule": "true", "fieldPath": ".other"})), format!("{of}.x-kubernetes-validations[0].fieldPath: Invalid value: \".other\": must be a valid path")),
        (rule(json!({"rule": "true", "fieldPath": ".size"})), String::new()),
        (list(json!({"items": {"x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n"}]}, "maxItems": 9})), format!("{items}.items.x-kubernetes-validations[0].rule: Invalid value: \"self.n >= oldSelf.n\": oldSelf cannot be used on the uncorrelatable portion of the schema within {items}")),
        (list(json!({"items": {"required": ["key"], "x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n"}]}, "maxItems": 9, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]})), String::new()),
        // What is written as a whole is found again as a whole, and each of its fields with it.
        (
            spec(json!({"properties": {"whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
                "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}}})),
            String::new(),
        ),
        // Subresources, columns, fields.
        (scale(paths.clone()), String::new()),
        (scale(json!({"specReplicasPath": ".status.size", "statusReplicasPath": ".status.size"})), "spec.subresources.scale.specReplicasPath: Invalid value: \".status.size\": should be a json path under .spec".into()),
        (scale(json!({"specReplicasPath": ".spec.size"})), "spec.subresources.scale.statusReplicasPath: Required value".into()),
        (column(json!({"name": "A", "type": "text", "jsonPath": ".a"})), "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string".into()),
        (column(json!({"name": "A", "type": "string", "jsonPath": "a"})), "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"a\": must be a simple json path starting with .".into()),
        (version(json!({"selectableFields": [{"jsonPath": ".spec.name"}]})), String::new()),
        (version(json!({"selectableFields": [{"jsonPath": ".spec.list"}]})), "spec.selectableFields[0].jsonPath: Invalid value: \".spec.list\": must point to a field of type string, boolean or integer".into()),
        (version(json!({"selectableFields": [{"jsonPath": ".spec.other"}]})), "spec.selectableFields[0].jsonPath: Invalid value: \".spec.other\": is an invalid path".into()),
        (version(json!({"selectableFields": [{"jsonPath": ".metadata.name"}]})), "spec.selectableFields[0].jsonPath: Invalid value: \".metadata.name\": must not point to fields in metadata".into()),
        // Conversion.
        (json!({"spec": {"conversion": {"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}}}), "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook".into()),
        (hook(json!({"clientConfig": client, "conversionReviewVersions": ["v1"]})), String::new()),
        (hook(json!({"clientConfig": client, "conversionReviewVersions": ["v9"]})), "spec.conversion.conversionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1".into()),
        (hook(json!({"conversionReviewVersions": ["v1"]})), "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook".into()),
    ] {
        let told = refused(&server, &change).await;
        match wanted.as_str() {
            "" => assert_eq!(told, Vec::<String>::new(), "{change}"),
            wanted => assert!(told.iter().any(|t| t.starts_with(wanted)), "{change}: {told:#?} has no {wanted}"),
        }
    }
}

#[tokio::test]
async fn a_version_that_objects_may_be_kept_in_stays() {
    let server = Server::start().await;
    let mut first = definition();
    first["spec"]["versions"][0]["name"] = "v1beta1".into();
    server.create(DEFINITIONS, first).await;
    let path = format!("{DEFINITIONS}/kites.air.example.com");
    let mut both = definition()["spec"]["versions"].clone();
    let mut old = both[0].clone();
    (old["name"], old["storage"]) = ("v1beta1".into(), false.into());
    both.as_array_mut().unwrap().push(old);
    let (code, moved) = server.json("PATCH", &path, &json!({"spec": {"versions": both}})).await;
    assert_eq!((code.as_u16(), &moved["status"]["storedVersions"]), (200, &json!(["v1beta1", "v1"])), "{moved}");
    let only = json!({"spec": {"versions": definition()["spec"]["versions"]}});
    let (code, status) = server.json("PATCH", &path, &only).await;
    let words = "status.storedVersions[0]: Invalid value: \"v1beta1\": missing from spec.versions; v1beta1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1beta1 and removes v1beta1 from status.storedVersions";
    assert!(code == 422 && status["message"].as_str().unwrap().ends_with(words), "{status}");
    // Whoever moved all objects says so.
    let (code, moved) =
        server.json("PATCH", &format!("{path}/status"), &json!({"status": {"storedVersions": ["v1"]}})).await;
    assert_eq!((code.as_u16(), &moved["status"]["storedVersions"]), (200, &json!(["v1"])), "{moved}");
    let (code, alone) = server.json("PATCH", &path, &only).await;
    assert_eq!((code.as_u16(), &alone["status"]["storedVersions"]), (200, &json!(["v1"])), "{alone}");
}

#[tokio::test]
async fn a_group_of_the_projects_own_says_that_it_was_agreed_upon() {
    let server = Server::start().await;
    let mut object = definition();
    (object["metadata"]["name"], object["spec"]["group"]) = ("kites.air.k8s.io".into(), "air.k8s.io".into());
    object["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "https://example.com/pull/1"});
    let made = server.create(DEFINITIONS, object).await;
    let conditions = made["status"]["conditions"].as_array().unwrap();
    let told = conditions.iter().find(|c| c["type"] == "KubernetesAPIApprovalPolicyConformant").unwrap();
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("ApprovedAnnotation")), "{told}");
}

#[tokio::test]
async fn formats_that_nobody_checks_are_told() {
    let server = Server::start().await;
    let text = |format: &str| json!({"type": "string", "format": format});
    let mut definition = definition();
    let more = json!({"a": text("hostname"), "b": text("colour"), "c": {"type": "array", "items": text("phone")},
        "d": {"type": "integer", "format": "int64"}, "e": {"type": "object", "additionalProperties": text("colour")}});
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] = more;
    let request = http::Request::post(DEFINITIONS).header("content-type", "application/json");
    let answer = server.send(request.body(definition.to_string().into()).unwrap()).await;
    let told: Vec<_> = answer.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_string()).collect();
    assert_eq!(
        told,
        [r#"299 - "unrecognized format \"colour\"""#, r#"299 - "unrecognized format \"phone\"""#],
        "{:?}",
        answer.status()
    );
    // So are finalizers that don't say whose they are, of objects that get them.
    let kites = "/apis/air.example.com/v1/namespaces/default/kites";
    for (method, path, finalizers, warned) in [
        ("POST", kites.to_string(), json!(["mine", "example.com/mine"]), true),
        ("PATCH", format!("{kites}/k"), json!(["mine"]), false),
        ("PATCH", format!("{kites}/k"), json!(["mine", "other"]), true),
    ] {
        let kite = json!({"apiVersion": "air.example.com/v1", "kind": "Kite", "metadata": {"name": "k", "finalizers": finalizers}});
        let kind = if method == "POST" { "application/json" } else { "application/merge-patch+json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let answer = server.send(request.body(kite.to_string().into()).unwrap()).await;
        let told = answer
            .headers()
            .get("warning")
            .map(|w| w.to_str().unwrap().contains("prefer a domain-qualified finalizer name"));
        assert_eq!((answer.status().is_success(), told.unwrap_or(false)), (true, warned), "{finalizers}");
    }
}
