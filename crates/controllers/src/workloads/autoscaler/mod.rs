//! HorizontalPodAutoscalers (`autoscaling/v2`): replicas of whatever has a `scale`, by what its pods use or by other
//! figures.

mod metrics;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{LabelSelector, ObjectExt as _, Quantity};
use http::Request;
use informer::pod::Container;
use informer::{Informer, Key, Keyed as _, Pod, Queue};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
};
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::toolkit::{Context, Result, ignore, pods};
use plan::{History, PodTarget, PodUse, Proposal, TOLERANCE, Tolerances};

/// How often figures are looked at: they change without any event.
const PERIOD: Duration = Duration::from_secs(15);
/// So long after its start a pod's processor use may be that of the start.
const WARM_UP: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready so soon after its start never was ready.
const FIRST_READY: SignedDuration = SignedDuration::from_secs(30);

pub fn start(context: Context) {
    let autoscalers = context.informers.of::<HorizontalPodAutoscaler>();
    let all_pods = context.informers.of::<Pod>();
    let queue = Queue::of(&autoscalers, context.events.clone());
    let add = queue.clone();
    autoscalers.on_change(move |change| {
        // What this controller writes itself is no reason to look again before the time.
        let respecified = match change {
            informer::Change::Applied { old: Some(old), new } => old.spec != new.spec,
            _ => true,
        };
        if respecified {
            add.add(change.object().key());
        }
    });
    let histories: Arc<Mutex<HashMap<Key, History>>> = Arc::default();
    let selectors: Arc<Mutex<HashMap<Key, LabelSelector>>> = Arc::default();
    queue.work("horizontalpodautoscaler", 4, move |key| {
        let work = Work {
            context: context.clone(),
            pods: all_pods.clone(),
            histories: histories.clone(),
            selectors: selectors.clone(),
        };
        let autoscalers = autoscalers.clone();
        async move {
            informer::synced!(autoscalers, work.pods);
            let Some(autoscaler) = autoscalers.get(&key) else {
                work.histories.lock().remove(&key);
                work.selectors.lock().remove(&key);
                return Ok::<_, kube::Error>(None);
            };
            work.reconcile(&autoscaler).await?;
            Ok(Some(PERIOD))
        }
    });
}

struct Work {
    context: Context,
    pods: Informer<Pod>,
    histories: Arc<Mutex<HashMap<Key, History>>>,
    /// Which pods each autoscaler looks at, as its target said last.
    selectors: Arc<Mutex<HashMap<Key, LabelSelector>>>,
}

/// What is scaled.
struct Target {
    /// The path of its `scale`.
    path: String,
    replicas: i32,
    selector: String,
    title: String,
}

/// A figure of the whole, or of each pod.
struct Figure {
    proposal: Proposal,
    title: String,
    /// As the status shows it.
    shown: Value,
}

/// What is wrong with figures that can't be had: how many there are, and the first one's reason and message.
struct Failed {
    number: usize,
    reason: &'static str,
    why: String,
}

/// Reason and message of a figure that can't be had, as upstream words them.
fn failure(metric: &MetricSpec, why: &str) -> (&'static str, String) {
    let of = |r: Option<&str>, what: &str| format!("failed to get {}{what}: {why}", r.unwrap_or(""));
    match metric.type_.as_str() {
        "Pods" => ("FailedGetPodsMetric", of(None, "pods metric value")),
        "Object" => ("FailedGetObjectMetric", of(None, "object metric value")),
        "External" => {
            let name = metric.external.as_ref().map(|e| e.metric.name.as_str());
            ("FailedGetExternalMetric", of(name, " external metric value"))
        }
        "ContainerResource" => {
            let name = metric.container_resource.as_ref().map(|r| r.name.as_str());
            ("FailedGetContainerResourceMetric", of(name, " container metric value"))
        }
        _ => {
            ("FailedGetResourceMetric", of(metric.resource.as_ref().map(|r| r.name.as_str()), " resource metric value"))
        }
    }
}

