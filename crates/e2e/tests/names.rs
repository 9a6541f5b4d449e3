//! Names that programs of all kinds ask for, and who is asked for those outside of the cluster.

mod resolver;

use std::net::{TcpStream, UdpSocket};
use std::str::FromStr as _;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use testkit::Cluster;
use testkit::Node;

use resolver::{Resolver, read_framed, write_framed};

const CLUSTER_DNS: &str = "10.43.0.10:53";
/// Addresses of the name that has too many for a packet.
const MANY: u8 = 200;

/// Asks the cluster's DNS from the machine, as a pod's resolver would.
fn ask(node: &Node, name: &str, tcp: bool) -> anyhow::Result<Message> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_str(name)?, RecordType::A));
    question.metadata.recursion_desired = true;
    let packet = question.to_vec()?;
    let answer = node.inside(|| -> std::io::Result<Vec<u8>> {
        let patience = Some(Duration::from_secs(10));
        if tcp {
            let mut stream = TcpStream::connect(CLUSTER_DNS)?;
            stream.set_read_timeout(patience)?;
            write_framed(&mut stream, &packet)?;
            return read_framed(&mut stream);
        }
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(patience)?;
        socket.send_to(&packet, CLUSTER_DNS)?;
        let mut answer = vec![0; 4096];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    })??;
    Ok(Message::from_vec(&answer)?)
}

#[test]
fn names_of_other_zones_are_forwarded_and_cached() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let node = &cluster.server;
    let resolver = Resolver::start(node)?;
    let settings = |stubs: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-dns, namespace: kube-system}}\ndata:\n  stubDomains: '{stubs}'\n  queryLog: 'true'\n"
        ))
    };
    settings(&format!("{{\"acme.test\": [\"{}\"]}}", resolver.address))?;
    cluster.eventually("the zone's own resolver is asked", || {
        Ok(ask(node, "host.acme.test.", false)?.answers.iter().any(|r| r.data.to_string() == "192.0.2.77"))
    })?;
    // What is known isn't asked for again, whether there is something or not.
    let before = resolver.asked("host.acme.test.");
    for _ in 0..3 {
        assert_eq!(ask(node, "HOST.acme.test.", false)?.answers.len(), 1);
        let nothing = ask(node, "missing.acme.test.", false)?;
        assert_eq!(nothing.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(nothing.authorities.len(), 1);
    }
    assert_eq!(resolver.asked("host.acme.test."), before);
    assert_eq!(resolver.asked("missing.acme.test."), 1);
    // An answer that no packet holds comes by TCP, on both ways.
    let cut = ask(node, "many.acme.test.", false)?;
    assert!(cut.metadata.truncation && cut.answers.is_empty(), "{cut:?}");
    assert_eq!(ask(node, "many.acme.test.", true)?.answers.len(), usize::from(MANY));
    assert!(resolver.asked("tcp many.acme.test.") >= 1);

    // What can't be read is told and changes nothing; questions are told as the settings say.
    settings("{\"acme.test\": [\"resolver\"]}")?;
    let log = || std::fs::read_to_string(node.folder().join("log")).unwrap_or_default();
    cluster.eventually("the complaint names key and value", || {
        Ok(log().contains("ignored ConfigMap kube-system/kube-dns: it is malformed")
            && log().contains("stubDomains: \"resolver\" is no address"))
    })?;
    assert_eq!(ask(node, "host.acme.test.", false)?.answers.len(), 1);
    assert!(log().contains("DNS query name=host.acme.test."), "{}", log());
    // What was counted is told where CoreDNS tells it.
    let url = format!("http://{}:9153/metrics", CLUSTER_DNS.trim_end_matches(":53"));
    let counted = node.run(&["curl", "-s", "-m", "5", &url].map(String::from), "").stdout;
    for line in ["coredns_dns_responses_total{rcode=\"NXDOMAIN\"} 3", "coredns_forward_requests_total "] {
        assert!(counted.contains(line), "{line}: {counted}");
    }
    // Names of the cluster are answered beside all that, and garbage by nothing at all.
    node.inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(&[0xff; 40], CLUSTER_DNS))??;
    assert_eq!(ask(node, "kubernetes.default.svc.cluster.local.", false)?.answers.len(), 1);
    Ok(())
}

