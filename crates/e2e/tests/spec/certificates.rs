//! Pods have certificates of their own and know whom to trust: projected volumes `podCertificate` and `clusterTrustBundle`.

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, SubjectPublicKeyInfo};
use serde_json::{Value, json};
use testkit::Cluster;
use time::{Duration, OffsetDateTime};

const SIGNER: &str = "example.com/signer";
/// As many bundles as upstream's conformance suite mounts into one pod, and one more.
const MANY: usize = 101;

/// What signs requests, as somebody's controller does.
struct Signer {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    fn new() -> anyhow::Result<Self> {
        let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key)?.pem();
        Ok(Signer { authority, issuer: Issuer::new(params, key) })
    }

    /// Signs what was requested, or denies it to who says so.
    fn answer(&self, cluster: &Cluster) -> anyhow::Result<()> {
        for request in cluster.list("podcertificaterequests", "")? {
            if request["status"]["conditions"][0].is_object() || request["spec"]["signerName"] != SIGNER {
                continue;
            }
            let condition = |kind: &str| {
                json!([{"type": kind, "status": "True", "reason": "Tested", "message": "by the test",
                    "lastTransitionTime": apimachinery::clock::now_rfc3339()}])
            };
            let told = &request["spec"]["unverifiedUserAnnotations"];
            let status = if told["example.com/deny"] == "please" {
                json!({"conditions": condition("Denied")})
            } else {
                let encoded = request["spec"]["stubPKCS10Request"].as_str().unwrap_or("");
                let stub = base64::engine::general_purpose::STANDARD.decode(encoded)?;
                let key = pki::key_of_request(&stub).map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
                let mut params = CertificateParams::default();
                params.not_before = OffsetDateTime::from_unix_timestamp(apimachinery::clock::now().as_second())?;
                let seconds = request["spec"]["maxExpirationSeconds"].as_i64().unwrap_or(0);
                params.not_after = params.not_before + Duration::seconds(seconds);
                let path = told["example.com/path"].as_str().unwrap_or("none");
                params.subject_alt_names =
                    vec![SanType::URI(format!("spiffe://cluster.local/{path}").as_str().try_into()?)];
                let leaf = params.signed_by(&SubjectPublicKeyInfo::from_der(&key)?, &self.issuer)?;
                json!({"conditions": condition("Issued"), "certificateChain": format!("{}{}", leaf.pem(), self.authority),
                    "notBefore": time_of(params.not_before)?, "notAfter": time_of(params.not_after)?,
                    "beginRefreshAt": time_of(params.not_before + Duration::minutes(30))?})
            };
            let name = request["metadata"]["name"].as_str().unwrap_or("");
            let patch = json!({ "status": status }).to_string();
            cluster.ok(&[
                "patch",
                "podcertificaterequests",
                name,
                "--subresource",
                "status",
                "--type",
                "merge",
                "-p",
                &patch,
            ])?;
        }
        Ok(())
    }
}

fn time_of(time: OffsetDateTime) -> anyhow::Result<String> {
    Ok(apimachinery::clock::format_rfc3339(jiff::Timestamp::from_second(time.unix_timestamp())?))
}

fn pod(name: &str, sources: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "36000"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "projected": {"sources": sources}}]}})
}

fn bundle(name: &str, signer: &str, label: &str, pem: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": name, "labels": {"live": label}},
        "spec": {"signerName": signer, "trustBundle": pem}})
}

fn read(cluster: &Cluster, pod: &str, file: &str) -> anyhow::Result<String> {
    cluster.ok(&["exec", pod, "--", "cat", &format!("/v/{file}")])
}

fn waits_for(cluster: &Cluster, pod: &str, words: &str) -> anyhow::Result<()> {
    cluster.eventually(pod, || {
        let select = format!("involvedObject.name={pod},reason=FailedMount");
        Ok(cluster
            .ok(&["get", "events", "--field-selector", &select, "-o", "jsonpath={.items[*].message}"])?
            .contains(words))
    })
}

