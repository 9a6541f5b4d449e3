//! Deployments, services, volumes and probes.

mod pods;

use testkit::Cluster;

const HELLO: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 2
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: 'nginx:1.27', ports: [{name: http, containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  type: NodePort
  selector: {app: hello}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: 'busybox:1.28', command: [sleep, '3600']}
";

const ITSELF: &str = "
apiVersion: v1
kind: Service
metadata: {name: itself}
spec: {selector: {app: me}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: me, labels: {app: me}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: 'nginx:1.27'}
  - {name: client, image: 'busybox:1.28', command: [sleep, '3600']}
";

fn http(cluster: &Cluster, host: &str, port: &str) -> anyhow::Result<String> {
    let command = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} {port}");
    cluster.ok(&["exec", "client", "--", "sh", "-c", &command])
}

#[test]
fn deployment_answers_by_service_and_node_port_and_heals() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(HELLO)?;
    let available = |n: i64| {
        let cluster = &cluster;
        move || Ok(cluster.get("deployment", "hello")?["status"]["availableReplicas"] == n)
    };
    cluster.eventually("both replicas are available", available(2))?;
    cluster.wait_pod("client")?;
    cluster.eventually("the service name answers", || Ok(http(&cluster, "hello", "80")?.contains("200 OK")))?;
    let service = cluster.get("service", "hello")?;
    let port = service["spec"]["ports"][0]["nodePort"].to_string();
    assert!(http(&cluster, &cluster.server.address(), &port)?.contains("200 OK"));
    for address in [cluster.server.address(), "127.0.0.1".into()] {
        let ask = format!("exec 3<>/dev/tcp/{address}/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3");
        let from_host = cluster.server.run(&["timeout", "5", "bash", "-c", &ask].map(String::from), "");
        assert!(from_host.stdout.contains("200 OK"), "{address}: {from_host:?}");
    }

    // As a load balancer it answers at the node's address, for those who may come.
    let patch = |patch: &str| cluster.ok(&["patch", "service", "hello", "-p", patch]);
    patch("{\"spec\":{\"type\":\"LoadBalancer\"}}")?;
    cluster.eventually("the service has the node's address", || {
        let service = cluster.get("service", "hello")?;
        Ok(service["status"]["loadBalancer"]["ingress"][0]["ip"] == cluster.server.address().as_str())
    })?;
    let ask = format!(
        "exec 3<>/dev/tcp/{}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3",
        cluster.server.address()
    );
    let from_host = || cluster.server.run(&["timeout", "1", "bash", "-c", &ask].map(String::from), "").stdout;
    cluster.eventually("it answers there", || Ok(from_host().contains("200 OK")))?;
    // What is near is said in the slices, where the service prefers it.
    patch("{\"spec\":{\"trafficDistribution\":\"PreferSameZone\"}}")?;
    cluster.ok(&["label", "node", "server-1", "topology.kubernetes.io/zone=z1"])?;
    cluster.eventually("the endpoints say where they are", || {
        let slices = cluster.list("endpointslices", "kubernetes.io/service-name=hello")?;
        let endpoint = &slices[0]["endpoints"][0];
        Ok(endpoint["zone"] == "z1" && endpoint["hints"]["forZones"][0]["name"] == "z1")
    })?;
    assert!(from_host().contains("200 OK"));
    // Where outside traffic stays on its node, balancers ask which nodes have endpoints.
    patch("{\"spec\":{\"externalTrafficPolicy\":\"Local\"}}")?;
    let health = cluster.get("service", "hello")?["spec"]["healthCheckNodePort"].to_string();
    let told = || {
        let ask = format!(
            "exec 3<>/dev/tcp/{}/{health}; printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
            cluster.server.address()
        );
        cluster.server.run(&["timeout", "1", "bash", "-c", &ask].map(String::from), "").stdout
    };
    cluster.eventually("the health port tells of both", || {
        Ok(told().contains("200 OK") && told().contains("\"localEndpoints\":2"))
    })?;
    assert!(from_host().contains("200 OK"));
    patch("{\"spec\":{\"externalTrafficPolicy\":\"Cluster\"}}")?;
    assert!(cluster.get("service", "hello")?["spec"]["healthCheckNodePort"].is_null());
    cluster.eventually("the health port is closed", || Ok(told().is_empty()))?;
    patch("{\"spec\":{\"loadBalancerSourceRanges\":[\"203.0.113.0/24\"]}}")?;
    cluster.eventually("others are kept out", || Ok(!from_host().contains("200 OK")))?;
    patch("{\"spec\":{\"type\":\"ClusterIP\",\"loadBalancerSourceRanges\":null}}")?;
    cluster.eventually("the address is given back", || {
        Ok(cluster.get("service", "hello")?["status"]["loadBalancer"]["ingress"].as_array().is_none_or(Vec::is_empty))
    })?;

    let pods = cluster.list("pods", "app=hello")?;
    let name = pods[0]["metadata"]["name"].as_str().unwrap_or("").to_string();
    cluster.ok(&["delete", "pod", &name])?;
    cluster.eventually("another pod took its place", || {
        let pods = cluster.list("pods", "app=hello")?;
        Ok(pods.len() == 2 && pods.iter().all(|p| p["metadata"]["name"] != name.as_str()))
    })?;

    // A pod that is the only endpoint of a service reaches itself by it.
    cluster.apply(ITSELF)?;
    cluster.wait_pod("me")?;
    cluster.eventually("the pod reaches itself by its service", || {
        let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 itself 80";
        Ok(cluster.kubectl(&["exec", "me", "-c", "client", "--", "sh", "-c", ask]).stdout.contains("200 OK"))
    })?;

    // A new version rolls out, and the old one's pods go.
    cluster.apply(&HELLO.replace("labels: {app: hello}}", "labels: {app: hello, version: two}}"))?;
    cluster.eventually("all pods are of the new version", || {
        let pods = cluster.list("pods", "app=hello")?;
        Ok(pods.len() == 2 && pods.iter().all(|p| p["metadata"]["labels"]["version"] == "two"))
    })?;
    cluster.ok(&["delete", "deployment", "hello"])?;
    cluster.eventually("its pods are gone with it", || Ok(cluster.list("pods", "app=hello")?.is_empty()))
}

