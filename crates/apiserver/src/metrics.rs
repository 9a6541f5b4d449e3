//! Metrics of requests, under upstream's names (its "Kubernetes Metrics Reference").

use std::fmt::Write as _;
use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::ApiServer;
use crate::request::ResourceRequest;

/// Buckets of the duration histogram, in seconds; upstream's.
const DURATION_BUCKETS: [f64; 20] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 60.0];

/// Metrics of requests.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGaugeVec,
    long_running: IntGaugeVec,
    /// Requests whose handling panicked.
    pub panics: IntCounter,
}

/// Labels of a request's metrics. Only kinds that are served get names of their own, so that no client can make up names
/// without end.
#[derive(Clone)]
pub struct Labels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    dry_run: &'static str,
}

impl Labels {
    /// Labels of a request for a resource; `applies` for server-side apply.
    pub fn of(info: &ResourceRequest, applies: bool) -> Self {
        let verb = match info.verb {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" if applies => "APPLY",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        let sub = match info.subresource {
            None if info.path.subresource.is_empty() => "",
            None => "other",
            Some(sub) => sub.name(),
        };
        let scope = match (info.path.name.is_empty(), info.path.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let dry_run = if info.query.get("dryRun") == "All" { "All" } else { "" };
        let kind = info.kind;
        Labels {
            verb,
            group: kind.group,
            version: kind.version,
            resource: kind.plural(),
            subresource: sub,
            scope,
            dry_run,
        }
    }

    /// Of a path that names no resource.
    pub fn other(method: &http::Method) -> Self {
        let verb = match *method {
            http::Method::GET => "GET",
            http::Method::POST => "POST",
            _ => "other",
        };
        Labels { verb, group: "", version: "", resource: "", subresource: "", scope: "", dry_run: "" }
    }

    /// Whether the request runs as long as its client wants (upstream's long-running requests).
    pub fn is_long(&self) -> bool {
        self.verb == "WATCH" || matches!(self.subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
    }
}

/// Counts a request as long as it lives.
pub struct Running {
    gauge: prometheus::IntGauge,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let names = ["verb", "group", "version", "resource", "subresource", "scope"];
        // Names are constants, each registered once, so none of this can fail.
        let registry = Registry::new();
        let requests = Opts::new(
            "apiserver_request_total",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        let requests = IntCounterVec::new(requests, &[&names[..], &["dry_run", "component", "code"]].concat());
        let durations = HistogramOpts::new(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        let durations = HistogramVec::new(
            durations.buckets(DURATION_BUCKETS.to_vec()),
            &[&names[..], &["dry_run", "component"]].concat(),
        );
        let in_flight = Opts::new(
            "apiserver_current_inflight_requests",
            "Number of currently used inflight request limit of this apiserver per request kind.",
        );
        let in_flight = IntGaugeVec::new(in_flight, &["request_kind"]);
        let long_running = Opts::new(
            "apiserver_longrunning_requests",
            "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component.",
        );
        let long_running = IntGaugeVec::new(long_running, &[&names[..], &["component"]].concat());
        let panics = IntCounter::new("timonel_apiserver_panics_total", "Requests whose handling panicked.");
        let (Ok(requests), Ok(durations), Ok(in_flight), Ok(long_running), Ok(panics)) =
            (requests, durations, in_flight, long_running, panics)
        else {
            unreachable!("the names above are good")
        };
        let _ = registry.register(Box::new(requests.clone()));
        let _ = registry.register(Box::new(durations.clone()));
        let _ = registry.register(Box::new(in_flight.clone()));
        let _ = registry.register(Box::new(long_running.clone()));
        let _ = registry.register(Box::new(panics.clone()));
        Metrics { registry, requests, durations, in_flight, long_running, panics }
    }
}

impl Metrics {
    /// Counts a request among those that are served, until the answer is dropped.
    pub fn begin(&self, labels: &Labels) -> Running {
        let gauge = if labels.is_long() {
            let Labels { verb, group, version, resource, subresource, scope, .. } = labels;
            self.long_running.with_label_values(&[verb, group, version, resource, subresource, scope, "apiserver"])
        } else {
            let reads = matches!(labels.verb, "GET" | "LIST");
            self.in_flight.with_label_values(&[if reads { "readOnly" } else { "mutating" }])
        };
        gauge.inc();
        Running { gauge }
    }

    /// Counts an answer.
    pub fn end(&self, labels: &Labels, code: u16, took: Duration) {
        let Labels { verb, group, version, resource, subresource, scope, dry_run } = labels;
        let code = code.to_string();
        let known = [verb, group, version, resource, subresource, scope, dry_run, "apiserver", &code];
        self.requests.with_label_values(&known).inc();
        if !labels.is_long() {
            self.durations.with_label_values(&known[..8]).observe(took.as_secs_f64());
        }
    }
}

/// Prometheus text: requests, stored objects, and the process.
pub fn text(server: &ApiServer) -> String {
    let families = [server.metrics.registry.gather(), prometheus::gather()].concat();
    let mut out = TextEncoder::new().encode_to_string(&families).unwrap_or_default();
    out.push_str("# HELP apiserver_storage_objects Number of stored objects at the time of last check split by kind.\n# TYPE apiserver_storage_objects gauge\n");
    for resource in server.cache.resources() {
        let name = resource.kind.resource();
        let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{name}\"}} {}", resource.len());
    }
    let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let start = server.started.as_second() as f64;
    gauge("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", start);
    let help = "Bytes that answers keep in memory whose clients haven't read them yet.";
    gauge("timonel_apiserver_unsent_bytes", "gauge", help, server.unsent.total() as f64);
    gauge("timonel_apiserver_open_watches", "gauge", "Watches that are open.", server.watches.total() as f64);
    if let Some(used) = Process::read() {
        gauge("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", used.seconds);
        gauge("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", used.resident);
        gauge("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", used.virtual_size);
        gauge("process_open_fds", "gauge", "Number of open file descriptors.", used.descriptors);
    }
    server.fairness.metrics(&mut out);
    out
}

struct Process {
    seconds: f64,
    resident: f64,
    virtual_size: f64,
    descriptors: f64,
}

impl Process {
    /// Reads the process's usage (proc(5)).
    fn read() -> Option<Self> {
        let stat = bounded::text("/proc/self/stat", bounded::MAX_KERNEL_FILE_BYTES).ok()?;
        // The name before the parenthesis may have blanks.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |i: usize| fields.get(i)?.parse::<f64>().ok();
        // Clock ticks and pages have these sizes on all machines that are served.
        const TICKS: f64 = 100.0;
        const PAGE: f64 = 4096.0;
        Some(Process {
            seconds: (number(11)? + number(12)?) / TICKS,
            virtual_size: number(20)?,
            resident: number(21)? * PAGE,
            descriptors: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        })
    }
}