#[test]
fn dns_forwarding_loops_are_refused_until_other_upstreams_are_named() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let node = &cluster.server;
    let resolver = Resolver::start(node)?;
    let settings = |upstream: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-dns, namespace: kube-system}}\ndata:\n  \
             stubDomains: '{{\"acme.test\": [\"{}\"]}}'\n  upstreamNameservers: '[\"{upstream}\"]'\n",
            resolver.address
        ))
    };
    settings(CLUSTER_DNS)?;
    let log = || std::fs::read_to_string(node.folder().join("log")).unwrap_or_default();
    cluster.eventually("it is told", || Ok(log().contains("forwarding loop")))?;
    assert_eq!(ask(node, "host.example.", false)?.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(resolver.asked("host.example."), 0);
    // What has a way of its own isn't touched.
    assert_eq!(ask(node, "host.acme.test.", false)?.answers.len(), 1);
    assert_eq!(ask(node, "kubernetes.default.svc.cluster.local.", false)?.answers.len(), 1);
    settings(&resolver.address.to_string())?;
    cluster.eventually("others are asked", || Ok(ask(node, "host.example.", false)?.answers.len() == 1))
}

/// Laptops change networks.
#[test]
fn changes_of_resolv_conf_are_followed() -> anyhow::Result<()> {
    let cluster = Cluster::start_prepared(&[], |node| {
        node.file_flag("--resolv-conf", "resolv.conf", "search corp.example\nnameserver 127.0.0.2\n")
    })?;
    let node = &cluster.server;
    let (first, second) = (Resolver::start_at(node, "127.0.0.2:53")?, Resolver::start_at(node, "127.0.0.3:53")?);
    let found = || Ok(ask(node, "host.example.", false)?.answers.len() == 1);
    cluster.eventually("the first one is asked", found)?;
    assert_eq!((first.asked("host.example.") > 0, second.asked("host.example.")), (true, 0));
    // As network managers do: beside it, and moved there.
    let file = node.folder().join("resolv.conf");
    std::fs::write(file.with_extension("new"), "search corp.example\nnameserver 127.0.0.3\n")?;
    std::fs::rename(file.with_extension("new"), &file)?;
    cluster.eventually("the second one is asked", || Ok(found()? && second.asked("host.example.") > 0))?;

    // In the network of a pod there is no loopback of the machine's: the cluster's DNS asks for it.
    let pod = |name: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, {more}containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '3600']}}]}}\n"
        )
    };
    let pods =
        [("plain", ""), ("apart", "dnsPolicy: Default, "), ("machine", "dnsPolicy: Default, hostNetwork: true, ")];
    cluster.apply(&pods.map(|(name, more)| pod(name, more)).concat())?;
    let wanted = [
        "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.43.0.10\noptions ndots:5\n",
        "search corp.example\nnameserver 10.43.0.10\n",
        "search corp.example\nnameserver 127.0.0.3\n",
    ];
    for ((name, _), wanted) in pods.into_iter().zip(wanted) {
        cluster.wait_pod(name)?;
        assert_eq!(cluster.ok(&["exec", name, "--", "cat", "/etc/resolv.conf"])?, wanted, "{name}");
    }
    let looked_up = cluster.ok(&["exec", "apart", "--", "nslookup", "host.example"])?;
    assert!(looked_up.contains("192.0.2.77"), "{looked_up}");
    Ok(())
}

#[test]
fn another_dns_server_takes_the_place_of_the_nodes() -> anyhow::Result<()> {
    let cluster = Cluster::start_with(&["--disable", "dns"])?;
    let address = cluster.server.address();
    let resolver = Resolver::start_at(&cluster.server, &format!("{address}:5353"))?;
    let none = cluster.kubectl(&["get", "service", "kube-dns", "-n", "kube-system"]);
    assert!(none.stderr.contains("not found"), "{none:?}");
    cluster.apply(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system}}
spec: {{clusterIP: 10.43.0.10, ports: [{{name: dns, port: 53, protocol: UDP}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: kube-dns-own, namespace: kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}
addressType: IPv4
endpoints: [{{addresses: [{address}]}}]
ports: [{{name: dns, port: 5353, protocol: UDP}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: asker}}
spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '3600']}}]}}
"
    ))?;
    cluster.wait_pod("asker")?;
    cluster.eventually("the other one answers", || {
        Ok(cluster.kubectl(&["exec", "asker", "--", "nslookup", "host.example"]).stdout.contains("192.0.2.77"))
    })?;
    assert!(resolver.asked("host.example.") > 0);
    Ok(())
}

const NAMED: &str = "
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: pages}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: host.example}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: nginx
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '36000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'programs:test', command: [sleep, '36000']}]
";

