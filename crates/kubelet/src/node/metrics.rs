//! What a node tells Prometheus, in its text form and under upstream's names.

use k8s_openapi::jiff::Timestamp;
use prometheus::TextEncoder;
use serde_json::Value;

use crate::node::stats::{PodCounted, StatsProvider};

fn family(out: &mut String, name: &str, kind: &str, help: &str, values: Vec<(String, f64)>) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    for (labels, value) in values {
        out.push_str(&format!("{name}{labels} {value}\n"));
    }
}

/// `/metrics`: the kubelet's own, and what the other parts of the node count.
pub async fn own(node: String, stats: &StatsProvider) -> String {
    let pods = stats.pods();
    let made = tokio::task::spawn_blocking(move || of_pods(&node, &pods)).await;
    let counted = TextEncoder::new().encode_to_string(&prometheus::gather());
    [made.unwrap_or_default(), counted.unwrap_or_default()].concat()
}

fn of_pods(node: &str, pods: &[PodCounted]) -> String {
    let mut out = String::new();
    let running = pods.iter().filter(|pod| pod.running() > 0).count();
    let containers: usize = pods.iter().map(PodCounted::running).sum();
    let mut gauge = |name: &str, help: &str, values| family(&mut out, name, "gauge", help, values);
    gauge("kubelet_node_name", "The node's name. The count is always 1.", vec![(format!("{{node={node:?}}}"), 1.0)]);
    gauge(
        "kubelet_running_pods",
        "Number of pods that have a running container",
        vec![(String::new(), running as f64)],
    );
    let state = "{container_state=\"running\"}".to_string();
    gauge("kubelet_running_containers", "Number of containers currently running", vec![(state, containers as f64)]);
    let volumes: Vec<Value> = pods.iter().flat_map(PodCounted::volumes).collect();
    for (name, field, help) in [
        ("capacity_bytes", "capacityBytes", "Capacity in bytes of the volume"),
        ("available_bytes", "availableBytes", "Number of available bytes in the volume"),
        ("used_bytes", "usedBytes", "Number of used bytes in the volume"),
        ("inodes", "inodes", "Maximum number of inodes in the volume"),
        ("inodes_free", "inodesFree", "Number of free inodes in the volume"),
        ("inodes_used", "inodesUsed", "Number of used inodes in the volume"),
    ] {
        let text = |v: &Value| v.as_str().unwrap_or("").to_string();
        let value = |v: &Value| {
            let claim = (text(&v["pvcRef"]["namespace"]), text(&v["pvcRef"]["name"]));
            let labels = format!("{{namespace={:?},persistentvolumeclaim={:?}}}", claim.0, claim.1);
            (labels, v[field].as_f64().unwrap_or(0.0))
        };
        // Pods of one claim see the same.
        let mut values: Vec<(String, f64)> = volumes.iter().map(value).collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        values.dedup_by(|a, b| a.0 == b.0);
        gauge(&format!("kubelet_volume_stats_{name}"), help, values);
    }
    out
}

/// What [`summary`](StatsProvider::summary) says: `/metrics/resource`, or with `detail` `/metrics/cadvisor`.
pub fn of_summary(summary: &Value, detail: bool) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values| family(&mut out, name, kind, help, values);
    let text = |v: &Value| v.as_str().unwrap_or("").to_string();
    let seconds = |v: &Value| v["cpu"]["usageCoreNanoSeconds"].as_f64().unwrap_or(0.0) / 1e9;
    let bytes = |v: &Value, what: &str| v["memory"][what].as_f64().unwrap_or(0.0);
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let of_pod =
        |p: &Value| format!("namespace={:?},pod={:?}", text(&p["podRef"]["namespace"]), text(&p["podRef"]["name"]));
    let of_pods = |value: &dyn Fn(&Value) -> f64| -> Vec<(String, f64)> {
        pods.iter().map(|p| (format!("{{{}}}", of_pod(p)), value(p))).collect()
    };
    let of_containers = |value: &dyn Fn(&Value) -> f64| -> Vec<(String, f64)> {
        let each = |p: &Value| {
            let containers = p["containers"].as_array().cloned().unwrap_or_default();
            let pod = of_pod(p);
            containers
                .into_iter()
                .map(move |c| (format!("{{container={:?},{pod}}}", c["name"].as_str().unwrap_or("")), c))
        };
        pods.iter().flat_map(each).map(|(labels, c)| (labels, value(&c))).collect()
    };
    let set = |v: &Value| bytes(v, "workingSetBytes");
    if !detail {
        let node = &summary["node"];
        let one = |value: f64| vec![(String::new(), value)];
        family(
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            one(seconds(node)),
        );
        family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes", one(set(node)));
        family(
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            of_pods(&seconds),
        );
        family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", of_pods(&set));
    }
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        of_containers(&seconds),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        of_containers(&set),
    );
    let started = |c: &Value| {
        c["startTime"].as_str().and_then(|t| t.parse::<Timestamp>().ok()).map_or(0.0, |t| t.as_second() as f64)
    };
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        of_containers(&started),
    );
    if detail {
        let usage = |c: &Value| bytes(c, "usageBytes");
        family(
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, with all caches",
            of_containers(&usage),
        );
        let rss = |c: &Value| bytes(c, "rssBytes");
        family("container_memory_rss", "gauge", "Size of RSS in bytes", of_containers(&rss));
        let fs = |c: &Value| c["rootfs"]["usedBytes"].as_f64().unwrap_or(0.0);
        family(
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that the container wrote to its root",
            of_containers(&fs),
        );
    } else {
        family(
            "resource_scrape_error",
            "gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
            vec![(String::new(), 0.0)],
        );
    }
    out
}