/// Whether a number of replicas is set right whatever is measured: there are too many or too few, or none are wanted.
fn is_outside(spec: &HorizontalPodAutoscalerSpec, replicas: i32) -> bool {
    let least = spec.min_replicas.unwrap_or(1);
    (replicas == 0 && least != 0) || replicas > spec.max_replicas || replicas < least
}

/// A condition: status, reason, message.
type Said = (&'static str, String, String);

impl Work {
    async fn reconcile(&self, autoscaler: &HorizontalPodAutoscaler) -> Result {
        let mut report = Report::of(autoscaler);
        let target = match find_target(&self.context.client, autoscaler).await {
            Ok(target) => target,
            Err(why) => {
                self.context.events.warning(autoscaler, "FailedGetScale", why.clone());
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                report.say("AbleToScale", ("False", "FailedGetScale".into(), text));
                return self.write(autoscaler, report).await;
            }
        };
        let able = "the HPA controller was able to get the target's current scale";
        report.say("AbleToScale", ("True", "SucceededGetScale".into(), able.into()));
        report.status["currentReplicas"] = target.replicas.into();
        if let Some((event, reason, text)) = self.unfit(autoscaler, &target) {
            self.context.events.warning(autoscaler, event, text.clone());
            report.say("ScalingActive", ("False", reason.into(), text));
            report.status["desiredReplicas"] = target.replicas.into();
            return self.write(autoscaler, report).await;
        }
        let (desired, reason) = match self.decide(autoscaler, &target, &mut report).await {
            Some(decided) => decided,
            None => {
                report.status["desiredReplicas"] = target.replicas.into();
                return self.write(autoscaler, report).await;
            }
        };
        report.status["desiredReplicas"] = desired.into();
        if desired != target.replicas {
            self.rescale(autoscaler, &target, desired, &reason, &mut report).await;
        }
        self.write(autoscaler, report).await
    }

    /// Why the pods of a target can't be told (event, condition's reason, message), if so: its scale names none, or other autoscalers look at the
    /// same pods, so that each would undo what the other does. Where nothing is measured that doesn't matter.
    fn unfit(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
    ) -> Option<(&'static str, &'static str, String)> {
        if is_outside(&autoscaler.spec, target.replicas) {
            return None;
        }
        if target.selector.is_empty() {
            let text = "the HPA target's scale is missing a selector";
            return Some(("SelectorRequired", "InvalidSelector", text.into()));
        }
        let selector = match LabelSelector::parse(&target.selector) {
            Ok(selector) => selector,
            Err(why) => {
                let text = format!("couldn't convert selector into a corresponding internal selector object: {why}");
                return Some(("InvalidSelector", "InvalidSelector", text));
            }
        };
        let key = autoscaler.key();
        let mut selectors = self.selectors.lock();
        selectors.insert(key.clone(), selector.clone());
        let pods = self.pods.list_in(&key.namespace);
        let mine: Vec<_> = pods.iter().filter(|pod| selector.matches_map(pod.metadata.labels.as_ref())).collect();
        let looks = |other: &LabelSelector| mine.iter().any(|pod| other.matches_map(pod.metadata.labels.as_ref()));
        let mut all: Vec<String> = selectors
            .iter()
            .filter(|(other, theirs)| other.namespace == key.namespace && (**other == key || looks(theirs)))
            .map(|(other, _)| format!("{}/{}", other.namespace, other.name))
            .collect();
        all.sort();
        (all.len() > 1).then(|| {
            let text =
                format!("pods by selector {} are controlled by multiple HPAs: [{}]", target.selector, all.join(" "));
            ("AmbiguousSelector", "AmbiguousSelector", text)
        })
    }

    /// How many replicas there should be, and why; `None` to leave them alone.
    async fn decide(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
        report: &mut Report,
    ) -> Option<(i32, String)> {
        let spec = &autoscaler.spec;
        let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        if target.replicas == 0 && least != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            report.say("ScalingActive", ("False", "ScalingDisabled".into(), text.into()));
            return None;
        }
        if target.replicas > most {
            return Some((most, "Current number of replicas above Spec.MaxReplicas".into()));
        }
        if target.replicas < least {
            return Some((least, "Current number of replicas below Spec.MinReplicas".into()));
        }
        let (figure, failed) = self.figures(autoscaler, target, report).await;
        let figure = match figure {
            // Fewer because of one figure is no good while another one is unknown.
            Some(figure) if failed.is_none() || figure.proposal.replicas >= target.replicas => figure,
            _ => {
                let Failed { number, reason, why } = failed?;
                let text = format!("the HPA was unable to compute the replica count: {why}");
                let all = spec.metrics.as_ref().map_or(0, Vec::len);
                let whole = format!("invalid metrics ({number} invalid out of {all}), first error is: {why}");
                self.context.events.warning(autoscaler, "FailedComputeMetricsReplicas", whole);
                report.say("ScalingActive", ("False", reason.into(), text));
                return None;
            }
        };
        let text = format!("the HPA was able to successfully calculate a replica count from {}", figure.title);
        report.say("ScalingActive", ("True", "ValidMetricFound".into(), text));
        let limited = {
            let mut histories = self.histories.lock();
            let history = histories.entry(autoscaler.key()).or_default();
            let behavior = spec.behavior.as_ref();
            let asked = figure.proposal.replicas;
            plan::limit(target.replicas, asked, (least, most), behavior, history, apimachinery::clock::now())
        };
        report.say("AbleToScale", ("True", limited.able.0.into(), limited.able.1.into()));
        let (is_limited, reason, message) = limited.limited;
        report.say("ScalingLimited", (if is_limited { "True" } else { "False" }, reason.into(), message.into()));
        let why = if limited.replicas > target.replicas {
            format!("{} above target", figure.title)
        } else {
            "All metrics below target".into()
        };
        Some((limited.replicas, why))
    }

    /// The figure that asks for most, and what is wrong with those that can't be had.
    async fn figures(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
        report: &mut Report,
    ) -> (Option<Figure>, Option<Failed>) {
        let (mut highest, mut failed): (Option<Figure>, Option<Failed>) = (None, None);
        let mut shown = Vec::new();
        for metric in autoscaler.spec.metrics.iter().flatten() {
            match self.figure(autoscaler, target, metric).await {
                Ok(figure) => {
                    shown.push(figure.shown.clone());
                    if highest.as_ref().is_none_or(|h| figure.proposal.replicas > h.proposal.replicas) {
                        highest = Some(figure);
                    }
                }
                Err(why) => {
                    let (reason, why) = failure(metric, &why);
                    self.context.events.warning(autoscaler, reason, why.clone());
                    match &mut failed {
                        Some(first) => first.number += 1,
                        None => failed = Some(Failed { number: 1, reason, why }),
                    }
                }
            }
        }
        report.status["currentMetrics"] = if shown.is_empty() { Value::Null } else { shown.into() };
        (highest, failed)
    }

    async fn figure(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
        metric: &MetricSpec,
    ) -> std::result::Result<Figure, String> {
        let namespace = autoscaler.namespace().unwrap_or_default();
        let client = &self.context.client;
        let behavior = autoscaler.spec.behavior.as_ref();
        let tolerance = |up: bool| {
            let said = plan::rules(behavior, up).tolerance;
            said.and_then(|t| t.0.parse::<Quantity>().ok()).map_or(TOLERANCE, Quantity::as_f64)
        };
        let tolerances = Tolerances { up: tolerance(true), down: tolerance(false) };
        let current = target.replicas;
        if let Some(source) = &metric.resource {
            let uses = metrics::resource(client, &namespace, &target.selector, &source.name, None).await?;
            let pods = self.pods_of(&namespace, target, &uses, Some((&source.name, None)))?;
            let goal = pod_target(&source.target)?;
            let proposal = plan::by_pods(current, &pods, goal, tolerances)?;
            let title = resource_title(&source.name, goal);
            let shown =
                json!({"type": "Resource", "resource": {"name": source.name, "current": current_of(&proposal)}});
            return Ok(Figure { proposal, title, shown });
        }
        if let Some(source) = &metric.container_resource {
            let container = Some(source.container.as_str());
            let uses = metrics::resource(client, &namespace, &target.selector, &source.name, container).await?;
            let pods = self.pods_of(&namespace, target, &uses, Some((&source.name, container)))?;
            let goal = pod_target(&source.target)?;
            let proposal = plan::by_pods(current, &pods, goal, tolerances)?;
            let title = format!("{} container {}", source.container, resource_title(&source.name, goal));
            let shown = json!({"type": "ContainerResource", "containerResource": {"name": source.name,
                "container": source.container, "current": current_of(&proposal)}});
            return Ok(Figure { proposal, title, shown });
        }
        if let Some(source) = &metric.pods {
            let uses = metrics::of_pods(client, &namespace, &target.selector, &source.metric).await?;
            let pods = self.pods_of(&namespace, target, &uses, None)?;
            let proposal = plan::by_pods(current, &pods, pod_target(&source.target)?, tolerances)?;
            let title = format!("pods metric {}", source.metric.name);
            let shown = json!({"type": "Pods", "pods": {"metric": source.metric, "current": current_of(&proposal)}});
            return Ok(Figure { proposal, title, shown });
        }
        let ready = || -> i32 {
            let nothing = HashMap::new();
            let pods = self.pods_of(&namespace, target, &nothing, None).unwrap_or_default();
            pods.iter().filter(|p| !p.unready).count() as i32
        };
        if let Some(source) = &metric.object {
            let object = &source.described_object;
            let resource = resource_name(client, object).await?;
            let value = metrics::of_object(client, &namespace, &resource, &object.name, &source.metric).await?;
            let proposal = whole(current, ready(), value, &source.target, tolerances)?;
            let title = format!("{} metric {}", object.kind, source.metric.name);
            let shown = json!({"type": "Object", "object": {"metric": source.metric, "describedObject": object,
                "current": current_of(&proposal)}});
            return Ok(Figure { proposal, title, shown });
        }
        let Some(source) = &metric.external else { return Err(format!("unknown metric type {:?}", metric.type_)) };
        let value = metrics::external(client, &namespace, &source.metric).await?;
        let proposal = whole(current, ready(), value, &source.target, tolerances)?;
        let title = format!("external metric {}({:?})", source.metric.name, source.metric.selector);
        let shown =
            json!({"type": "External", "external": {"metric": source.metric, "current": current_of(&proposal)}});
        Ok(Figure { proposal, title, shown })
    }

    /// The target's pods with what they use. `resource` (of one container or all) if their requests matter.
    fn pods_of(
        &self,
        namespace: &str,
        target: &Target,
        uses: &HashMap<String, i64>,
        resource: Option<(&str, Option<&str>)>,
    ) -> std::result::Result<Vec<PodUse>, String> {
        let selector = LabelSelector::parse(&target.selector).map_err(|e| e.to_string())?;
        let now = apimachinery::clock::now();
        let mut found = Vec::new();
        for pod in self.pods.list_in(namespace) {
            if !pods::is_active(&pod) || !selector.matches_map(pod.metadata.labels.as_ref()) {
                continue;
            }
            let usage = uses.get(&pod.name_any()).copied();
            let of_processor = resource.is_some_and(|(name, _)| name == "cpu");
            let unready = pods::phase(&pod) == "Pending" || (of_processor && is_warming_up(&pod, now));
            let request = match resource {
                Some((name, container)) => request(&pod, name, container)?,
                None => 0,
            };
            found.push(PodUse { unready, usage, request });
        }
        Ok(found)
    }

    async fn rescale(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
        desired: i32,
        reason: &str,
        report: &mut Report,
    ) {
        let body = json!({"spec": {"replicas": desired}}).to_string().into_bytes();
        let request = Request::patch(&target.path).header("content-type", "application/merge-patch+json").body(body);
        let written = match request {
            Ok(request) => self.context.client.request::<Value>(request).await.map_err(|e| informer::error_message(&e)),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = written {
            let text = format!("New size: {desired}; reason: {reason}; error: {why}");
            self.context.events.warning(autoscaler, "FailedRescale", text);
            let text = format!("the HPA controller was unable to update the target scale: {why}");
            report.say("AbleToScale", ("False", "FailedUpdateScale".into(), text));
            report.status["desiredReplicas"] = target.replicas.into();
            return;
        }
        let text = format!("the HPA controller was able to update the target scale to {desired}");
        report.say("AbleToScale", ("True", "SucceededRescale".into(), text));
        self.context.events.normal(autoscaler, "SuccessfulRescale", format!("New size: {desired}; reason: {reason}"));
        report.status["lastScaleTime"] = report.now.clone();
        let mut histories = self.histories.lock();
        let history = histories.entry(autoscaler.key()).or_default();
        history.changes.push((apimachinery::clock::now(), desired.saturating_sub(target.replicas)));
        tracing::info!(target = target.title, from = target.replicas, to = desired, reason, "scaled");
    }

    async fn write(&self, autoscaler: &HorizontalPodAutoscaler, report: Report) -> Result {
        let present = serde_json::to_value(&autoscaler.status).unwrap_or(Value::Null);
        let same = report.status.as_object().into_iter().flatten().all(|(k, v)| present[k] == *v);
        if same {
            return Ok(());
        }
        let namespace = autoscaler.namespace().unwrap_or_default();
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.context.client.clone(), &namespace);
        let patch = Patch::Merge(json!({"status": report.status}));
        ignore(api.patch_status(&autoscaler.name_any(), &PatchParams::default(), &patch).await, &[404])
    }
}