/// What musl, glibc, busybox and BIND's tools find in a pod, each in its own way of asking: glibc asks for A and AAAA from one port at
/// once, musl asks all servers at once and takes no answer by TCP, `dig` uses EDNS.
#[test]
fn resolvers_of_every_kind_find_the_names_of_the_cluster() -> anyhow::Result<()> {
    let cluster = Cluster::start_prepared(&[], |node| testkit::images::programs(&node.images().join("programs.tar")))?;
    let resolver = Resolver::start(&cluster.server)?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-dns, namespace: kube-system}}\ndata:\n  \
         upstreamNameservers: '[\"{}\"]'\n",
        resolver.address
    ))?;
    cluster.apply(NAMED)?;
    for pod in ["web-0", "web-1", "asker"] {
        cluster.wait_pod(pod)?;
    }
    let field = |kind: &str, name: &str, path: &str| -> anyhow::Result<String> {
        let object = cluster.get(kind, name)?;
        Ok(object.pointer(path).and_then(serde_json::Value::as_str).unwrap_or_default().to_string())
    };
    let service = field("service", "pages", "/spec/clusterIP")?;
    let pods = [field("pod", "web-0", "/status/podIP")?, field("pod", "web-1", "/status/podIP")?];
    let (first, both) = (pods[0].clone(), pods.join("\n"));
    let in_pod = |command: &str| cluster.kubectl(&["exec", "asker", "--", "sh", "-c", command]);
    let lines = |command: &str| -> anyhow::Result<String> {
        let told = in_pod(command);
        anyhow::ensure!(told.code == 0, "{command}: {told:?}");
        let mut lines: Vec<&str> = told.stdout.lines().filter_map(|l| l.split_whitespace().last()).collect();
        lines.sort_unstable();
        lines.dedup();
        Ok(lines.join("\n"))
    };
    cluster
        .eventually("the names are known", || Ok(lines("dig +short +search nginx").is_ok_and(|told| told == both)))?;

    // A name of the search path, one with more labels, a whole one, what another name stands for, and one of the world.
    let outside = "192.0.2.77".to_string();
    let known = [
        ("pages", &service),
        ("pages.default.svc", &service),
        ("pages.default.svc.cluster.local.", &service),
        ("nginx", &both),
        ("web-0.nginx", &first),
        ("away", &outside),
        ("host.example", &outside),
    ];
    for (name, addresses) in known {
        for command in ["addresses", "getent ahostsv4"] {
            let told = match command {
                "addresses" => lines(&format!("addresses {name}"))?,
                // The address is the first word of its lines.
                _ => lines(&format!("getent ahostsv4 {name} | sed 's/ .*//'"))?,
            };
            assert_eq!(&told, addresses, "{command} {name}");
        }
        for options in ["", "+tcp", "+noedns", "+bufsize=512"] {
            let told = lines(&format!("dig {options} +short +search {name} | grep -v '[.]$'"))?;
            assert_eq!(&told, addresses, "dig {options} {name}");
        }
        let told = lines(&format!("nslookup {name} | grep -A9 '^Name' | grep '^Address' | sed 's/.*: //'"));
        if !name.contains('.') || name.ends_with('.') {
            assert_eq!(&told?, addresses, "nslookup {name}");
        }
    }
    // What isn't there is told as that, at once, and not as a failure of the servers.
    for command in ["addresses", "getent ahostsv4"] {
        let told = in_pod(&format!("{command} missing.default.svc"));
        assert_ne!(told.code, 0, "{command}: {told:?}");
        assert!(command != "addresses" || told.stderr.contains("Name does not resolve"), "{told:?}");
    }
    let missing = in_pod("dig missing.default.svc.cluster.local").stdout;
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("EDNS: version: 0"), "{missing}");
    assert!(missing.contains("SOA"), "who may keep the answer isn't told: {missing}");
    let nothing = in_pod("dig AAAA pages.default.svc.cluster.local").stdout;
    assert!(nothing.contains("status: NOERROR") && nothing.contains("ANSWER: 0"), "{nothing}");

    // The other way round, and where the ports are.
    let zone = "default.svc.cluster.local";
    // It is an endpoint of two services; what has a name of its own comes first.
    let names = format!("{}.pages.{zone}.\nweb-0.nginx.{zone}.", first.replace('.', "-"));
    assert_eq!(lines(&format!("dig +short -x {first}"))?, names);
    let hosts = lines(&format!("getent hosts {first} | sed 's/^[^ ]* *//; s/ .*//'"))?;
    assert_eq!(hosts, format!("web-0.nginx.{zone}"));
    assert_eq!(lines(&format!("dig +short -x {service}"))?, format!("pages.{zone}."));
    let servers = lines(&format!("dig +short SRV _http._tcp.nginx.{zone}"))?;
    assert_eq!(servers, format!("web-0.nginx.{zone}.\nweb-1.nginx.{zone}."));
    let servers = in_pod(&format!("dig +noall +additional SRV _http._tcp.nginx.{zone}")).stdout;
    assert!(pods.iter().all(|ip| servers.contains(ip.as_str())), "{servers}");
    // Programs that take the first address come to each of them.
    let firsts = lines(&format!("for i in 1 2 3 4; do dig +short nginx.{zone} | head -1; done"))?;
    assert_eq!(firsts, both);
    Ok(())
}
