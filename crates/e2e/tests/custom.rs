//! Custom resources with the stock client, on a server without a node.

use testkit::Cluster;

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: tabs.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: tabs, kind: Tab, shortNames: [tb], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Color, type: string, jsonPath: .spec.color}
    schema: &schema
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations:
            - rule: self.color != 'red' || self.size < 8
              message: a red one must be small
            properties:
              size: {type: integer, minimum: 1, description: How large it is}
              place:
                type: string
                x-kubernetes-validations: [{rule: self == oldSelf, message: a place is for good}]
              color: {type: string, enum: [red, blue], default: blue}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [id]
                items: {type: object, required: [id], properties: {id: {type: string}, weight: {type: integer}}}
          status: {type: object, properties: {size: {type: integer}}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    subresources: {status: {}}
    schema: *schema
";

fn tab(name: &str, spec: &str) -> String {
    format!("apiVersion: example.com/v1\nkind: Tab\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn custom_kinds_behave_like_built_in_ones() -> anyhow::Result<()> {
    let Some(mut cluster) = Cluster::start_current(&["--disable-agent"])? else { return Ok(()) };
    cluster.apply(DEFINITION)?;
    cluster.ok(&["wait", "--for=condition=Established", "crd/tabs.example.com", "--timeout=10s"])?;
    cluster.apply(&tab("a", "{size: 2, parts: [{id: px, weight: 1}]}"))?;
    let a = cluster.get("tab", "a")?;
    assert_eq!((&a["spec"]["color"], &a["metadata"]["generation"]), (&"blue".into(), &1.into()), "{a}");

    let refused = |yaml: &str, words: &[&str]| {
        let output = cluster.kubectl_with(&["apply", "-f", "-"], yaml);
        assert!(output.code != 0, "{yaml} was accepted");
        words.iter().for_each(|w| assert!(output.stderr.contains(w), "{w:?} is missing in {}", output.stderr));
    };
    refused(&tab("b", "{size: 0}"), &["spec.size", "should be greater than or equal to 1"]);
    refused(&tab("b", "{size: big}"), &["spec.size", "must be of type integer"]);
    refused(&tab("b", "{size: 1, color: green}"), &["spec.color", "supported values", "red"]);
    refused(&tab("b", "{size: 1, colour: red}"), &["unknown field", "spec.colour"]);
    refused(&tab("b", "{}"), &["spec.size: Required value"]);
    refused(&tab("b", "{size: 9, color: red}"), &["spec: Invalid value", "a red one must be small"]);
    cluster.apply(&tab("a", "{size: 2, place: here, parts: [{id: px, weight: 1}]}"))?;
    refused(&tab("a", "{size: 2, place: there}"), &["spec.place: Invalid value", "a place is for good"]);
    cluster.apply(&tab("a", "{size: 2, place: here, parts: [{id: px, weight: 1}]}"))?;

    let table = cluster.ok(&["get", "tb"])?;
    assert_eq!(
        table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>(),
        [["NAME", "SIZE", "COLOR"], ["a", "2", "blue"]]
    );
    assert!(cluster.ok(&["get", "all"])?.contains("tab.example.com/a"));
    assert!(cluster.ok(&["explain", "tab.spec.size"])?.contains("How large it is"));
    cluster.apply(&tab("b", "{size: 1, color: red}"))?;
    assert_eq!(cluster.ok(&["get", "tab", "--field-selector", "spec.color=red", "-o", "name"])?, "tab.example.com/b\n");

    // Subresources, and the other version.
    cluster.ok(&["scale", "tab", "a", "--replicas=5"])?;
    cluster.ok(&["patch", "tab", "a", "--subresource=status", "--type=merge", "-p", "{\"status\":{\"size\":5}}"])?;
    let beta = cluster.kubectl(&["get", "tabs.v1beta1.example.com", "a", "-o", "json"]);
    let object: serde_json::Value = serde_json::from_str(&beta.stdout)?;
    assert_eq!(object["apiVersion"], "example.com/v1beta1");
    assert_eq!((&object["spec"]["size"], &object["status"]["size"]), (&5.into(), &5.into()));
    assert_eq!(object["metadata"]["generation"], 3, "the status doesn't count");

    // Server-side apply merges by the schema's keys.
    let apply = |by: &str, spec: &str| {
        let manager = format!("--field-manager={by}");
        cluster.kubectl_with(&["apply", "--server-side", &manager, "-f", "-"], &tab("c", spec))
    };
    for (by, part) in [("one", "{id: px, weight: 1}"), ("two", "{id: py, weight: 2}")] {
        let applied = apply(by, &format!("{{size: 1, parts: [{part}]}}"));
        assert_eq!(applied.code, 0, "{applied:?}");
    }
    assert_eq!(cluster.get("tab", "c")?["spec"]["parts"].as_array().map(Vec::len), Some(2));
    let conflict = apply("two", "{size: 1, parts: [{id: px, weight: 9}]}");
    assert!(conflict.stderr.contains("conflict with \"one\": .spec.parts[id=\"px\"].weight"), "{conflict:?}");

    // All of it outlives the server.
    cluster.server.crash();
    cluster.server.spawn()?;
    cluster.eventually("the objects are there again", || Ok(cluster.get("tab", "a")?["spec"]["size"] == 5))?;

    // Owners of a custom kind take what they own along.
    let uid = cluster.get("tab", "b")?["metadata"]["uid"].as_str().unwrap_or("").to_string();
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: owned, ownerReferences: [{{apiVersion: example.com/v1, kind: Tab, name: b, uid: {uid}}}]}}\n"
    ))?;
    cluster.ok(&["delete", "tab", "b"])?;
    cluster.eventually("what it owned is gone", || Ok(cluster.kubectl(&["get", "configmap", "owned"]).code != 0))?;

    // A namespace takes its custom objects along, a definition all of them.
    cluster.ok(&["create", "namespace", "other"])?;
    cluster.ok(&["-n", "other", "create", "configmap", "x"])?;
    let there = cluster.kubectl_with(&["-n", "other", "apply", "-f", "-"], &tab("d", "{size: 1}"));
    assert_eq!(there.code, 0, "{there:?}");
    cluster.ok(&["delete", "namespace", "other", "--timeout=30s"])?;
    cluster.ok(&["delete", "crd", "tabs.example.com", "--timeout=30s"])?;
    let gone = cluster.kubectl(&["get", "tabs"]);
    // kubectl may still know of it.
    let told = ["doesn't have a resource type", "could not find the requested resource"];
    assert!(gone.code != 0 && told.iter().any(|t| gone.stderr.contains(t)), "{gone:?}");
    // Nothing of the old ones comes back with a new definition.
    cluster.apply(DEFINITION)?;
    assert_eq!(cluster.ok(&["get", "tabs", "-A", "-o", "name"])?, "");
    Ok(())
}

#[test]
fn malformed_definitions_are_named() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&["--disable-agent"])? else { return Ok(()) };
    let refused = |from: &str, to: &str, words: &[&str]| {
        let output = cluster.kubectl_with(&["apply", "-f", "-"], &DEFINITION.replacen(from, to, 1));
        assert!(output.code != 0, "{to:?} was accepted");
        words.iter().for_each(|w| assert!(output.stderr.contains(w), "{w:?} is missing in {}", output.stderr));
    };
    refused("name: tabs.example.com", "name: tabs.example.org", &["metadata.name", "spec.names.plural"]);
    refused("storage: true", "storage: false", &["spec.versions", "exactly one version"]);
    refused("type: object\n        properties:", "type: string\n        properties:", &["must be object at the root"]);
    refused("self.color != 'red'", "color != 'red'", &["x-kubernetes-validations[0].rule", "undeclared reference"]);
    refused("plural: tabs, kind: Tab", "plural: tabs, kindd: Tab", &["kindd"]);
    Ok(())
}
