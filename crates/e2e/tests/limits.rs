//! LimitRanges and ResourceQuotas on a server without a node, disruption budgets on real pods.

use testkit::Cluster;

const LIMITS: &str = "
apiVersion: v1
kind: LimitRange
metadata: {name: bounds}
spec:
  limits:
  - type: Container
    default: {memory: 128Mi}
    defaultRequest: {cpu: 100m}
    max: {memory: 256Mi}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: room}
spec:
  hard: {pods: 3, requests.cpu: 250m, requests.memory: 1Gi, configmaps: 6}
";

fn pod(name: &str, resources: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: x, resources: {resources}}}]}}\n"
    )
}

#[test]
fn namespaces_hold_what_their_limits_let_them() -> anyhow::Result<()> {
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    cluster.apply(LIMITS)?;
    let create = |yaml: &str| cluster.kubectl_with(&["create", "-f", "-"], yaml);
    let refused = |yaml: &str, words: &[&str]| {
        let output = create(yaml);
        assert!(output.code != 0, "{yaml} was accepted");
        words.iter().for_each(|w| assert!(output.stderr.contains(w), "{w:?} is missing in {}", output.stderr));
    };
    let first = create(&pod("a", "{}"));
    assert_eq!(first.code, 0, "{first:?}");
    let a = cluster.get("pod", "a")?;
    let resources = &a["spec"]["containers"][0]["resources"];
    assert_eq!(
        *resources,
        serde_json::json!({"limits": {"memory": "128Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}})
    );
    assert_eq!(a["status"]["qosClass"], "Burstable");
    refused(
        &pod("b", "{limits: {memory: 1Gi}}"),
        &["forbidden", "maximum memory usage per Container is 256Mi, but limit is 1Gi"],
    );
    refused(
        &pod("b", "{requests: {cpu: 200m}}"),
        &[
            "exceeded quota: room",
            "requested: requests.cpu=200m",
            "used: requests.cpu=100m",
            "limited: requests.cpu=250m",
        ],
    );
    assert_eq!(create(&pod("b", "{}")).code, 0);
    cluster.eventually("the quota shows what is used", || {
        let used = cluster.get("resourcequota", "room")?["status"]["used"].clone();
        Ok(used["pods"] == "2" && used["requests.cpu"] == "200m" && used["requests.memory"] == "256Mi")
    })?;
    cluster.ok(&["delete", "pod", "a", "--grace-period=0", "--force"])?;
    assert_eq!(create(&pod("c", "{requests: {cpu: 150m}}")).code, 0);

    // However many try at once, no more than the limit get in.
    let before = cluster.list("configmaps", "")?.len();
    let line = cluster.kubectl_line(&["create", "configmap"]).join(" ");
    let script = format!("for i in $(seq 12); do {line} m$i & done; wait");
    let many = cluster.server.run(&["bash".into(), "-c".into(), script], "");
    assert!(many.stderr.contains("exceeded quota: room"), "{many:?}");
    assert_eq!(many.stdout.lines().filter(|l| l.contains("created")).count(), 6 - before, "{many:?}");
    assert_eq!(cluster.list("configmaps", "")?.len(), 6);

    cluster.ok(&["delete", "limitrange", "bounds"])?;
    refused(&pod("d", "{}"), &["failed quota: room", "must specify", "requests.cpu for: c"]);
    Ok(())
}

#[test]
fn pods_keep_to_the_security_level_of_their_namespace() -> anyhow::Result<()> {
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    for label in ["enforce=baseline", "warn=restricted"] {
        cluster.ok(&["label", "namespace", "default", &format!("pod-security.kubernetes.io/{label}")])?;
    }
    let create = |yaml: &str| cluster.kubectl_with(&["create", "-f", "-"], yaml);
    let plain = create(&pod("plain", "{}"));
    assert!(plain.code == 0 && plain.stderr.contains("would violate PodSecurity \"restricted:latest\""), "{plain:?}");
    let host = create(&pod("host", "{}").replace("containers:", "hostNetwork: true, containers:"));
    let told =
        "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert!(host.code != 0 && host.stderr.contains(told), "{host:?}");
    Ok(())
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
";

#[test]
fn budgets_hold_evictions_back() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(WEB)?;
    let allowed = |n: i64| {
        let cluster = &cluster;
        move || {
            let status = cluster.get("pdb", "web")?["status"].clone();
            Ok(status["disruptionsAllowed"] == n && status["currentHealthy"].as_i64() >= Some(2))
        }
    };
    cluster.eventually("the budget allows none", allowed(0))?;
    let evict = |pod: &str| {
        let body = format!(
            "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{pod}\",\"namespace\":\"default\"}}}}"
        );
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        cluster.kubectl_with(&["create", "--raw", &path, "-f", "-"], &body)
    };
    let pods = cluster.list("pods", "app=web")?;
    let name = |i: usize| pods[i]["metadata"]["name"].as_str().unwrap_or("").to_string();
    let refused = evict(&name(0));
    assert!(
        refused.code != 0 && refused.stderr.contains("it would violate the pod's disruption budget"),
        "{refused:?}"
    );
    cluster.ok(&["scale", "deployment", "web", "--replicas=3"])?;
    cluster.eventually("the budget allows one", allowed(1))?;
    // Nothing may take the evicted one's place yet, or the second eviction would be granted too.
    cluster.ok(&["cordon", "server-1"])?;
    assert_eq!(evict(&name(0)).code, 0);
    let second = evict(&name(1));
    assert!(second.code != 0, "the first eviction has used the budget up: {second:?}");
    cluster.ok(&["uncordon", "server-1"])?;
    cluster.eventually("the evicted one is replaced", allowed(1))
}

const HARDY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: hardy}
spec:
  terminationGracePeriodSeconds: 30
  tolerations: [{operator: Exists}]
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
";

#[test]
fn a_node_that_runs_short_says_so_and_evicts() -> anyhow::Result<()> {
    // No machine has that much.
    let cluster = Cluster::start_with(&["--eviction-hard", "memory.available<100Pi"])?;
    cluster.eventually("the node tells of its shortage, and is tainted", || {
        let node = &cluster.list("nodes", "")?[0];
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let low = conditions.iter().any(|c| c["type"] == "MemoryPressure" && c["status"] == "True");
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        Ok(low && taints.iter().any(|t| t["key"] == "node.kubernetes.io/memory-pressure"))
    })?;
    cluster.apply(HARDY)?;
    cluster.eventually("the pod that comes all the same is evicted", || {
        let status = &cluster.get("pod", "hardy")?["status"];
        anyhow::ensure!(status["phase"] == "Failed" && status["reason"] == "Evicted", "{status}");
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let told = status["message"].as_str().is_some_and(|m| m.contains("low on resource: memory"));
        Ok(told && conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True"))
    })?;
    let plain = cluster.get("pod", "plain")?;
    assert!(plain["spec"]["nodeName"].is_null(), "{plain}");
    let message = &plain["status"]["conditions"][0]["message"];
    assert!(message.as_str().is_some_and(|m| m.contains("memory-pressure")), "{message}");
    let refused = cluster.server.timonel(&["server", "--eviction-hard", "cpu<1"]);
    assert!(refused.code != 0 && refused.stderr.contains("memory.available<100Mi"), "{refused:?}");
    Ok(())
}

const CONFINED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: confined}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, 'grep Seccomp: /proc/self/status; ls / > /dev/null && echo works; sleep 3600']
  - name: open
    image: busybox:1.28
    command: [sh, -c, 'grep Seccomp: /proc/self/status; sleep 3600']
    securityContext: {seccompProfile: {type: Unconfined}}
---
apiVersion: v1
kind: Pod
metadata: {name: own-profile}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: mine.json}}
";

#[test]
fn containers_are_confined_by_seccomp() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(CONFINED)?;
    cluster.wait_pod("confined")?;
    let log = |container: &str| cluster.ok(&["logs", "confined", "-c", container]);
    cluster.eventually("both have written", || Ok(log("c")?.contains("works") && log("open")?.contains("Seccomp")))?;
    assert!(log("c")?.contains("Seccomp:\t2"), "{}", log("c")?);
    assert!(log("open")?.contains("Seccomp:\t0"), "{}", log("open")?);
    let inside = cluster.ok(&["exec", "confined", "-c", "c", "--", "grep", "Seccomp:", "/proc/self/status"])?;
    assert!(inside.contains("Seccomp:\t2"), "exec must be confined too: {inside}");
    cluster.eventually("a profile that isn't there is told of", || {
        let waiting = &cluster.get("pod", "own-profile")?["status"]["containerStatuses"][0]["state"]["waiting"];
        Ok(waiting["reason"] == "CreateContainerError"
            && waiting["message"].as_str().is_some_and(|m| m.contains("mine.json")))
    })
}
