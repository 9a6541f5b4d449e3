//! Autoscalers without a target or without metrics.

use serde_json::Value;

use super::pod;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, items, name, namespace, nearest, selects, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of autoscalers that can't do their work.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for hpa in s.all(Kind::HorizontalPodAutoscaler).filter(|hpa| !object::is_deleted(hpa)) {
        out.extend(judge(s, hpa));
    }
}

fn judge(s: &Snapshot, hpa: &Value) -> Option<Finding> {
    let object = ObjectRef::of(Kind::HorizontalPodAutoscaler, hpa);
    let space = namespace(hpa);
    let show = format!("kubectl -n {space} describe hpa {}", name(hpa));
    let (kind, target) = (text(hpa, "/spec/scaleTargetRef/kind"), text(hpa, "/spec/scaleTargetRef/name"));
    let group = text(hpa, "/spec/scaleTargetRef/apiVersion").split_once('/').map_or("", |(group, _)| group);
    let known = Kind::of(group, kind);
    if let Some(known) = known.filter(|known| s.lacks(*known, space, target)) {
        let near = nearest(target, s.within(known, space).map(name));
        return Some(
            Finding::new(&codes::HPA_TARGET, object, format!("what it scales, {kind} {target:?}, doesn't exist"))
                .detail(near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?")))
                .follows("it scales nothing")
                .next(format!("kubectl -n {space} get {}", known.resource().plural)),
        );
    }
    if let Some(able) = object::condition(hpa, "AbleToScale").filter(|c| text(c, "/status") == "False") {
        let says = format!("it can't scale {kind} {target:?}: {}", short(text(able, "/message"), 200));
        return Some(Finding::new(&codes::HPA_TARGET, object, says).follows("the number of pods stays").next(show));
    }
    if let Some(active) = object::condition(hpa, "ScalingActive").filter(|c| text(c, "/status") == "False") {
        if text(active, "/reason") == "ScalingDisabled" {
            let says = format!("it is off while {kind} {target:?} has 0 replicas");
            return Some(Finding::new(&codes::HPA_DISABLED, object, says).next(show));
        }
        let target = known.and_then(|known| s.get(known, space, target));
        if let Some((container, resource)) = target.and_then(|target| without_request(hpa, target)) {
            let says = format!("it measures {resource} by requests, and container {container:?} requests none");
            let edit = format!(
                "kubectl -n {space} set resources {} {} -c {container} --requests={resource}=AMOUNT",
                kind.to_lowercase(),
                name(target?)
            );
            return Some(
                Finding::new(&codes::HPA_REQUESTS, object, says)
                    .detail(short(text(active, "/message"), 200))
                    .follows("the number of pods stays")
                    .next(edit),
            );
        }
        let mut finding = Finding::new(
            &codes::HPA_METRICS,
            object,
            format!("it gets no metrics: {}", short(text(active, "/message"), 250)),
        );
        finding.because.extend(target.into_iter().flat_map(|target| unready(s, space, target)));
        finding.because.push(ObjectRef::new(Kind::ApiService, "", "v1beta1.metrics.k8s.io"));
        let next = format!("kubectl -n {space} top pods");
        return Some(finding.follows("the number of pods stays").next(next).next(show));
    }
    let limited = object::condition(hpa, "ScalingLimited")
        .filter(|c| text(c, "/status") == "True" && text(c, "/reason") == "TooManyReplicas")?;
    let says =
        format!("it would like more pods than its maxReplicas of {}", int(hpa, "/spec/maxReplicas").unwrap_or(0));
    let finding = Finding::new(&codes::HPA_LIMITED, object, says).detail(short(text(limited, "/message"), 200));
    Some(finding.next(show))
}

/// A container that requests nothing of a resource whose utilization is asked for.
fn without_request(hpa: &Value, target: &Value) -> Option<(String, String)> {
    let metrics = items(hpa, "/spec/metrics").iter();
    let resources =
        metrics.filter(|m| text(m, "/type") == "Resource" && text(m, "/resource/target/type") == "Utilization");
    for resource in resources.map(|m| text(m, "/resource/name")) {
        for container in items(target, "/spec/template/spec/containers") {
            let requests = container.pointer("/resources/requests").and_then(|r| r.get(resource));
            let limits = container.pointer("/resources/limits").and_then(|r| r.get(resource));
            let whole = target.pointer("/spec/template/spec/resources/requests").and_then(|r| r.get(resource));
            if requests.or(limits).or(whole).is_none() {
                return Some((text(container, "/name").into(), resource.into()));
            }
        }
    }
    None
}

fn unready(s: &Snapshot, space: &str, target: &Value) -> Vec<ObjectRef> {
    let Some(selector) = object::selector(target, "/spec/selector") else { return Vec::new() };
    let pods = s.within(Kind::Pod, space).filter(|pod| selects(&selector, pod) && !pod::is_ready(pod));
    pods.take(20).map(|pod| ObjectRef::of(Kind::Pod, pod)).collect()
}
