//! LimitRanges and ResourceQuotas on a server without a node; disruption budgets and what pods may use on real ones.

mod node;

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
fn quotas_and_limit_ranges_bound_a_namespace() -> anyhow::Result<()> {
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
fn disruption_budgets_hold_evictions_back() -> anyhow::Result<()> {
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

#[test]
fn pods_over_their_ephemeral_storage_limit_are_evicted() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let pod = |name: &str, script: &str, limit: &str, size: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: v, emptyDir: {{{size}}}}}]\n  containers: [{{name: c, image: 'busybox:1.28', command: [sh, -c, '{script}; sleep 36000'], resources: {{{limit}}}, volumeMounts: [{{name: v, mountPath: /v}}]}}]\n"
        )
    };
    let three = "head -c 3000000 /dev/zero >";
    let two = "limits: {ephemeral-storage: 2Mi}";
    cluster.apply(
        &(pod("volume", &format!("{three} /v/f"), "", "sizeLimit: 2Mi")
            + &pod("root", &format!("{three} /f"), two, "")
            + &pod("both", &format!("{three} /v/f"), two, "")
            + &pod("log", "seq 400000", two, "")
            + &pod(
                "modest",
                &format!("{three} /v/f; {three} /f"),
                "limits: {ephemeral-storage: 9Mi}",
                "sizeLimit: 4Mi",
            )),
    )?;
    for (name, words) in [
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\""),
        ("root", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi"),
        ("both", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi"),
        ("log", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi"),
    ] {
        cluster.eventually(&format!("{name} is evicted"), || {
            let status = cluster.get("pod", name)?["status"].clone();
            anyhow::ensure!(status["phase"] == "Failed" && status["reason"] == "Evicted", "{status}");
            Ok(status["message"].as_str().is_some_and(|m| m.contains(words)))
        })?;
    }
    let modest = cluster.get("pod", "modest")?["status"].clone();
    assert_eq!(modest["phase"], "Running", "{modest}");
    Ok(())
}

#[test]
fn pod_level_resources_limit_all_containers_together() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    let current = cluster.use_current_kubectl();
    let pod = |name: &str, whole: &str, own: &str| {
        let container = |n: &str| {
            format!("  - {{name: {n}, image: 'busybox:1.28', command: [sleep, '36000'], resources: {own}}}\n")
        };
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{whole}  containers:\n{}{}",
            container("a"),
            container("b")
        )
    };
    cluster.apply(
        &(pod("whole", "  resources: {requests: {cpu: 500m}, limits: {cpu: '1', memory: 24Mi}}\n", "{}")
            + &pod("sum", "", "{requests: {cpu: 250m, memory: 8Mi}, limits: {cpu: 500m, memory: 16Mi}}")
            + &pod("plain", "", "{}")),
    )?;
    for name in ["whole", "sum", "plain"] {
        cluster.wait_pod(name)?;
    }
    // Both versions of cgroups: the file of each, and what it says.
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let group = |name: &str| -> anyhow::Result<String> {
        let pod = cluster.get("pod", name)?;
        let class = pod["status"]["qosClass"].as_str().unwrap_or("").to_ascii_lowercase();
        let uid = pod["metadata"]["uid"].as_str().unwrap_or("");
        Ok(format!("{class}/pod{uid}"))
    };
    let read = |controller: &str, group: &str, file: &str| -> anyhow::Result<String> {
        let controller = if unified { "" } else { controller };
        let root = cluster.server.cgroup();
        let path = std::path::Path::new("/sys/fs/cgroup").join(controller).join(root).join(group).join(file);
        Ok(std::fs::read_to_string(&path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?.trim().to_string())
    };
    let memory = |name: &str| {
        let file = if unified { "memory.max" } else { "memory.limit_in_bytes" };
        read("memory", &group(name)?, file)
    };
    assert_eq!(memory("whole")?, (24 << 20).to_string());
    assert_eq!(memory("sum")?, (32 << 20).to_string());
    assert!(matches!(memory("plain")?.as_str(), "max" | "9223372036854771712"));
    let weight = |group: &str| read("cpu", group, if unified { "cpu.weight" } else { "cpu.shares" });
    let (whole, sum) = if unified { ("20", "20") } else { ("512", "512") };
    assert_eq!((weight(&group("whole")?)?.as_str(), weight(&group("sum")?)?.as_str()), (whole, sum));
    assert_eq!(weight("burstable")?, if unified { "40" } else { "1024" });
    assert_eq!(weight("besteffort")?, if unified { "1" } else { "2" });
    let quota = |name: &str| {
        let file = if unified { "cpu.max" } else { "cpu.cfs_quota_us" };
        Ok::<_, anyhow::Error>(read("cpu", &group(name)?, file)?.split(' ').next().unwrap_or("").to_string())
    };
    assert_eq!((quota("whole")?, quota("sum")?), ("100000".into(), "100000".into()));

    // One container takes what the pod as a whole may not have.
    let eat = "head -c 40000000 /dev/zero | tail -c 40000000 | wc -c";
    let ate = cluster.kubectl(&["exec", "whole", "-c", "a", "--", "sh", "-c", eat]);
    assert!(!ate.stdout.contains("40000000"), "{ate:?}");
    assert!(cluster.ok(&["exec", "plain", "-c", "a", "--", "sh", "-c", eat])?.contains("40000000"));

    // Grown and shrunk with its containers.
    if current {
        for (limit, bytes) in [("64Mi", 80 << 20), ("8Mi", 24 << 20)] {
            let patch = format!(
                r#"{{"spec":{{"containers":[{{"name":"a","resources":{{"requests":{{"memory":"8Mi"}},"limits":{{"memory":"{limit}"}}}}}}]}}}}"#
            );
            cluster.ok(&["patch", "pod", "sum", "--subresource=resize", "-p", &patch])?;
            cluster.eventually("the pod's limit follows", || Ok(memory("sum")? == bytes.to_string()))?;
        }
    }
    for (whole, own, words) in [
        (
            "{requests: {cpu: 100m}}",
            "{requests: {cpu: 200m}}",
            "must be greater than or equal to aggregate container requests of 400m",
        ),
        (
            "{limits: {memory: 8Mi}}",
            "{limits: {memory: 16Mi}, requests: {memory: 1Mi}}",
            "must be less than or equal to pod limits of 8Mi",
        ),
        ("{limits: {ephemeral-storage: 1Gi}}", "{}", "supported values: \"cpu\", \"hugepages-\", \"memory\""),
    ] {
        let error = cluster.apply(&pod("bad", &format!("  resources: {whole}\n"), own)).unwrap_err().to_string();
        assert!(error.contains(words), "{words} isn't in {error}");
    }
    Ok(())
}
