//! HorizontalPodAutoscalers (`autoscaling/v2`): replicas of whatever has a `scale`, by what its pods use or by other
//! figures.

mod figures;
mod metrics;
mod plan;
mod target;

use std::collections::HashMap;
use std::time::Duration;

use apimachinery::LabelSelector;
use http::Request;
use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::toolkit::conditions;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result};
use figures::Failed;
use plan::History;
use target::{Target, find_target};

/// How often figures are looked at: they change without any event.
const PERIOD: Duration = Duration::from_secs(15);

pub fn start(context: Context) {
    let (autoscalers, pods) = (context.informers.of::<HorizontalPodAutoscaler>(), context.informers.of::<Pod>());
    // What this controller writes itself is no reason to look again before the time.
    let mut controller = Controller::of_some(&context, &autoscalers, |change| match change {
        informer::Change::Applied { old: Some(old), new } => old.spec != new.spec,
        _ => true,
    });
    controller.needs(&pods);
    let work =
        AutoscalerController { context, autoscalers, pods, histories: Mutex::default(), selectors: Mutex::default() };
    controller.run("horizontalpodautoscaler", 4, work);
}

struct AutoscalerController {
    context: Context,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    histories: Mutex<HashMap<Key, History>>,
    /// Which pods each autoscaler looks at, as its target said last.
    selectors: Mutex<HashMap<Key, LabelSelector>>,
}

impl Reconcile for AutoscalerController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.histories.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(None);
        };
        self.autoscale(&autoscaler).await?;
        Ok(Some(PERIOD))
    }
}

/// Whether a number of replicas is set right whatever is measured: there are too many or too few, or none are wanted.
fn is_outside(spec: &HorizontalPodAutoscalerSpec, replicas: i32) -> bool {
    let min = spec.min_replicas.unwrap_or(1);
    (replicas == 0 && min != 0) || replicas > spec.max_replicas || replicas < min
}

/// A condition: status, reason, message.
type ConditionText = (&'static str, String, String);

impl AutoscalerController {
    async fn autoscale(&self, autoscaler: &HorizontalPodAutoscaler) -> Result {
        let mut report = Report::of(autoscaler);
        let target = match find_target(&self.context.client, autoscaler).await {
            Ok(target) => target,
            Err(why) => {
                self.context.events.warning(autoscaler, "FailedGetScale", why.clone());
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                report.set_condition("AbleToScale", ("False", "FailedGetScale".into(), text));
                return self.write(autoscaler, report).await;
            }
        };
        let able = "the HPA controller was able to get the target's current scale";
        report.set_condition("AbleToScale", ("True", "SucceededGetScale".into(), able.into()));
        report.status.current_replicas = Some(target.replicas);
        if let Some((event, reason, text)) = self.unfit(autoscaler, &target) {
            self.context.events.warning(autoscaler, event, text.clone());
            report.set_condition("ScalingActive", ("False", reason.into(), text));
            report.status.desired_replicas = target.replicas;
            return self.write(autoscaler, report).await;
        }
        let (desired, reason) = match self.decide(autoscaler, &target, &mut report).await {
            Some(decided) => decided,
            None => {
                report.status.desired_replicas = target.replicas;
                return self.write(autoscaler, report).await;
            }
        };
        report.status.desired_replicas = desired;
        if desired != target.replicas {
            self.rescale(autoscaler, &target, desired, &reason, &mut report).await;
        }
        self.write(autoscaler, report).await
    }

    /// Why the pods of a target aren't known (event, condition's reason, message), if so: its scale has no selector, or other autoscalers select the
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
        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        if target.replicas == 0 && min != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            report.set_condition("ScalingActive", ("False", "ScalingDisabled".into(), text.into()));
            return None;
        }
        if target.replicas > max {
            return Some((max, "Current number of replicas above Spec.MaxReplicas".into()));
        }
        if target.replicas < min {
            return Some((min, "Current number of replicas below Spec.MinReplicas".into()));
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
                report.set_condition("ScalingActive", ("False", reason.into(), text));
                return None;
            }
        };
        let text = format!("the HPA was able to successfully calculate a replica count from {}", figure.title);
        report.set_condition("ScalingActive", ("True", "ValidMetricFound".into(), text));
        let limited = {
            let mut histories = self.histories.lock();
            let history = histories.entry(autoscaler.key()).or_default();
            let behavior = spec.behavior.as_ref();
            let asked = figure.proposal.replicas;
            plan::limit(target.replicas, asked, (min, max), behavior, history, apimachinery::clock::now())
        };
        report.set_condition("AbleToScale", ("True", limited.able.0.into(), limited.able.1.into()));
        let (is_limited, reason, message) = limited.limited;
        report.set_condition(
            "ScalingLimited",
            (if is_limited { "True" } else { "False" }, reason.into(), message.into()),
        );
        let why = if limited.replicas > target.replicas {
            format!("{} above target", figure.title)
        } else {
            "All metrics below target".into()
        };
        Some((limited.replicas, why))
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
            report.set_condition("AbleToScale", ("False", "FailedUpdateScale".into(), text));
            report.status.desired_replicas = target.replicas;
            return;
        }
        let text = format!("the HPA controller was able to update the target scale to {desired}");
        report.set_condition("AbleToScale", ("True", "SucceededRescale".into(), text));
        self.context.events.normal(autoscaler, "SuccessfulRescale", format!("New size: {desired}; reason: {reason}"));
        report.status.last_scale_time = Some(Time(report.now));
        let mut histories = self.histories.lock();
        let history = histories.entry(autoscaler.key()).or_default();
        history.changes.push((apimachinery::clock::now(), desired.saturating_sub(target.replicas)));
        tracing::info!(target = target.title, from = target.replicas, to = desired, reason, "scaled");
    }

    async fn write(&self, autoscaler: &HorizontalPodAutoscaler, report: Report) -> Result {
        let present = autoscaler.status.as_ref();
        patch_status_if_changed(&self.context, autoscaler, present, &report.status).await.map(|_| ())
    }
}

/// A status in the making.
struct Report {
    status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Report {
    fn of(autoscaler: &HorizontalPodAutoscaler) -> Self {
        let mut status = autoscaler.status.clone().unwrap_or_default();
        status.observed_generation = autoscaler.metadata.generation;
        Report { status, now: apimachinery::clock::now() }
    }

    fn set_condition(&mut self, kind: &str, (status, reason, message): ConditionText) {
        let condition = conditions::NewCondition::new(kind, status, &reason, &message);
        conditions::set(self.status.conditions.get_or_insert_default(), condition, self.now);
    }
}