/// A status in the making.
struct Report {
    status: Value,
    now: Value,
}

impl Report {
    fn of(autoscaler: &HorizontalPodAutoscaler) -> Self {
        let before = serde_json::to_value(&autoscaler.status).unwrap_or(Value::Null);
        let conditions = if before["conditions"].is_array() { before["conditions"].clone() } else { json!([]) };
        let status = json!({"conditions": conditions, "observedGeneration": autoscaler.metadata.generation});
        Report { status, now: json!(apimachinery::clock::now_rfc3339()) }
    }

    fn say(&mut self, kind: &str, (status, reason, message): Said) {
        let now = self.now.clone();
        let Some(list) = self.status["conditions"].as_array_mut() else { return };
        let before = list.iter().position(|c| c["type"] == kind);
        let since = before.filter(|i| list[*i]["status"] == status).map(|i| list[i]["lastTransitionTime"].clone());
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since.unwrap_or(now)});
        match before {
            Some(i) => list[i] = condition,
            None => list.push(condition),
        }
    }
}

async fn resource_name(client: &Client, object: &CrossVersionObjectReference) -> std::result::Result<String, String> {
    let resource = discover(client, object).await?;
    Ok(if resource.group.is_empty() { resource.plural } else { format!("{}.{}", resource.plural, resource.group) })
}

