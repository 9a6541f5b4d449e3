//! Server-side apply with the stock client, on a server without a node.

use testkit::Cluster;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {team: a}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'nginx:1.27', ports: [{containerPort: 80}]}
";

fn managers(object: &serde_json::Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|e| format!("{} {}", e["manager"].as_str().unwrap_or(""), e["operation"].as_str().unwrap_or("")))
        .collect()
}

#[test]
fn fields_have_managers_and_conflicts_are_reported() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&["--disable-agent"])? else { return Ok(()) };
    let apply = |by: &str, yaml: &str, flags: &[&str]| {
        let manager = format!("--field-manager={by}");
        cluster.kubectl_with(&[&["apply", "--server-side", &manager, "-f", "-"], flags].concat(), yaml)
    };
    let first = apply("a", WEB, &[]);
    assert!(first.stdout.contains("deployment.apps/web serverside-applied"), "{first:?}");
    let get = || -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&cluster.ok(&["get", "deployment", "web", "-o", "json", "--show-managed-fields"])?)?)
    };
    cluster.eventually("the controller has written its part", || Ok(managers(&get()?).len() > 1))?;
    let object = get()?;
    assert!(managers(&object).contains(&"a Apply".to_string()), "{object}");
    let fields = object["metadata"]["managedFields"][0]["fieldsV1"].clone();
    assert!(
        !fields["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"web\"}"]["f:image"].is_null(),
        "{fields}"
    );

    // Applying the same again writes nothing.
    apply("a", WEB, &[]);
    let before = get()?["metadata"]["resourceVersion"].clone();
    apply("a", WEB, &[]);
    assert_eq!(get()?["metadata"]["resourceVersion"], before);

    let other = WEB.replace("replicas: 2", "replicas: 3");
    let conflict = apply("b", &other, &[]);
    assert!(conflict.code != 0 && conflict.stderr.contains("conflict with \"a\": .spec.replicas"), "{conflict:?}");
    assert_eq!(apply("b", &other, &["--force-conflicts"]).code, 0);
    assert_eq!(get()?["spec"]["replicas"], 3);

    // What a manager leaves out goes if nobody else has it.
    let without = WEB.replace(", labels: {team: a}", "").replace("  replicas: 2\n", "");
    assert_eq!(apply("a", &without, &[]).code, 0);
    assert_eq!(get()?["metadata"]["labels"]["team"], "a", "the other manager applied it, too");
    assert_eq!(apply("b", &without, &[]).code, 0);
    assert!(get()?["metadata"]["labels"].is_null());

    // Updates own what they change.
    cluster.ok(&["scale", "deployment", "web", "--replicas=5"])?;
    let conflict = apply("a", WEB, &[]);
    assert!(conflict.stderr.contains("conflict with \"kubectl\" with subresource \"scale\""), "{conflict:?}");

    let diff =
        cluster.kubectl_with(&["diff", "--server-side", "--force-conflicts", "--field-manager=a", "-f", "-"], WEB);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(diff.stdout.contains("-  replicas: 5") && diff.stdout.contains("+  replicas: 2"), "{diff:?}");
    let dry = apply("a", WEB, &["--force-conflicts", "--dry-run=server"]);
    assert!(dry.stdout.contains("server dry run"), "{dry:?}");
    assert_eq!(get()?["spec"]["replicas"], 5);

    let strict = apply("a", &WEB.replace("replicas: 2", "replcas: 2"), &[]);
    assert!(
        strict.code != 0 && strict.stderr.contains(".spec.replcas") | strict.stderr.contains("spec.replcas"),
        "{strict:?}"
    );
    Ok(())
}

#[test]
fn manifests_in_the_folder_are_applied_and_kept_applied() -> anyhow::Result<()> {
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let folder = cluster.server.folder().join("data/server/manifests");
    std::fs::create_dir_all(&folder)?;
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text);
    let color = |name: &str| Ok::<_, anyhow::Error>(cluster.get("configmap", name)?["data"]["color"].clone());
    let map = |name: &str, color: &str| {
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{color: {color}}}\n")
    };
    write("a.yaml", &[map("one", "red"), map("two", "blue")].concat())?;
    cluster.eventually("both objects are there", || Ok(color("one")? == "red" && color("two")? == "blue"))?;
    write("a.yaml", &map("one", "green"))?;
    cluster.eventually("a change is followed", || Ok(color("one")? == "green"))?;
    // A file that can't be applied yet is, once what it needs is there.
    let early = "apiVersion: example.com/v1\nkind: Late\nmetadata: {name: x}\n";
    write("b.yaml", early)?;
    write(
        "c.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: lates.example.com}\nspec: {group: example.com, scope: Namespaced, \
         names: {plural: lates, kind: Late}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}\n",
    )?;
    cluster.eventually("the early one is there too", || Ok(cluster.kubectl(&["get", "lates", "x"]).code == 0))
}

#[test]
fn client_side_apply_moves_to_server_side() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&["--disable-agent"])? else { return Ok(()) };
    cluster.apply(WEB)?;
    let moved = cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], WEB);
    assert_eq!(moved.code, 0, "{moved:?}");
    let without = cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &WEB.replace(", labels: {team: a}", ""));
    assert_eq!(without.code, 0, "{without:?}");
    assert!(cluster.get("deployment", "web")?["metadata"]["labels"].is_null());
    Ok(())
}
