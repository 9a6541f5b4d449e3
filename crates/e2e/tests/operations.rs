//! What operators ask of a server: an audit log, and objects that are encrypted on disk.

use serde_json::Value;
use testkit::Cluster;
use testkit::Node;

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ['system:kube-controller-manager', 'system:kube-scheduler', 'system:apiserver', 'system:manifests']}
- {level: Metadata, resources: [{group: '', resources: [secrets]}]}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}
- {level: None}
";

fn lines(node: &Node) -> Vec<Value> {
    let text = std::fs::read_to_string(node.folder().join("audit.log")).unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

#[test]
fn requests_are_audited_as_the_policy_says() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_prepared(&["--disable-agent"], |node| {
        node.file_flag("--audit-policy-file", "policy.yaml", POLICY)?;
        node.file_flag("--audit-log-path", "audit.log", "")
    })?;
    cluster.ok(&["create", "configmap", "m", "--from-literal=k=v"])?;
    cluster.ok(&["create", "secret", "generic", "s", "--from-literal=password=hunter2"])?;
    cluster.kubectl(&["--as", "nobody", "get", "secret", "s"]);
    cluster.eventually("all three are told", || Ok(lines(&cluster.server).len() >= 3))?;
    let told = lines(&cluster.server);
    let find = |verb: &str, resource: &str| {
        told.iter().find(|e| e["verb"] == verb && e["objectRef"]["resource"] == resource).cloned().unwrap_or_default()
    };
    let map = find("create", "configmaps");
    assert_eq!((&map["level"], &map["stage"]), (&"RequestResponse".into(), &"ResponseComplete".into()), "{map}");
    assert_eq!((&map["user"]["username"], &map["sourceIPs"][0]), (&"kubernetes-admin".into(), &"127.0.0.1".into()));
    assert_eq!((&map["requestObject"]["data"]["k"], &map["responseObject"]["data"]["k"]), (&"v".into(), &"v".into()));
    assert_eq!((&map["responseStatus"]["code"], &map["objectRef"]["namespace"]), (&201.into(), &"default".into()));
    assert!(map["responseObject"]["metadata"]["managedFields"].is_null(), "{map}");
    let secret = find("create", "secrets");
    assert!(secret["level"] == "Metadata" && secret["requestObject"].is_null(), "{secret}");
    let denied = find("get", "secrets");
    assert_eq!(
        (&denied["responseStatus"]["code"], &denied["responseStatus"]["reason"]),
        (&403.into(), &"Forbidden".into())
    );
    assert_eq!(denied["annotations"]["authorization.k8s.io/decision"], "forbid", "{denied}");

    // A policy that can't be read is told before anything runs.
    cluster.server.crash();
    std::fs::write(cluster.server.folder().join("policy.yaml"), "kind: Policy\nrules: [{level: Loud}]\n")?;
    cluster.server.spawn()?;
    cluster.eventually("the mistake is told", || {
        let log = std::fs::read_to_string(cluster.server.folder().join("log"))?;
        Ok(log.contains("policy.yaml can't be used") && log.contains("Loud"))
    })?;
    Ok(())
}

fn on_disk(node: &Node, text: &str) -> anyhow::Result<bool> {
    for entry in std::fs::read_dir(node.folder().join("data/server/db"))? {
        let bytes = std::fs::read(entry?.path())?;
        if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn secrets_are_encrypted_on_disk() -> anyhow::Result<()> {
    use base64::Engine as _;
    let secret = |byte: u8| base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    let configuration = |keys: &str| {
        format!(
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets]\n  providers: [{keys}, {{identity: {{}}}}]\n"
        )
    };
    let first = format!("{{secretbox: {{keys: [{{name: one, secret: {}}}]}}}}", secret(1));
    let mut cluster = Cluster::start_prepared(&["--disable-agent"], |node| {
        node.file_flag("--encryption-provider-config", "encryption.yaml", &configuration(&first))
    })?;
    let hidden = base64::engine::general_purpose::STANDARD.encode("correct horse battery staple");
    cluster.ok(&["create", "secret", "generic", "s", "--from-literal=p=correct horse battery staple"])?;
    cluster.ok(&["create", "configmap", "m", "--from-literal=p=plain as day"])?;
    assert_eq!(cluster.get("secret", "s")?["data"]["p"], hidden.as_str());
    assert!(on_disk(&cluster.server, "plain as day")? && !on_disk(&cluster.server, &hidden)?);
    assert!(on_disk(&cluster.server, "k8s:enc:secretbox:v1:one:")?);

    // A new first key takes over after a restart; the old one may go then.
    let file = cluster.server.folder().join("encryption.yaml");
    let second = format!("{{aesgcm: {{keys: [{{name: two, secret: {}}}]}}}}", secret(2));
    cluster.server.crash();
    std::fs::write(&file, configuration(&format!("{second}, {first}")))?;
    cluster.server.spawn()?;
    cluster.eventually("the secret is under the new key", || on_disk(&cluster.server, "k8s:enc:aesgcm:v1:two:"))?;
    cluster.eventually("it is readable", || Ok(cluster.get("secret", "s")?["data"]["p"] == hidden.as_str()))?;
    cluster.server.crash();
    std::fs::write(&file, configuration(&second))?;
    cluster.server.spawn()?;
    cluster.eventually("it is still readable", || Ok(cluster.get("secret", "s")?["data"]["p"] == hidden.as_str()))?;
    Ok(())
}
