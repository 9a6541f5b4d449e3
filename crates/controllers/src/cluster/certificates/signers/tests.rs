use serde_json::{Value, json};

use super::*;

fn config(folder: &std::path::Path) -> Config {
    Config {
        authority: Arc::new(pki::Authority::load_or_create(folder, "ca").unwrap()),
        token_key: Arc::new(pki::TokenKey::new(&pki::new_key().unwrap()).unwrap()),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        api_names: vec!["api.example.com".into(), "198.51.100.9".into()],
        node_cidr_mask_size: 24,
        local_storage: false,
        snapshots: false,
        service_lb: false,
        ingress: false,
        api_port: 6443,
    }
}

fn node(name: &str, addresses: &[&str], labels: Value) -> Arc<Node> {
    let addresses: Vec<Value> = addresses.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
    let object = json!({"metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}});
    Arc::new(serde_json::from_value(object).unwrap())
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

/// What a signer says to a request: `signer|organization|common name|names|usages`.
fn check(cluster: &Cluster<'_>, request: &str) -> Result<SigningProfile, String> {
    let part = |i: usize| request.split('|').nth(i).unwrap_or("").trim();
    let list =
        |i: usize| part(i).split(',').map(str::trim).filter(|p| !p.is_empty()).map(String::from).collect::<Vec<_>>();
    let usage = if part(0) == SERVING { "server auth" } else { "client auth" };
    let usages = if part(4).is_empty() { vec!["digital signature".into(), usage.into()] } else { list(4) };
    let pem = pki::create_certificate_request(&pki::new_key().unwrap(), part(2), part(1), &list(3)).unwrap();
    let facts = pki::parse_certificate_request(&pem).unwrap();
    let spec = CertificateSigningRequestSpec {
        signer_name: part(0).into(),
        usages: Some(usages),
        // The node itself asks.
        username: Some(part(2).into()),
        groups: Some(vec![part(1).into()]),
        ..Default::default()
    };
    Signer::of(part(0)).unwrap().check(&spec, &facts, cluster)
}

#[test]
fn signers_sign_what_upstreams_do_whoever_approved() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let nodes = [
        node(
            "a",
            &[
                "192.0.2.1",
                "10.43.0.1",
                "10.42.3.3",
                "127.0.0.1",
                "169.254.169.254",
                "192.0.2.2",
                "198.51.100.9",
                "198.51.100.10",
            ],
            json!({}),
        ),
        node("b", &["192.0.2.2"], json!({})),
        node("api.example.com", &["192.0.2.3"], json!({})),
        node("kubernetes.default.svc", &["192.0.2.4"], json!({})),
        node("server", &["198.51.100.9"], json!({CONTROL_PLANE: "true"})),
    ];
    let api = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["198.51.100.10"]}]});
    let api: EndpointSlice = serde_json::from_value(api).unwrap();
    let cluster = Cluster { config: &config, nodes: &nodes, api: Some(&api) };
    for (request, refused) in [
        (format!("{NODE_CLIENT}|system:nodes|system:node:a"), ""),
        (format!("{NODE_CLIENT}|system:nodes|system:node:a||digital signature, key encipherment, client auth"), ""),
        (format!("{NODE_CLIENT}|system:masters|system:node:a"), "organization is not system:nodes"),
        (format!("{NODE_CLIENT}|system:nodes|system:kube-controller-manager"), "does not begin with system:node:"),
        (format!("{NODE_CLIENT}|system:nodes|system:node:"), "does not begin with system:node:"),
        (format!("{NODE_CLIENT}|system:nodes|system:node:A b"), "subject common name"),
        (format!("{NODE_CLIENT}|system:nodes|system:node:a|x"), "DNS subjectAltNames are not allowed"),
        (format!("{NODE_CLIENT}|system:nodes|system:node:a|192.0.2.1"), "IP subjectAltNames are not allowed"),
        (format!("{NODE_CLIENT}|system:nodes|system:node:a||digital signature, server auth"), "usages did not match"),
        (
            format!("{NODE_CLIENT}|system:nodes|system:node:a||digital signature, client auth, server auth"),
            "usages did not match",
        ),
        (format!("{SERVING}|system:nodes|system:node:a|a, 192.0.2.1"), ""),
        (format!("{SERVING}|system:nodes|system:node:a"), "DNS or IP subjectAltName is required"),
        (format!("{SERVING}|dev|system:node:a|a"), "organization is not system:nodes"),
        (format!("{SERVING}|system:nodes|system:node:a|a|digital signature, client auth"), "usages did not match"),
        (format!("{SERVING}|system:nodes|system:node:a|other"), "is no address in the status"),
        (format!("{SERVING}|system:nodes|system:node:a|192.0.2.77"), "is no address in the status"),
        (format!("{SERVING}|system:nodes|system:node:a|kubernetes.default.svc"), "is no address in the status"),
        (format!("{SERVING}|system:nodes|system:node:a|10.43.0.1"), "services or pods"),
        (format!("{SERVING}|system:nodes|system:node:a|10.42.3.3"), "services or pods"),
        (format!("{SERVING}|system:nodes|system:node:a|127.0.0.1"), "of every machine"),
        (format!("{SERVING}|system:nodes|system:node:a|169.254.169.254"), "of every machine"),
        (format!("{SERVING}|system:nodes|system:node:a|192.0.2.2"), "an address of node \"b\""),
        (format!("{SERVING}|system:nodes|system:node:a|198.51.100.9"), "an address of the API server"),
        (format!("{SERVING}|system:nodes|system:node:a|198.51.100.10"), "an address of the API server"),
        (format!("{SERVING}|system:nodes|system:node:api.example.com|api.example.com"), "a name of the API server"),
        (
            format!("{SERVING}|system:nodes|system:node:kubernetes.default.svc|kubernetes.default.svc"),
            "a name of the API server",
        ),
        (format!("{SERVING}|system:nodes|system:node:gone|gone"), "there is no node"),
        (format!("{CLIENT}|dev|anna"), ""),
        (format!("{CLIENT}|dev|anna||client auth"), ""),
        (format!("{CLIENT}|system:masters|anna"), "system:masters group is not allowed"),
        (format!("{CLIENT}|dev|anna|x"), "DNS subjectAltNames are not allowed"),
        (format!("{CLIENT}|dev|anna||server auth"), "invalid usage for client certificate: server auth"),
        (format!("{CLIENT}|dev|anna||digital signature"), "missing required usage"),
    ] {
        match check(&cluster, &request) {
            Ok(_) => assert_eq!(refused, "", "{request}"),
            Err(why) => assert!(!refused.is_empty() && why.contains(refused), "{request}: {why}"),
        }
    }
    // Though another node says that the address is its own.
    check(&cluster, &format!("{SERVING}|system:nodes|system:node:server|server, 198.51.100.9")).unwrap();
    // Somebody else in the node's name.
    let facts = pki::parse_certificate_request(
        &pki::create_certificate_request(&pki::new_key().unwrap(), "system:node:server", NODES, &["server".into()])
            .unwrap(),
    )
    .unwrap();
    let spec = CertificateSigningRequestSpec {
        signer_name: SERVING.into(),
        usages: Some(vec!["digital signature".into(), "server auth".into()]),
        username: Some("admin".into()),
        ..Default::default()
    };
    assert!(Signer::NodeServing.check(&spec, &facts, &cluster).unwrap_err().contains("isn't that of the node"));
}