#[test]
fn pods_have_certificates_and_authorities_of_their_own() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    let (signer, other) = (Signer::new()?, Signer::new()?);
    let certificate = |more: Value| {
        let mut source = json!({"signerName": SIGNER, "keyType": "ECDSAP256", "credentialBundlePath": "bundle"});
        source.as_object_mut().into_iter().for_each(|of| of.extend(more.as_object().cloned().unwrap_or_default()));
        json!([{ "podCertificate": source }])
    };
    let trust = |source: Value| json!([{ "clusterTrustBundle": source }]);
    let mut all = vec![
        bundle("example.com:signer:one", SIGNER, "yes", &signer.authority),
        bundle("example.com:signer:two", SIGNER, "no", &format!("{}{}", signer.authority, other.authority)),
        bundle("own", "", "yes", &other.authority),
        pod("day", &certificate(json!({"keyType": "ED25519", "userAnnotations": {"example.com/path": "ns/day"}}))),
        pod(
            "hour",
            &certificate(
                json!({"maxExpirationSeconds": 3600, "keyPath": "key", "certificateChainPath": "chain", "credentialBundlePath": null}),
            ),
        ),
        pod("large", &certificate(json!({"keyType": "ECDSAP384"}))),
        pod("denied", &certificate(json!({"userAnnotations": {"example.com/deny": "please"}}))),
        pod(
            "unsigned",
            &json!([{"podCertificate": {"signerName": "example.com/nobody", "keyType": "ED25519", "keyPath": "k"}}]),
        ),
        pod("named", &trust(json!({"name": "own", "path": "ca"}))),
        pod("all", &trust(json!({"signerName": SIGNER, "labelSelector": {}, "path": "ca"}))),
        pod(
            "some",
            &trust(json!({"signerName": SIGNER, "labelSelector": {"matchLabels": {"live": "yes"}}, "path": "ca"})),
        ),
        pod("none", &trust(json!({"signerName": SIGNER, "path": "ca", "optional": true}))),
        pod(
            "nothing",
            &trust(
                json!({"signerName": SIGNER, "labelSelector": {"matchLabels": {"live": "never"}}, "path": "ca", "optional": true}),
            ),
        ),
        pod("gone", &trust(json!({"name": "gone", "path": "ca"}))),
        pod(
            "unmatched",
            &trust(json!({"signerName": SIGNER, "labelSelector": {"matchLabels": {"live": "never"}}, "path": "ca"})),
        ),
    ];
    let numbers = || 0..MANY;
    all.extend(numbers().map(|n| bundle(&format!("many-{n}"), "", "many", &signer.authority)));
    let mut many = pod("many", &json!([]));
    many["spec"]["volumes"] = numbers().map(|n| json!({"name": format!("v{n}"), "projected": {"sources": trust(json!({"name": format!("many-{n}"), "path": "ca"}))}})).collect();
    many["spec"]["containers"][0]["volumeMounts"] =
        numbers().map(|n| json!({"name": format!("v{n}"), "mountPath": format!("/v/{n}")})).collect();
    all.push(many);
    let text: Vec<String> = all.iter().map(Value::to_string).collect();
    cluster.apply(&text.join("\n---\n"))?;
    let ready = ["day", "hour", "large", "named", "all", "some", "none", "nothing", "many"];
    cluster.eventually("pods with certificates and authorities are ready", || {
        signer.answer(&cluster)?;
        let pods = cluster.list("pods", "")?;
        let is_ready =
            |name: &&str| pods.iter().any(|p| p["metadata"]["name"] == **name && testkit::cluster::is_ready(p));
        Ok(ready.iter().all(is_ready))
    })?;
    // The key and the chain are there, belong together, lead to the authority and are good for as long as was asked for.
    for (pod, key, chain, seconds) in
        [("day", "bundle", "bundle", 86400), ("hour", "key", "chain", 3600), ("large", "bundle", "bundle", 86400)]
    {
        let (key, chain) = (read(&cluster, pod, key)?, read(&cluster, pod, chain)?);
        assert!(key.contains("BEGIN PRIVATE KEY"), "{pod}");
        assert_eq!(pki::pem_blocks(&chain).filter(|block| block.label == "CERTIFICATE").count(), 2, "{pod}");
        let leaf: String = pki::pem_blocks(&chain)
            .filter(|block| block.label == "CERTIFICATE")
            .take(1)
            .map(|b| pki::to_pem("CERTIFICATE", &b.contents))
            .collect();
        assert!(pki::is_signed_by(&signer.authority, &leaf), "{pod}");
        assert!(pki::key_matches(&leaf, &key), "{pod}");
        let facts = pki::parse_certificate(&leaf)?;
        assert_eq!(facts.not_after - facts.not_before, seconds, "{pod}");
    }
    let count = |text: &str| pki::pem_blocks(text).count();
    for (pod, authorities) in [("named", 1), ("all", 2), ("some", 1), ("none", 0), ("nothing", 0)] {
        assert_eq!(count(&read(&cluster, pod, "ca")?), authorities, "{pod}");
    }
    assert_eq!(count(&read(&cluster, "many", "100/ca")?), 1);
    // What is missing is named, and the pod waits for it.
    waits_for(&cluster, "denied", "PodCertificateRequest was permanently denied: reason=\"Tested\"")?;
    waits_for(&cluster, "gone", "clustertrustbundle.certificates.k8s.io \"gone\" not found")?;
    waits_for(&cluster, "unmatched", "combination of signerName and labelSelector matched zero ClusterTrustBundles")?;
    waits_for(&cluster, "unsigned", "credential bundle is not issued yet")?;
    let gone = bundle("gone", "", "yes", &signer.authority);
    cluster.apply(&gone.to_string())?;
    cluster.wait_pod("gone")
}