async fn discover(
    client: &Client,
    object: &CrossVersionObjectReference,
) -> std::result::Result<kube::discovery::ApiResource, String> {
    let version = object.api_version.as_deref().unwrap_or("v1");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, &object.kind);
    let found = kube::discovery::oneshot::pinned_kind(client, &kind).await;
    let (resource, _) = found.map_err(|e| format!("no matches for kind {:?} in group {group:?}: {e}", object.kind))?;
    Ok(resource)
}

async fn find_target(client: &Client, autoscaler: &HorizontalPodAutoscaler) -> std::result::Result<Target, String> {
    let object = &autoscaler.spec.scale_target_ref;
    let resource = discover(client, object).await?;
    let prefix = if resource.group.is_empty() { "/api".into() } else { format!("/apis/{}", resource.group) };
    let namespace = autoscaler.namespace().unwrap_or_default();
    let path =
        format!("{prefix}/{}/namespaces/{namespace}/{}/{}/scale", resource.version, resource.plural, object.name);
    let request = Request::get(&path).body(Vec::new()).map_err(|e| e.to_string())?;
    let scale: Value = client.request(request).await.map_err(|e| e.to_string())?;
    let selector = scale.str_at(&["status", "selector"]);
    Ok(Target {
        path,
        replicas: scale.i64_at(&["spec", "replicas"]).unwrap_or(0) as i32,
        selector: selector.into(),
        title: format!("{}/{namespace}/{}", object.kind, object.name),
    })
}

