//! A pod is on its node what its spec says: a row for each field, on real containers. `docs/conformance.md` lists the fields.

mod certificates;
mod environment;
mod lifecycle;
mod security;
mod volumes;

use testkit::Cluster;

#[test]
fn host_ports_lead_to_their_pods() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.join()?;
    let pod = |name: &str, node: &str, port: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: busybox:1.28\n    command: [sh, -c, 'hostname > /tmp/index.html; httpd -f -p 80 -h /tmp']\n    ports: [{{containerPort: 80, {port}}}]\n"
        )
    };
    let address = cluster.agents.first().map(testkit::Node::address).unwrap_or_default();
    let one = pod("any", "agent-2", "hostPort: 8080");
    let other = pod("one", "agent-2", &format!("hostPort: 8081, hostIP: {address}"));
    cluster.apply(&format!("{one}---\n{other}"))?;
    let fetch_at = |from: &testkit::Node, address: &str, port: u16| {
        let words = ["curl", "-s", "--max-time", "2", &format!("http://{address}:{port}/")].map(String::from);
        from.run(&words, "").stdout.trim().to_string()
    };
    let fetch = |from: &testkit::Node, port: u16| fetch_at(from, &address, port);
    let agent = cluster.agents.first().ok_or_else(|| anyhow::anyhow!("no agent"))?;
    for from in [&cluster.server, agent] {
        cluster.eventually("the ports answer", || Ok(fetch(from, 8080) == "any" && fetch(from, 8081) == "one"))?;
    }
    // The machine's own programs come by its loopback, too, unless the port is of another address.
    assert_eq!((fetch_at(agent, "127.0.0.1", 8080).as_str(), fetch_at(agent, "127.0.0.1", 8081).as_str()), ("any", ""));
    // A pod reaches itself that way, too.
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} 8080");
    assert!(cluster.ok(&["exec", "any", "--", "sh", "-c", &ask])?.ends_with("any\n"));
    // Who wants a port that another pod has isn't taken in, and may have it after that pod.
    cluster.apply(&pod("late", "agent-2", "hostPort: 8080"))?;
    let told = "jsonpath={.status.phase} {.status.reason} {.status.message}";
    let refused = "Failed NodePorts Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    cluster
        .eventually("the pod is refused", || Ok(cluster.ok(&["get", "pod", "late", "-o", told])?.trim() == refused))?;
    cluster.ok(&["delete", "pod", "any", "late"])?;
    cluster.apply(&pod("next", "agent-2", "hostPort: 8080"))?;
    cluster.eventually("the next pod has the port", || Ok(fetch(&cluster.server, 8080) == "next"))?;
    cluster.ok(&["delete", "pod", "next", "one"])?;
    cluster.eventually("the ports are closed", || {
        Ok(fetch(&cluster.server, 8080).is_empty() && fetch(&cluster.server, 8081).is_empty())
    })
}

#[test]
fn a_resize_restarts_the_containers_whose_policy_says_so() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    let container = |name: &str, policy: &str| {
        format!(
            "  - {{name: {name}, image: 'busybox:1.28', command: [sleep, '36000'], resources: {{limits: {{memory: 32Mi, cpu: 100m}}}}, resizePolicy: [{{resourceName: memory, restartPolicy: {policy}}}]}}\n"
        )
    };
    let (stays, restarts) = (container("stays", "NotRequired"), container("restarts", "RestartContainer"));
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: grows}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n{stays}{restarts}"
    ))?;
    cluster.wait_pod("grows")?;
    let limits = |name: &str| {
        format!(r#"{{"name":"{name}","resources":{{"limits":{{"memory":"48Mi"}},"requests":{{"memory":"48Mi"}}}}}}"#)
    };
    let patch = format!(r#"{{"spec":{{"containers":[{},{}]}}}}"#, limits("stays"), limits("restarts"));
    cluster.ok(&["patch", "pod", "grows", "--subresource", "resize", "-p", &patch])?;
    cluster.eventually("both have more", || {
        let status = cluster.get("pod", "grows")?["status"]["containerStatuses"].clone();
        let of = |name: &str| status.as_array().into_iter().flatten().find(|s| s["name"] == name).cloned();
        let fits = |name: &str, restarts: i64| {
            of(name).is_some_and(|s| s["restartCount"] == restarts && s["resources"]["limits"]["memory"] == "48Mi")
        };
        Ok(fits("stays", 0) && fits("restarts", 1))
    })
}

/// `docs/conformance.md` names every field, and tests that there are.
#[test]
fn the_list_of_fields_is_whole() {
    let doc = include_str!("../../../docs/conformance.md");
    let listed: Vec<(&str, &str)> = doc
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().trim_end_matches('`'), cells.nth(1)?.trim()))
        })
        .collect();
    let (types, _) = api::schema::raw();
    for kind in ["PodSpec", "Container", "PodSecurityContext", "SecurityContext"] {
        let name = format!("io.k8s.api.core.v1.{kind}");
        let fields = types[&name]["properties"].as_object().cloned().unwrap_or_default();
        assert!(fields.len() > 5, "{name} has fields");
        for field in fields.keys() {
            assert!(listed.iter().any(|(known, _)| known == field), "{kind}.{field} isn't in docs/conformance.md");
        }
    }
    for (field, test) in listed.iter().filter(|(_, test)| *test != "–") {
        let (file, function) = test.trim_matches('`').split_once("::").unwrap_or_default();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
        let path = if file == "loops" { format!("{folder}/loops/scheduling") } else { format!("{folder}/{file}") };
        // A module is a file, and perhaps a folder with parts of it.
        let parts = std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
        let sources =
            parts.chain([format!("{path}.rs").into()]).map(|file| std::fs::read_to_string(file).unwrap_or_default());
        let is_there = sources.into_iter().any(|source| source.contains(&format!("fn {function}()")));
        assert!(is_there, "{field}: there is no test {test}");
    }
}