#[test]
fn pods_preempt_others_and_follow_affinity() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let cpu = cluster.list("nodes", "")?[0]["status"]["allocatable"]["cpu"].as_str().unwrap_or("").to_string();
    let pod = |name: &str, class: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: x}}}}\nspec:\n  priorityClassName: {class}\n  terminationGracePeriodSeconds: 1\n  \
             containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '3600'], resources: {{requests: {{cpu: '{cpu}'}}}}}}]\n"
        )
    };
    let class = |name: &str, value: i32| {
        format!(
            "---\napiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: {name}}}\nvalue: {value}\n"
        )
    };
    cluster.apply(&[class("low", 1), class("high", 1000), pod("first", "low")].concat())?;
    cluster.wait_pod("first")?;
    let pending = |name: &str| -> anyhow::Result<String> {
        let pod = cluster.get("pod", name)?;
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
        Ok(told.and_then(|c| c["message"].as_str()).unwrap_or("").to_string())
    };
    cluster.apply(&pod("second", "low"))?;
    let why = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    cluster.eventually("equals don't make room", || Ok(pending("second")? == why))?;
    // The important one comes before those that waited longer.
    cluster.apply(&pod("vip", "high"))?;
    cluster.wait_pod("vip")?;
    assert!(cluster.kubectl(&["get", "pod", "first"]).stderr.contains("NotFound"));
    let events =
        cluster.ok(&["get", "events", "--field-selector", "reason=Preempted", "-o", "jsonpath={.items[*].message}"])?;
    assert!(events.contains("Preempted by pod") && events.contains("on node server-1"), "{events}");
    cluster.eventually("the other one still waits", || Ok(pending("second")? == why))?;
    // Nobody wants to be near such pods who says so.
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: shy}\nspec:\n  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
         [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: x}}}]}}\n  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]\n",
    )?;
    let told = "1 node(s) didn't match pod anti-affinity rules";
    cluster.eventually("the shy one keeps away", || Ok(pending("shy")?.contains(told)))?;
    cluster.ok(&["delete", "pod", "vip", "second", "--wait=false"])?;
    cluster.wait_pod("shy")?;
    Ok(())
}

