//! What the metrics of an autoscaler ask for, and what they are.

use std::collections::HashMap;

use apimachinery::{LabelSelector, Quantity};
use informer::Pod;
use informer::pod::Container;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HorizontalPodAutoscaler, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
    PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::plan::{self, PodTarget, PodUse, Proposal, TOLERANCE, Tolerances};
use super::target::{Target, resource_name};
use super::{AutoscalerController, Report, metrics};
use crate::toolkit::pods;

/// So long after its start a pod's processor use may be that of the start.
const WARM_UP: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready so soon after its start never was ready.
const FIRST_READY: SignedDuration = SignedDuration::from_secs(30);

/// A figure of the whole, or of each pod.
pub(super) struct Figure {
    pub(super) proposal: Proposal,
    pub(super) title: String,
    /// As the status shows it.
    pub(super) shown: MetricStatus,
}

/// What is wrong with figures that can't be had: how many there are, and the first one's reason and message.
pub(super) struct Failed {
    pub(super) number: usize,
    pub(super) reason: &'static str,
    pub(super) why: String,
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

/// What is asked of each metric of an autoscaler.
struct Question<'a> {
    namespace: &'a str,
    target: &'a Target,
    tolerances: Tolerances,
}

fn tolerances(autoscaler: &HorizontalPodAutoscaler) -> Tolerances {
    let behavior = autoscaler.spec.behavior.as_ref();
    let tolerance = |up: bool| {
        let set = plan::rules(behavior, up).tolerance;
        set.and_then(|t| t.0.parse::<Quantity>().ok()).map_or(TOLERANCE, Quantity::as_f64)
    };
    Tolerances { up: tolerance(true), down: tolerance(false) }
}

impl AutoscalerController {
    /// The figure that asks for most, and what is wrong with those that can't be had.
    pub(super) async fn figures(
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
        report.status.current_metrics = Some(shown).filter(|shown| !shown.is_empty());
        (highest, failed)
    }

    /// What one metric asks for.
    async fn figure(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
        metric: &MetricSpec,
    ) -> std::result::Result<Figure, String> {
        let namespace = autoscaler.namespace().unwrap_or_default();
        let question = Question { namespace: &namespace, target, tolerances: tolerances(autoscaler) };
        if let Some(source) = &metric.resource {
            let (proposal, title) = self.resource(&question, &source.name, None, &source.target).await?;
            let (name, current) = (source.name.clone(), current_of(&proposal));
            let resource = Some(ResourceMetricStatus { name, current });
            let shown = MetricStatus { type_: "Resource".into(), resource, ..MetricStatus::default() };
            return Ok(Figure { proposal, title, shown });
        }
        if let Some(source) = &metric.container_resource {
            let container = Some(source.container.as_str());
            let (proposal, title) = self.resource(&question, &source.name, container, &source.target).await?;
            let title = format!("{} container {title}", source.container);
            let (name, container, current) = (source.name.clone(), source.container.clone(), current_of(&proposal));
            let container_resource = Some(ContainerResourceMetricStatus { name, container, current });
            let shown =
                MetricStatus { type_: "ContainerResource".into(), container_resource, ..MetricStatus::default() };
            return Ok(Figure { proposal, title, shown });
        }
        if let Some(source) = &metric.pods {
            return self.per_pod(&question, source).await;
        }
        if let Some(source) = &metric.object {
            return self.of_object(&question, source).await;
        }
        match &metric.external {
            Some(source) => self.external(&question, source).await,
            None => Err(format!("unknown metric type {:?}", metric.type_)),
        }
    }

    /// What a resource asks for, of one container of each pod or of all; and its title.
    async fn resource(
        &self,
        question: &Question<'_>,
        name: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> std::result::Result<(Proposal, String), String> {
        let Question { namespace, target: Target { selector, replicas, .. }, tolerances } = question;
        let uses = metrics::resource(&self.context.client, namespace, selector, name, container).await?;
        let pods = self.pods_of(namespace, question.target, &uses, Some((name, container)))?;
        let goal = pod_target(target)?;
        Ok((plan::by_pods(*replicas, &pods, goal, *tolerances)?, resource_title(name, goal)))
    }

    async fn per_pod(&self, question: &Question<'_>, source: &PodsMetricSource) -> std::result::Result<Figure, String> {
        let Question { namespace, target, tolerances } = question;
        let uses = metrics::of_pods(&self.context.client, namespace, &target.selector, &source.metric).await?;
        let pods = self.pods_of(namespace, target, &uses, None)?;
        let proposal = plan::by_pods(target.replicas, &pods, pod_target(&source.target)?, *tolerances)?;
        let (metric, current) = (source.metric.clone(), current_of(&proposal));
        let pods = Some(PodsMetricStatus { metric, current });
        let shown = MetricStatus { type_: "Pods".into(), pods, ..MetricStatus::default() };
        Ok(Figure { proposal, title: format!("pods metric {}", source.metric.name), shown })
    }

    async fn of_object(
        &self,
        question: &Question<'_>,
        source: &ObjectMetricSource,
    ) -> std::result::Result<Figure, String> {
        let (client, object) = (&self.context.client, &source.described_object);
        let resource = resource_name(client, object).await?;
        let value = metrics::of_object(client, question.namespace, &resource, &object.name, &source.metric).await?;
        let proposal = self.of_whole(question, value, &source.target)?;
        let (metric, current) = (source.metric.clone(), current_of(&proposal));
        let of = Some(ObjectMetricStatus { metric, described_object: object.clone(), current });
        let shown = MetricStatus { type_: "Object".into(), object: of, ..MetricStatus::default() };
        Ok(Figure { proposal, title: format!("{} metric {}", object.kind, source.metric.name), shown })
    }

    async fn external(
        &self,
        question: &Question<'_>,
        source: &ExternalMetricSource,
    ) -> std::result::Result<Figure, String> {
        let value = metrics::external(&self.context.client, question.namespace, &source.metric).await?;
        let proposal = self.of_whole(question, value, &source.target)?;
        let title = format!("external metric {}({:?})", source.metric.name, source.metric.selector);
        let (metric, current) = (source.metric.clone(), current_of(&proposal));
        let external = Some(ExternalMetricStatus { metric, current });
        let shown = MetricStatus { type_: "External".into(), external, ..MetricStatus::default() };
        Ok(Figure { proposal, title, shown })
    }

    /// What a value of the whole asks for.
    fn of_whole(
        &self,
        question: &Question<'_>,
        value: i64,
        target: &MetricTarget,
    ) -> std::result::Result<Proposal, String> {
        let nothing = HashMap::new();
        let pods = self.pods_of(question.namespace, question.target, &nothing, None).unwrap_or_default();
        let ready = pods.iter().filter(|p| !p.unready).count() as i32;
        whole(question.target.replicas, ready, value, target, question.tolerances)
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

fn current_of(proposal: &Proposal) -> MetricValueStatus {
    let text = |milli: i64| if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
    let quantity = |milli: Option<i64>| milli.map(|milli| resource::Quantity(text(milli)));
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: quantity(proposal.average),
        value: quantity(proposal.value),
    }
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
