//! Clusters with IPv6: beside IPv4, and alone.

use anyhow::Context as _;
use serde_json::Value;
use testkit::Cluster;

const DUAL: [&str; 4] = ["--cluster-cidr", "10.42.0.0/16,fd42::/56", "--service-cidr", "10.43.0.0/16,fd43::/112"];

const WEB: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: 'busybox:1.28'
        command: [sh, -c, 'hostname > /tmp/index.html; exec httpd -f -p [::]:80 -h /tmp']
        readinessProbe: {httpGet: {path: /index.html, port: 80}, periodSeconds: 1}
        env:
        - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
        - {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
";

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {may: 'yes'}}}]
";

fn texts(object: &Value, list: &str, field: &str) -> Vec<String> {
    let items = object.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |item: &Value| if field.is_empty() { item.as_str() } else { item[field].as_str() }.map(String::from);
    items.iter().filter_map(text).collect()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or("").to_string()
}

/// What a pod gets from a host, or what went wrong. (busybox' wget needs a dynamic C library for names.)
fn fetch(cluster: &Cluster, pod: &str, host: &str) -> String {
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} 80");
    let output = cluster.kubectl(&["exec", pod, "--", "sh", "-c", &ask]);
    let body = output.stdout.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_string());
    body.unwrap_or(output.stdout + &output.stderr)
}

/// The daemon's pods once all are available.
fn web(cluster: &Cluster, count: u64) -> anyhow::Result<Vec<Value>> {
    cluster.apply(WEB)?;
    cluster.eventually("the pods are available", || {
        Ok(cluster.get("daemonset", "web")?["status"]["numberAvailable"] == count)
    })?;
    cluster.list("pods", "app=web")
}

#[test]
fn pods_and_services_have_addresses_of_both_families() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_with(&DUAL)?;
    cluster.join()?;
    let pods = web(&cluster, 2)?;
    for node in ["server-1", "agent-2"] {
        let object = cluster.get("node", node)?;
        let ranges = texts(&object, "/spec/podCIDRs", "");
        assert!(matches!(ranges.as_slice(), [a, b] if a.starts_with("10.42.") && b.starts_with("fd42:")), "{ranges:?}");
    }
    let service = cluster.get("service", "web")?;
    let addresses = texts(&service, "/spec/clusterIPs", "");
    assert!(
        matches!(addresses.as_slice(), [a, b] if a.starts_with("10.43.") && b.starts_with("fd43::")),
        "{addresses:?}"
    );
    let six = texts(&cluster.get("service", "six")?, "/spec/clusterIPs", "");
    let (first, second) = (pods.first().context("a pod")?, pods.get(1).context("another pod")?);
    for (from, to) in [(first, second), (second, first), (first, first)] {
        let ips = texts(to, "/status/podIPs", "ip");
        assert!(matches!(ips.as_slice(), [a, b] if a.starts_with("10.42.") && b.starts_with("fd42:")), "{ips:?}");
        for ip in &ips {
            cluster.eventually(&format!("{} reaches {ip}", name(from)), || {
                Ok(fetch(&cluster, &name(from), ip) == name(to))
            })?;
        }
    }
    let told = cluster.ok(&["exec", &name(first), "--", "sh", "-c", "echo $IPS $HOSTS; cat /etc/hosts"])?;
    let ips = texts(first, "/status/podIPs", "ip");
    assert!(told.contains(&ips.join(",")) && told.contains(&format!("{}\t", ips[1])), "{told}");
    assert!(told.contains(&texts(first, "/status/hostIPs", "ip").join(",")), "{told}");

    // Services, from pods on either node and from the nodes themselves.
    let (four, dual_six, only_six) = (&addresses[0], &addresses[1], &six[0]);
    let hosts = [four.as_str(), dual_six.as_str(), only_six.as_str(), "six", "web"];
    for pod in [first, second] {
        for host in hosts {
            cluster.eventually(&format!("{} reaches {host}", name(pod)), || {
                Ok(fetch(&cluster, &name(pod), host).starts_with("web-"))
            })?;
        }
    }
    let curl = |url: &str| {
        let words = ["curl", "-sg", "--max-time", "2", url].map(String::from);
        cluster.server.run(&words, "").stdout
    };
    assert!(curl(&format!("http://[{only_six}]/")).starts_with("web-"));
    let agent = cluster.agents.first().context("the agent")?;
    for host in [agent.address(), format!("[{}]", agent.address_v6()), format!("[{}]", cluster.server.address_v6())] {
        assert!(curl(&format!("http://{host}:30080/")).starts_with("web-"), "{host}");
    }
    let lookup = |name: &str, kind: &str| {
        cluster.ok(&[
            "exec",
            &self::name(first),
            "--",
            "nslookup",
            &format!("-type={kind}"),
            &format!("{name}.default.svc.cluster.local"),
        ])
    };
    assert!(lookup("web", "aaaa")?.contains(dual_six.as_str()) && lookup("web", "a")?.contains(four.as_str()));
    let each = lookup("each", "aaaa")?;
    assert!(pods.iter().all(|p| each.contains(&texts(p, "/status/podIPs", "ip")[1])), "{each}");

    // A service takes back its second address, and its slices of that family go.
    let change = r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#;
    cluster.ok(&["patch", "service", "web", "-p", change])?;
    assert_eq!(texts(&cluster.get("service", "web")?, "/spec/clusterIPs", ""), std::slice::from_ref(four));
    cluster.eventually("its slices are of one family", || {
        let slices = cluster.list("endpointslices", "kubernetes.io/service-name=web")?;
        Ok(slices.iter().all(|s| s["addressType"] == "IPv4") && !slices.is_empty())
    })?;

    // Policies hold in both families.
    cluster.apply(CLOSED)?;
    let far = texts(second, "/status/podIPs", "ip");
    cluster.eventually("nobody is let in", || {
        Ok(far.iter().all(|ip| !fetch(&cluster, &name(first), ip).starts_with("web-")))
    })?;
    cluster.ok(&["label", "pod", &name(first), "may=yes"])?;
    cluster.eventually("who may is let in", || {
        Ok(far.iter().all(|ip| fetch(&cluster, &name(first), ip) == name(second)))
    })?;
    Ok(())
}