const BUSY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  replicas: 1
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: busybox:1.28
        command: [sh, -c, 'while :; do :; done']
        resources: {requests: {cpu: 50m, memory: 8Mi}, limits: {cpu: 150m}}
---
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 3
  targetCPUUtilizationPercentage: 60
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: astray}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: missing}
  maxReplicas: 3
";

#[test]
fn deployments_scale_by_their_measured_use() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(BUSY)?;
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dbusy";
    cluster.eventually("the pod's use is known", || {
        let list: serde_json::Value = serde_json::from_str(&cluster.ok(&["get", "--raw", path])?)?;
        let usage = &list["items"][0]["containers"][0]["usage"];
        let nanos = usage["cpu"].as_str().unwrap_or("").trim_end_matches('n').parse::<u64>().unwrap_or(0);
        // It takes what it may: 150 thousandths of a core.
        anyhow::ensure!((50_000_000..250_000_000).contains(&nanos), "{list}");
        Ok(usage["memory"].as_str().is_some_and(|m| m.ends_with("Ki") && m != "0Ki"))
    })?;
    if testkit::cluster::stock_kubectl().is_some() {
        let pods = cluster.ok(&["top", "pods", "--containers"])?;
        assert!(pods.contains("busy-") && pods.contains("Mi"), "{pods}");
        let nodes = cluster.ok(&["top", "nodes"])?;
        assert!(nodes.contains('%') && !nodes.contains("unknown"), "{nodes}");
        // It writes the older version.
        cluster.ok(&["delete", "hpa", "busy"])?;
        cluster.ok(&["autoscale", "deployment", "busy", "--max=3", "--cpu-percent=60"])?;
        let metrics = cluster.get("hpa.v2.autoscaling", "busy")?["spec"]["metrics"].clone();
        assert_eq!(metrics[0]["resource"]["target"]["averageUtilization"], 60, "{metrics}");
    }
    cluster.eventually("there are as many as may be", || {
        let autoscaler = cluster.get("hpa", "busy")?;
        anyhow::ensure!(autoscaler["status"]["desiredReplicas"] == 3, "{}", autoscaler["status"]);
        Ok(cluster.get("deployment", "busy")?["spec"]["replicas"] == 3)
    })?;
    let condition = |name: &str, kind: &str| -> anyhow::Result<String> {
        let conditions = cluster.get("hpa", name)?["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|c| c["type"] == kind).unwrap_or_default();
        Ok(format!("{} {}", found["status"].as_str().unwrap_or(""), found["reason"].as_str().unwrap_or("")))
    };
    cluster.eventually("it says that it is at its limit", || {
        Ok(condition("busy", "ScalingLimited")? == "True TooManyReplicas"
            && condition("busy", "ScalingActive")? == "True ValidMetricFound")
    })?;
    assert_eq!(condition("astray", "AbleToScale")?, "False FailedGetScale");
    let summary: serde_json::Value = {
        let nodes = cluster.list("nodes", "")?;
        let node = nodes[0]["metadata"]["name"].as_str().unwrap_or("").to_string();
        let resource = cluster.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics/resource")])?;
        assert!(resource.contains("pod_memory_working_set_bytes{namespace=\"default\""), "{resource}");
        serde_json::from_str(&cluster.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")])?)?
    };
    assert!(summary["node"]["fs"]["availableBytes"].as_u64() > Some(0), "{summary}");
    Ok(())
}