fn amount(quantity: &resource::Quantity) -> std::result::Result<i64, String> {
    quantity.0.parse::<Quantity>().map(Quantity::milli).map_err(|e| e.to_string())
}

fn pod_target(target: &MetricTarget) -> std::result::Result<PodTarget, String> {
    match (target.average_utilization, &target.average_value) {
        (Some(percent), _) => Ok(PodTarget::Percent(percent.into())),
        (None, Some(average)) => Ok(PodTarget::Amount(amount(average)?)),
        (None, None) => Err("the metric's target has neither averageUtilization nor averageValue".into()),
    }
}

fn whole(
    current: i32,
    ready: i32,
    value: i64,
    target: &MetricTarget,
    tolerances: Tolerances,
) -> std::result::Result<Proposal, String> {
    match (&target.value, &target.average_value) {
        (Some(wanted), _) => Ok(plan::by_value(current, ready, value, amount(wanted)?, tolerances)),
        (None, Some(wanted)) => Ok(plan::by_shared_value(current, value, amount(wanted)?, tolerances)),
        (None, None) => Err("the metric's target has neither value nor averageValue".into()),
    }
}

fn resource_title(name: &str, target: PodTarget) -> String {
    match target {
        PodTarget::Percent(_) => format!("{name} resource utilization (percentage of request)"),
        PodTarget::Amount(_) => format!("{name} resource"),
    }
}