#[test]
fn both_families_cross_routers_of_one() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_with(&DUAL)?;
    cluster.join_by_router()?;
    let pods = web(&cluster, 2)?;
    let (first, second) = (pods.first().context("a pod")?, pods.get(1).context("another pod")?);
    for (from, to) in [(first, second), (second, first)] {
        let ips = texts(to, "/status/podIPs", "ip");
        for ip in &ips {
            cluster.eventually(&format!("{} reaches {ip}", name(from)), || {
                Ok(fetch(&cluster, &name(from), ip) == name(to))
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_cluster_may_have_ipv6_alone() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_with(&["--cluster-cidr", "fd42::/56", "--service-cidr", "fd43::/112"])?;
    let pods = web(&cluster, 1)?;
    let pod = pods.first().context("a pod")?;
    assert!(texts(pod, "/status/podIPs", "ip").iter().all(|ip| ip.starts_with("fd42:")));
    cluster
        .eventually("the pod reaches a service by its name", || Ok(fetch(&cluster, &name(pod), "web") == name(pod)))?;
    assert_eq!(cluster.ok(&["logs", &name(pod)])?, "");
    let proxied = format!("/api/v1/namespaces/default/pods/{}:80/proxy/index.html", name(pod));
    assert_eq!(cluster.ok(&["get", "--raw", &proxied])?.trim(), name(pod));
    // Requests from outside, by name.
    cluster.ok(&["create", "ingress", "web", "--rule=www.example.com/*=web:80"])?;
    let url = format!("http://[{}]/", cluster.server.address_v6());
    let curl = ["curl", "-sg", "--max-time", "2", "-H", "Host: www.example.com", &url].map(String::from);
    cluster.eventually("the ingress answers", || Ok(cluster.server.run(&curl, "").stdout.trim() == name(pod)))?;
    let refused =
        cluster.kubectl(&["patch", "service", "web", "-p", r#"{"spec":{"ipFamilyPolicy":"RequireDualStack"}}"#]);
    assert!(refused.stderr.contains("not configured for dual-stack"), "{refused:?}");
    assert_eq!(cluster.server.uninstall().code, 0);
    assert_eq!(cluster.server.leftovers(), Vec::<String>::new());
    Ok(())
}
