//! Custom resources: what a definition promises, its objects keep.

use serde_json::{Value, json};

use crate::server::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIPS: &str = "/apis/sea.example.com/v1/namespaces/default/ships";

fn definition() -> Value {
    let spec = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 20, "pattern": "^[a-z]+$"},
        "masts": {"type": "integer", "minimum": 1, "maximum": 7, "default": 3},
        "length": {"type": "number", "exclusiveMinimum": true, "minimum": 0, "multipleOf": 0.5},
        "rig": {"type": "string", "enum": ["sloop", "brig"], "default": "brig"},
        "built": {"type": "string", "format": "date-time"},
        "home": {"type": "string", "format": "ipv4"},
        "crew": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "rank": {"type": "string", "default": "sailor"}}}},
        "flags": {"type": "array", "maxItems": 4, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "port": {"x-kubernetes-int-or-string": true},
        "note": {"type": "string", "nullable": true},
        "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "labels": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "string"}},
        "one": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}},
        "x-kubernetes-validations": [
            {"rule": "self.masts >= oldSelf.masts", "message": "masts are never taken down"},
            {"rule": "self.rig != 'sloop' || self.masts == 1", "messageExpression": "'a sloop has one mast, not ' + string(self.masts)", "fieldPath": ".masts", "reason": "FieldValueForbidden"}]});
    let status = json!({"type": "object", "properties": {"afloat": {"type": "boolean"}, "replicas": {"type": "integer"}, "selector": {"type": "string"}}});
    let schema =
        |spec: Value| json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "ships.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "ships", "singular": "ship", "kind": "Ship", "listKind": "ShipList", "shortNames": ["sh"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema(spec),
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.masts", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                    "selectableFields": [{"jsonPath": ".spec.rig"}],
                    "additionalPrinterColumns": [{"name": "Masts", "type": "integer", "jsonPath": ".spec.masts"}, {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]},
                {"name": "v1alpha1", "served": true, "storage": false, "deprecated": true, "deprecationWarning": "v1alpha1 sinks",
                    "schema": schema(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))}]}})
}

fn ship(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("name").is_none() {
        spec["name"] = "bounty".into();
    }
    json!({"apiVersion": "sea.example.com/v1", "kind": "Ship", "metadata": {"name": name}, "spec": spec})
}