fn current_of(proposal: &Proposal) -> Value {
    let text = |milli: i64| if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
    let mut current = json!({});
    if let Some(percent) = proposal.utilization {
        current["averageUtilization"] = percent.into();
    }
    if let Some(average) = proposal.average {
        current["averageValue"] = text(average).into();
    }
    if let Some(value) = proposal.value {
        current["value"] = text(value).into();
    }
    current
}

/// What a pod's containers, or one of them, request of a resource.
fn request(pod: &Pod, resource: &str, container: Option<&str>) -> std::result::Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    // What the pod as a whole requests comes first, as it does where pods are scheduled (KEP-2837).
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
    if let (Some(whole), None) = (whole, container) {
        return amount(whole);
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let chosen = spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == name));
    let of = |c: &Container| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let found = requests.and_then(|r| r.get(resource)).ok_or_else(|| {
            format!("missing request for {resource} in container {} of Pod {}", c.name, pod.name_any())
        })?;
        amount(found)
    };
    chosen.map(of).try_fold(0i64, |all, one| Ok(all.saturating_add(one?)))
}

/// Whether a pod's use of the processor may be that of its start.
fn is_warming_up(pod: &Pod, now: Timestamp) -> bool {
    let Some(status) = &pod.status else { return true };
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    let (Some(ready), Some(start)) = (ready, &status.start_time) else { return true };
    let is_ready = ready.status == "True";
    if now.duration_since(start.0) < WARM_UP {
        return !is_ready;
    }
    let since = ready.last_transition_time.as_ref().map_or(now, |t| t.0);
    !is_ready && since.duration_since(start.0) < FIRST_READY
}
