//! Metrics of the node and its pods, in Prometheus' text form and under upstream's names.

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

/// The metrics of one summary ([`StatsProvider::summary`](crate::node::stats::StatsProvider::summary)).
struct OfSummary<'a> {
    out: String,
    summary: &'a Value,
}

fn seconds(v: &Value) -> f64 {
    v["cpu"]["usageCoreNanoSeconds"].as_f64().unwrap_or(0.0) / 1e9
}

fn memory(v: &Value, what: &str) -> f64 {
    v["memory"][what].as_f64().unwrap_or(0.0)
}

fn working_set(v: &Value) -> f64 {
    memory(v, "workingSetBytes")
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn pod_labels(pod: &Value) -> String {
    let text = |field: &str| pod["podRef"][field].as_str().unwrap_or("");
    format!("namespace={:?},pod={:?}", text("namespace"), text("name"))
}

impl OfSummary<'_> {
    fn node(&mut self, name: &str, kind: &str, help: &str, value: fn(&Value) -> f64) {
        let values = vec![(String::new(), value(&self.summary["node"]))];
        family(&mut self.out, name, kind, help, values);
    }

    fn pods(&mut self, name: &str, kind: &str, help: &str, value: fn(&Value) -> f64) {
        let values = list(&self.summary["pods"]).map(|pod| (format!("{{{}}}", pod_labels(pod)), value(pod))).collect();
        family(&mut self.out, name, kind, help, values);
    }

    fn containers(&mut self, name: &str, kind: &str, help: &str, value: fn(&Value) -> f64) {
        let mut values = Vec::new();
        for pod in list(&self.summary["pods"]) {
            let of_pod = pod_labels(pod);
            values.extend(list(&pod["containers"]).map(|container| {
                let labels = format!("{{container={:?},{of_pod}}}", container["name"].as_str().unwrap_or(""));
                (labels, value(container))
            }));
        }
        family(&mut self.out, name, kind, help, values);
    }

    /// What both metrics of containers have.
    fn of_containers(&mut self) {
        let help = "Cumulative cpu time consumed by the container in core-seconds";
        self.containers("container_cpu_usage_seconds_total", "counter", help, seconds);
        let help = "Current working set of the container in bytes";
        self.containers("container_memory_working_set_bytes", "gauge", help, working_set);
        let help = "Start time of the container since unix epoch in seconds";
        self.containers("container_start_time_seconds", "gauge", help, |c| {
            let start = c["startTime"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
            start.map_or(0.0, |t| t.as_second() as f64)
        });
    }
}

/// `/metrics/resource` of a summary.
pub fn resource(summary: &Value) -> String {
    let mut of = OfSummary { out: String::new(), summary };
    let help = "Cumulative cpu time consumed by the node in core-seconds";
    of.node("node_cpu_usage_seconds_total", "counter", help, seconds);
    of.node("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes", working_set);
    let help = "Cumulative cpu time consumed by the pod in core-seconds";
    of.pods("pod_cpu_usage_seconds_total", "counter", help, seconds);
    of.pods("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", working_set);
    of.of_containers();
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    family(&mut of.out, "resource_scrape_error", "gauge", help, vec![(String::new(), 0.0)]);
    of.out
}

/// `/metrics/cadvisor` of a summary.
pub fn cadvisor(summary: &Value) -> String {
    let mut of = OfSummary { out: String::new(), summary };
    of.of_containers();
    let help = "Current memory usage in bytes, with all caches";
    of.containers("container_memory_usage_bytes", "gauge", help, |c| memory(c, "usageBytes"));
    of.containers("container_memory_rss", "gauge", "Size of RSS in bytes", |c| memory(c, "rssBytes"));
    let help = "Number of bytes that the container wrote to its root";
    let written = |c: &Value| c["rootfs"]["usedBytes"].as_f64().unwrap_or(0.0);
    of.containers("container_fs_usage_bytes", "gauge", help, written);
    of.out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_becomes_metrics_by_upstreams_names() {
        let use_ = |n: u64| json!({"usageCoreNanoSeconds": n * 1_000_000_000});
        let container = json!({"name": "c", "cpu": use_(2), "memory": {"workingSetBytes": 7, "usageBytes": 9, "rssBytes": 5},
            "rootfs": {"usedBytes": 4}, "startTime": "1970-01-01T00:00:03Z"});
        let summary = json!({"node": {"cpu": use_(3), "memory": {"workingSetBytes": 8}},
            "pods": [{"podRef": {"name": "p", "namespace": "n"}, "cpu": use_(1), "memory": {"workingSetBytes": 6},
                "containers": [container]}]});
        let labels = "{container=\"c\",namespace=\"n\",pod=\"p\"}";
        let resource = resource(&summary);
        for line in [
            "node_cpu_usage_seconds_total 3".to_string(),
            "node_memory_working_set_bytes 8".into(),
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 1".into(),
            format!("container_cpu_usage_seconds_total{labels} 2"),
            format!("container_start_time_seconds{labels} 3"),
            "resource_scrape_error 0".into(),
        ] {
            assert!(resource.lines().any(|l| l == line), "{line}: {resource}");
        }
        let cadvisor = cadvisor(&summary);
        for (name, value) in [("memory_usage_bytes", 9), ("memory_rss", 5), ("fs_usage_bytes", 4)] {
            assert!(cadvisor.contains(&format!("container_{name}{labels} {value}\n")), "{name}: {cadvisor}");
        }
        assert!(!cadvisor.contains("node_cpu"));
    }
}