async fn with_ships() -> Server {
    let server = Server::start().await;
    let made = server.create(DEFINITIONS, definition()).await;
    let conditions = made["status"]["conditions"].as_array().unwrap();
    for kind in ["NamesAccepted", "Established"] {
        assert!(conditions.iter().any(|c| c["type"] == kind && c["status"] == "True"), "{made}");
    }
    server
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_checked() {
    let server = with_ships().await;
    let made = server
        .create(
            SHIPS,
            ship(
                "a",
                json!({"unknown": 1, "crew": [{"name": "bligh", "shoe": 42}], "extra": {"any": [1]}, "note": null}),
            ),
        )
        .await;
    assert_eq!(
        made["spec"],
        json!({"name": "bounty", "masts": 3, "rig": "brig", "crew": [{"name": "bligh", "rank": "sailor"}], "extra": {"any": [1]}, "note": null})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({"name": "x"}), "spec.name", "FieldValueInvalid"),
        (json!({"name": "Bounty"}), "spec.name", "FieldValueInvalid"),
        (json!({"name": "abcdefghijklmnopqrstuvwxyz"}), "spec.name", "FieldValueTooLong"),
        (json!({"name": 5}), "spec.name", "FieldValueTypeInvalid"),
        (json!({"masts": 0}), "spec.masts", "FieldValueInvalid"),
        (json!({"masts": 8}), "spec.masts", "FieldValueInvalid"),
        (json!({"masts": 1.5}), "spec.masts", "FieldValueTypeInvalid"),
        (json!({"length": 0}), "spec.length", "FieldValueInvalid"),
        (json!({"length": 1.25}), "spec.length", "FieldValueInvalid"),
        (json!({"rig": "raft"}), "spec.rig", "FieldValueNotSupported"),
        (json!({"built": "yesterday"}), "spec.built", "FieldValueTypeInvalid"),
        (json!({"home": "::1"}), "spec.home", "FieldValueTypeInvalid"),
        (
            json!({"crew": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]}),
            "spec.crew",
            "FieldValueTooMany",
        ),
        (json!({"crew": [{"name": "a"}, {"name": "a"}]}), "spec.crew[1]", "FieldValueDuplicate"),
        (json!({"crew": [{"rank": "x"}]}), "spec.crew[0].name", "FieldValueRequired"),
        (json!({"flags": ["a", "a"]}), "spec.flags[1]", "FieldValueDuplicate"),
        (json!({"port": true}), "spec.port", "FieldValueTypeInvalid"),
        (json!({"labels": {"a": "", "b": "", "c": ""}}), "spec.labels", "FieldValueTooMany"),
        (json!({"labels": {"a": 1}}), "spec.labels.a", "FieldValueTypeInvalid"),
        (json!({"one": {}}), "<nil>", "FieldValueInvalid"),
        (json!({"one": {"a": "", "b": ""}}), "<nil>", "FieldValueInvalid"),
        (json!({"rig": "sloop", "masts": 2}), "spec.masts", "FieldValueForbidden"),
    ];
    let mut wrong = Vec::new();
    for (spec, field, reason) in cases {
        let (code, answer) = server.json("POST", &format!("{SHIPS}?dryRun=All"), &ship("b", spec.clone())).await;
        let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
        if code != 422 || !causes.iter().any(|c| c["field"] == field && c["reason"] == reason) {
            wrong.push(format!("{spec}: wanted {field} {reason}, got {code} {}", answer["message"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (_, answer) = server.json("POST", SHIPS, &ship("b", json!({"rig": "sloop", "masts": 2}))).await;
    assert!(
        answer["message"].as_str().unwrap().ends_with("spec.masts: Forbidden: a sloop has one mast, not 2"),
        "{answer}"
    );
    let (code, answer) = server.json("PATCH", &format!("{SHIPS}/a"), &json!({"spec": {"masts": 2}})).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("masts are never taken down"), "{answer}");
    let (code, answer) =
        server.json("POST", &format!("{SHIPS}?fieldValidation=Strict"), &ship("b", json!({"unknown": 1}))).await;
    assert!(code == 400 && answer["message"].as_str().unwrap().contains("unknown field \"spec.unknown\""), "{answer}");
}

#[tokio::test]
async fn subresources_columns_selectors_and_versions() {
    let server = with_ships().await;
    server.create(SHIPS, ship("a", json!({"masts": 2}))).await;
    server.create(SHIPS, ship("b", json!({"rig": "sloop", "masts": 1}))).await;
    let one = format!("{SHIPS}/a");
    // The status has a door of its own, and each door leaves the other's things alone.
    let both = json!({"spec": {"masts": 4}, "status": {"afloat": true, "replicas": 1, "selector": "a=b"}});
    let (_, by_status) = server.json("PATCH", &format!("{one}/status"), &both).await;
    assert_eq!(
        (&by_status["spec"]["masts"], &by_status["status"]["afloat"], &by_status["metadata"]["generation"]),
        (&json!(2), &json!(true), &json!(1))
    );
    let (_, by_main) = server.json("PATCH", &one, &json!({"spec": {"masts": 3}, "status": {"afloat": false}})).await;
    assert_eq!(
        (&by_main["spec"]["masts"], &by_main["status"]["afloat"], &by_main["metadata"]["generation"]),
        (&json!(3), &json!(true), &json!(2))
    );
    let scale = server.read(&format!("{one}/scale")).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"], &scale["status"]),
        (&json!("Scale"), &json!({"replicas": 3}), &json!({"replicas": 1, "selector": "a=b"}))
    );
    let (code, scaled) = server.json("PATCH", &format!("{one}/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code.as_u16(), &scaled["spec"]["replicas"]), (200, &json!(5)), "{scaled}");
    assert_eq!(server.read(&one).await["spec"]["masts"], 5);

    let (_, _, table) = server.get(SHIPS, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let table: Value = serde_json::from_slice(&table).unwrap();
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Masts", "Age"]);
    assert_eq!((&table["rows"][0]["cells"][0], &table["rows"][0]["cells"][1]), (&json!("a"), &json!(5)));
    let sloops = server.read(&format!("{SHIPS}?fieldSelector=spec.rig%3Dsloop")).await;
    assert_eq!(sloops["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(&format!("{SHIPS}?fieldSelector=spec.masts%3D1"), "*/*").await.0, 400);

    // The same objects in the other version, with a word of warning.
    let old = SHIPS.replace("/v1/", "/v1alpha1/");
    let list = server.read(&old).await;
    assert_eq!(
        (&list["apiVersion"], &list["items"][0]["apiVersion"]),
        (&json!("sea.example.com/v1alpha1"), &json!("sea.example.com/v1alpha1"))
    );
    let request = http::Request::get(&old).body(bytes::Bytes::new()).unwrap();
    assert_eq!(server.send(request).await.headers()["warning"], "299 - \"v1alpha1 sinks\"");
    let mut watch = server.watch(&format!("{old}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["apiVersion"], "sea.example.com/v1alpha1");
    assert_eq!(server.get(&format!("{old}/a/status"), "*/*").await.0, 404, "this version has no status of its own");
    let resources = server.read("/apis/sea.example.com/v1").await;
    let ship = resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == "ships").unwrap();
    assert_eq!(
        (&ship["shortNames"], &ship["categories"], &ship["singularName"]),
        (&json!(["sh"]), &json!(["all"]), &json!("ship"))
    );
    assert!(
        resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == "ships/scale" && r["kind"] == "Scale")
    );
}

#[tokio::test]
async fn lists_are_applied_by_their_keys() {
    let server = with_ships().await;
    let apply = |manager: &'static str, spec: Value| {
        let server = &server;
        async move {
            let mut object = ship("a", spec);
            if manager == "two" {
                object["spec"].as_object_mut().unwrap().remove("name");
            }
            server.patch(&format!("{SHIPS}/a?fieldManager={manager}"), "apply-patch+yaml", &object).await
        }
    };
    let (code, _) = apply("one", json!({"crew": [{"name": "bligh", "rank": "captain"}], "flags": ["red"]})).await;
    assert_eq!(code, 201);
    let (code, both) = apply("two", json!({"crew": [{"name": "fryer"}], "flags": ["blue"]})).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(both["spec"]["crew"].as_array().unwrap().len(), 2);
    assert_eq!(both["spec"]["flags"].as_array().unwrap().len(), 2);
    let (code, conflict) = apply("two", json!({"crew": [{"name": "bligh", "rank": "boy"}]})).await;
    assert_eq!(code, 409);
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.crew[name=\"bligh\"].rank");
    let (code, left) = apply("one", json!({})).await;
    assert_eq!((code, &left["spec"]["flags"]), (http::StatusCode::OK, &json!(["blue"])), "{left}");
    assert_eq!(left["spec"]["crew"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn definitions_that_promise_nonsense_are_refused() {
    let server = Server::start().await;
    let versions = |change: Value| {
        let mut version =
            json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}});
        apimachinery::patch::merge_patch(&mut version, &change);
        json!({"spec": {"versions": [version]}})
    };
    let schema = |of: Value| versions(json!({"schema": {"openAPIV3Schema": {"properties": {"spec": of}}}}));
    let rule = |of: Value, rule: &str| {
        let mut of = of;
        of["x-kubernetes-validations"] = json!([{"rule": rule}]);
        schema(of)
    };
    let at = "spec.validation.openAPIV3Schema.properties[spec]";
    for (change, field, words) in [
        (json!({"metadata": {"name": "other"}}), "metadata.name", "must be spec.names.plural+\".\"+spec.group"),
        (json!({"spec": {"scope": "Everywhere"}}), "spec.scope", "Unsupported value"),
        (json!({"spec": {"versions": []}}), "spec.versions", "at least one version"),
        (versions(json!({"storage": false})), "spec.versions", "exactly one version marked as storage version"),
        (versions(json!({"schema": null})), "spec.versions[0].schema.openAPIV3Schema", "schemas are required"),
        (
            schema(json!({"type": "object", "properties": {"a": {}}})),
            &format!("{at}.properties[a].type"),
            "must not be empty for specified object fields",
        ),
        (
            rule(json!({"type": "object", "properties": {"a": {"type": "integer"}}}), "self.b == 1"),
            &format!("{at}.x-kubernetes-validations[0].rule"),
            "undefined field 'b'",
        ),
        (
            rule(json!({"type": "array", "items": {"type": "string"}}), "self.all(x, self.all(y, x == y))"),
            &format!("{at}.x-kubernetes-validations[0].rule"),
            "exceeds budget by factor of more than 100x",
        ),
        (
            rule(json!({"type": "string", "maxLength": 5}), "self.size()"),
            &format!("{at}.x-kubernetes-validations[0].rule"),
            "must evaluate to a bool",
        ),
    ] {
        let mut bad = definition();
        bad["spec"]["versions"].as_array_mut().unwrap().truncate(1);
        apimachinery::patch::merge_patch(&mut bad, &change);
        let (code, answer) = server.json("POST", DEFINITIONS, &bad).await;
        let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
        let found = causes.iter().any(|c| c["field"] == field && c["message"].as_str().unwrap().contains(words));
        assert!(code == 422 && found, "{change}: {answer}");
    }
}

#[tokio::test]
async fn a_definition_waits_for_its_objects_to_go() {
    let server = with_ships().await;
    server.create(SHIPS, ship("a", json!({}))).await;
    let one = format!("{DEFINITIONS}/ships.sea.example.com");
    let (code, answer) = server.json("DELETE", &one, &json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(answer["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]), "{answer}");
    let (code, answer) = server.json("POST", SHIPS, &ship("b", json!({}))).await;
    assert!(code == 405 || code == 403, "no new ones now: {answer}");
    // The controller removes the objects, then the finalizer.
    assert_eq!(server.json("DELETE", &format!("{SHIPS}/a"), &json!({})).await.0, 200);
    assert_eq!(server.json("PATCH", &one, &json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(server.get(SHIPS, "*/*").await.0, 404);
    server.create(DEFINITIONS, definition()).await;
    assert!(server.read(SHIPS).await["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn nulls_are_dropped_when_they_are_sent_and_named_when_they_are_applied() {
    let server = with_ships().await;
    let nulls = json!({"masts": null, "rig": null, "crew": null, "note": null, "labels": {"a": null, "b": "c"}});
    let made = server.create(SHIPS, ship("a", nulls.clone())).await;
    assert_eq!(made["spec"], json!({"name": "bounty", "masts": 3, "rig": "brig", "note": null, "labels": {"b": "c"}}));
    let patch = json!({"spec": {"labels": {"b": null, "d": "e"}}});
    let (code, patched) = server.json("PATCH", &format!("{SHIPS}/a"), &patch).await;
    assert_eq!((code.as_u16(), &patched["spec"]["labels"]), (200, &json!({"d": "e"})));
    let applied = ship("b", nulls);
    let path = format!("{SHIPS}/b?fieldManager=m");
    let (code, answer) = server.patch(&path, "apply-patch+yaml", &applied).await;
    let told = answer["message"].as_str().unwrap_or("");
    assert!(code == 422 && told.contains("spec.crew in body must be of type array: \"null\""), "{answer}");
}

#[tokio::test]
async fn a_default_that_comes_later_shows_in_objects_of_before() {
    let server = with_ships().await;
    let made = server.create(SHIPS, ship("a", json!({}))).await;
    let before = made["metadata"]["resourceVersion"].clone();
    let mut changed = server.read(&format!("{DEFINITIONS}/ships.sea.example.com")).await;
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["anchors"] =
        json!({"type": "integer", "default": 2});
    let (code, answer) = server.json("PUT", &format!("{DEFINITIONS}/ships.sea.example.com"), &changed).await;
    assert_eq!(code, 200, "{answer}");
    let one = server.read(&format!("{SHIPS}/a")).await;
    assert_eq!((&one["spec"]["anchors"], &one["metadata"]["resourceVersion"]), (&json!(2), &before));
    assert_eq!(server.read(SHIPS).await["items"][0]["spec"]["anchors"], 2);
    let mut watch = server.watch(&format!("{SHIPS}?watch=true")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["anchors"], 2);
    // A change of it finds nothing else changed.
    let (code, patched) = server.json("PATCH", &format!("{SHIPS}/a"), &json!({"spec": {"masts": 4}})).await;
    assert_eq!((code.as_u16(), &patched["spec"]["anchors"]), (200, &json!(2)));
}

#[tokio::test]
async fn openapi_v2_of_custom_kinds_and_of_definitions_has_no_text_for_a_schema() {
    let server = with_ships().await;
    let (_, _, bytes) = server.get("/openapi/v2", "application/json").await;
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    let definitions = document["definitions"].as_object().unwrap();
    let mut open: Vec<(String, &Value)> = definitions.iter().map(|(name, of)| (name.clone(), of)).collect();
    while let Some((path, of)) = open.pop() {
        assert!(of.is_object(), "{path}: {of}");
        for (name, inner) in of["properties"].as_object().into_iter().flatten() {
            open.push((format!("{path}.{name}"), inner));
        }
        open.extend(of.get("items").map(|inner| (format!("{path}[]"), inner)));
    }
    let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    assert_eq!(document["definitions"][props]["properties"]["format"]["type"], "string");
    let ship = &document["definitions"]["com.example.sea.v1.Ship"];
    assert_eq!(ship["x-kubernetes-group-version-kind"][0]["kind"], "Ship", "{ship}");
    assert_eq!(ship["properties"]["spec"]["properties"]["note"], json!({}));
    assert_eq!(ship["properties"]["spec"]["properties"]["one"].get("oneOf"), None);
}
