//! Huge pages: set aside by whoever runs the machine, shown by the node, given to who asks for them.

use anyhow::Context as _;
use testkit::Cluster;

const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const PAGES: u64 = 8;

/// Pages that are set aside beside those that were, as long as this is there.
struct SetAside(u64);

impl SetAside {
    /// Sets pages aside, or fewer where the machine has no memory in one piece for them, or doesn't let them be set aside.
    fn begin() -> anyhow::Result<Self> {
        let before = SetAside(count()?);
        let _ = std::fs::write(COUNT, (before.0 + PAGES).to_string());
        Ok(before)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let _ = std::fs::write(COUNT, self.0.to_string());
    }
}

fn count() -> anyhow::Result<u64> {
    Ok(std::fs::read_to_string(COUNT).context(COUNT)?.trim().parse()?)
}

fn pod(name: &str, medium: &str, resources: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: v, emptyDir: {{medium: {medium}}}}}]\n  containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '36000'], resources: {{limits: {resources}}}, volumeMounts: [{{name: v, mountPath: /huge}}]}}]\n"
    )
}

#[test]
fn huge_pages_are_mounted_and_counted() -> anyhow::Result<()> {
    let before = SetAside::begin()?;
    let pages = count()?;
    let all = pages * 2;
    let cluster = Cluster::start()?;
    let nodes = cluster.list("nodes", "")?;
    let (capacity, allocatable) = (&nodes[0]["status"]["capacity"], &nodes[0]["status"]["allocatable"]);
    let shown = if all == 0 { "0".to_string() } else { format!("{all}Mi") };
    assert_eq!(capacity["hugepages-2Mi"], shown);
    let kib = |amount: &serde_json::Value| {
        amount.as_str().and_then(|text| text.trim_end_matches("Ki").parse::<u64>().ok()).context("memory in KiB")
    };
    // Besides, evictions keep 100 MiB free.
    assert_eq!(kib(&capacity["memory"])?, kib(&allocatable["memory"])? + (all + 100) * 1024, "{nodes:?}");

    cluster.apply(
        &(pod("some", "HugePages", "{hugepages-2Mi: 8Mi, memory: 32Mi}")
            + &pod("named", "HugePages-2Mi", "{hugepages-2Mi: 2Mi, memory: 32Mi}")
            + &pod("many", "HugePages", "{hugepages-2Mi: 2Gi, memory: 32Mi}")
            + &pod("none", "HugePages", "{memory: 32Mi}")
            + &pod("other", "HugePages-1Gi", "{hugepages-2Mi: 2Mi, memory: 32Mi}")),
    )?;
    let enough = pages >= before.0 + PAGES;
    if !enough {
        testkit::clients::skip_unsupported(&format!("this machine doesn't set {PAGES} huge pages aside"));
    }
    for name in ["some", "named"].into_iter().filter(|_| enough) {
        cluster.wait_pod(name)?;
        let script = "grep ' /huge ' /proc/mounts; busybox fallocate -l 2097152 /huge/f && stat -c %s /huge/f";
        let said = cluster.ok(&["exec", name, "--", "sh", "-c", script])?;
        assert!(
            said.contains(" hugetlbfs ") && said.contains("pagesize=2M") && said.ends_with("\n2097152\n"),
            "{said}"
        );
    }
    let events = |name: &str, words: &str| {
        cluster.eventually(&format!("{name} is told {words:?}"), || {
            let select = format!("involvedObject.name={name}");
            Ok(cluster.ok(&["get", "events", "--field-selector", &select])?.contains(words))
        })
    };
    events("many", "Insufficient hugepages-2Mi")?;
    events("none", "the pod asks for no huge pages")?;
    if enough {
        events("other", "the pod asks for no hugepages-1Gi")?;
    }

    let uid = cluster.get("pod", "some")?["metadata"]["uid"].as_str().context("uid")?.to_string();
    let group = format!("{}/burstable/pod{uid}", cluster.server.cgroup());
    // No more than the pod asked for, where the machine has cgroups for that.
    for (root, file) in [("hugetlb", "hugetlb.2MB.limit_in_bytes"), ("", "hugetlb.2MB.max")] {
        let path = std::path::Path::new("/sys/fs/cgroup").join(root).join(&group).join(file);
        if let Ok(limit) = std::fs::read_to_string(&path) {
            assert_eq!(limit.trim(), (8 << 20).to_string());
        }
    }

    for (resources, words) in [
        (
            "{requests: {hugepages-2Mi: 2Mi, cpu: 1m}, limits: {hugepages-2Mi: 4Mi}}",
            "must be equal to hugepages-2Mi limit",
        ),
        ("{requests: {hugepages-2Mi: 2Mi, cpu: 1m}}", "Limit must be set for non overcommitable resources"),
        ("{limits: {hugepages-2Mi: 3Mi, cpu: 1m}}", "must be a multiple of the size of a page, 2Mi"),
        ("{limits: {hugepages-2Mi: 2Mi}}", "HugePages require cpu or memory"),
        ("{requests: {example.com/thing: 1}}", "Limit must be set for non overcommitable resources"),
    ] {
        let bad = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec: {{containers: [{{name: c, image: x, resources: {resources}}}]}}\n"
        );
        let output = cluster.kubectl_with(&["create", "-f", "-"], &bad);
        assert!(output.code != 0 && output.stderr.contains(words), "{resources}: {output:?}");
    }
    Ok(())
}
