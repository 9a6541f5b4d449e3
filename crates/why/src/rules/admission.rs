//! What keeps pods from being made: quota, limits, admission, webhooks, and what they are called by.

use serde_json::Value;

use crate::codes::{self, Code};
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, amount, items, name, namespace, pairs, short, text};
use crate::snapshot::{ObjectRef, Snapshot, event_time};

const MAKERS: [Kind; 6] =
    [Kind::ReplicaSet, Kind::StatefulSet, Kind::DaemonSet, Kind::Job, Kind::CronJob, Kind::Deployment];

/// Tells of objects whose pods are refused, of quotas that are used up, and of webhooks and API services that nobody answers for.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    api_services(s, out);
    webhooks(s, out);
    for kind in MAKERS {
        for maker in s.all(kind).filter(|maker| !object::is_deleted(maker)) {
            out.extend(refused(s, kind, maker));
        }
    }
    for quota in s.all(Kind::ResourceQuota) {
        out.extend(full(quota));
    }
}

/// What an API server answered to a create, as a code.
fn classify(message: &str) -> (&'static Code, String) {
    let short_message = short(message, 400);
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let quoted = |after: &str| {
        let rest = message.split_once(after).map_or("", |(_, rest)| rest);
        let rest = rest.trim_start_matches(['"', '\'', ' ', ':']);
        rest.split(['"', '\'', ',', ':', ' ']).next().unwrap_or("").to_string()
    };
    if says(&["failed calling webhook", "failed to call webhook"]) {
        let webhook = quoted("failed calling webhook");
        return (&codes::WEBHOOK_DOWN, format!("webhook {webhook:?} must be asked, and doesn't answer"));
    }
    if message.contains("admission webhook") && message.contains("denied the request") {
        return (&codes::WEBHOOK_DENIED, format!("webhook {:?} refuses it", quoted("admission webhook")));
    }
    if says(&["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"]) {
        return (&codes::POLICY_DENIED, format!("admission policy {:?} refuses it", quoted("AdmissionPolicy")));
    }
    if says(&["violates PodSecurity"]) {
        return (&codes::POD_SECURITY, "the namespace's pod security level forbids it".into());
    }
    if says(&["exceeded quota", "failed quota"]) {
        let quota = if message.contains("exceeded quota") { quoted("exceeded quota") } else { quoted("failed quota") };
        return (&codes::QUOTA_EXCEEDED, format!("it would exceed quota {quota:?}"));
    }
    if message.contains("service account") || message.contains("serviceaccount") {
        return (&codes::SERVICE_ACCOUNT_MISSING, format!("its service account isn't there: {}", short(message, 160)));
    }
    if message.contains("PriorityClass") {
        return (&codes::PRIORITY_CLASS_MISSING, format!("its priority class isn't there: {}", short(message, 160)));
    }
    if message.contains("RuntimeClass") || message.contains("runtimeclass") {
        return (&codes::RUNTIME_CLASS_MISSING, format!("its runtime class isn't there: {}", short(message, 160)));
    }
    let limits = ["usage per Container", "usage per Pod", "limit to request ratio", "usage per PersistentVolumeClaim"];
    if says(&limits) {
        return (&codes::LIMIT_RANGE, "a limit range of the namespace forbids its requests or limits".into());
    }
    (&codes::CREATE_FAILED, format!("the API refuses it: {short_message}"))
}

/// Whether an event's trouble is over: what it tells of came later.
fn is_over(s: &Snapshot, kind: Kind, maker: &Value, failed: &Value) -> bool {
    let created = s.event(kind, maker, &["SuccessfulCreate"]).and_then(event_time);
    let wanted = match kind {
        Kind::ReplicaSet | Kind::StatefulSet => object::int(maker, "/spec/replicas").unwrap_or(1),
        Kind::DaemonSet => object::int(maker, "/status/desiredNumberScheduled").unwrap_or(0),
        _ => return created > event_time(failed),
    };
    let there = match kind {
        Kind::DaemonSet => object::int(maker, "/status/currentNumberScheduled"),
        _ => object::int(maker, "/status/replicas"),
    };
    there.unwrap_or(0) >= wanted
}

fn refused(s: &Snapshot, kind: Kind, maker: &Value) -> Option<Finding> {
    let failed = s.event(kind, maker, &["FailedCreate"]).filter(|event| !is_over(s, kind, maker, event));
    let condition = object::condition(maker, "ReplicaFailure").filter(|c| text(c, "/status") == "True");
    let message = match (failed, condition) {
        (Some(event), _) => text(event, "/message"),
        (None, Some(condition)) if kind == Kind::ReplicaSet => text(condition, "/message"),
        _ => return None,
    };
    // What a recorder of events puts before it, and what a controller does.
    let message = message.trim_start_matches("(combined from similar events): ").trim_start_matches("Error creating: ");
    let (code, says) = classify(message);
    let space = namespace(maker);
    let object = ObjectRef::of(kind, maker);
    let next = match code.id {
        "W-QUOTA-EXCEEDED" => format!("kubectl -n {space} describe resourcequota"),
        "W-LIMIT-RANGE" => format!("kubectl -n {space} describe limitrange"),
        "W-POD-SECURITY" => format!("kubectl get namespace {space} --show-labels"),
        "W-WEBHOOK-DOWN" | "W-WEBHOOK-DENIED" => {
            "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations".into()
        }
        "W-POLICY-DENIED" => "kubectl get validatingadmissionpolicies,validatingadmissionpolicybindings".into(),
        "W-SERVICE-ACCOUNT-MISSING" => format!("kubectl -n {space} get serviceaccounts"),
        "W-PRIORITY-CLASS-MISSING" => "kubectl get priorityclasses".into(),
        "W-RUNTIME-CLASS-MISSING" => "kubectl get runtimeclasses".into(),
        _ => format!("kubectl -n {space} describe {} {}", kind.word(), name(maker)),
    };
    let mut finding = Finding::new(code, object, format!("its pods can't be made: {says}"));
    if code.id == codes::WEBHOOK_DOWN.id {
        finding.because.extend(configurations(s, message));
    }
    Some(
        finding
            .detail(format!("the API says: {}", short(message, 400)))
            .follows("fewer of its pods are there than wanted")
            .next(next),
    )
}

/// The configurations of the webhooks that an answer of the API names.
fn configurations(s: &Snapshot, message: &str) -> Vec<ObjectRef> {
    let kinds = [Kind::ValidatingWebhookConfiguration, Kind::MutatingWebhookConfiguration];
    let all = kinds.into_iter().flat_map(|kind| s.all(kind).map(move |object| (kind, object)));
    let named = |configuration: &Value| {
        let mut names = items(configuration, "/webhooks").iter().map(|webhook| text(webhook, "/name"));
        names.any(|webhook| message.contains(&format!("{webhook:?}")))
    };
    all.filter(|(_, object)| named(object)).map(|(kind, object)| ObjectRef::of(kind, object)).collect()
}

fn full(quota: &Value) -> Option<Finding> {
    let hard = pairs(quota, "/status/hard");
    let used_up: Vec<String> = hard
        .keys()
        .filter_map(|key| {
            let escaped = key.replace('~', "~0").replace('/', "~1");
            let (hard, used) = (
                amount(quota, &format!("/status/hard/{escaped}"))?,
                amount(quota, &format!("/status/used/{escaped}"))?,
            );
            (used >= hard && hard > apimachinery::Quantity::ZERO).then(|| {
                format!(
                    "{key}: {} of {}",
                    text(quota, &format!("/status/used/{escaped}")),
                    text(quota, &format!("/status/hard/{escaped}"))
                )
            })
        })
        .collect();
    if used_up.is_empty() {
        return None;
    }
    let says = format!("it is used up ({})", short(&used_up.join(", "), 160));
    let next = format!("kubectl -n {} describe resourcequota {}", namespace(quota), name(quota));
    Some(
        Finding::new(&codes::QUOTA_FULL, ObjectRef::of(Kind::ResourceQuota, quota), says)
            .follows("nothing more of that can be made")
            .next(next),
    )
}

/// Whether a Service has somebody that answers.
pub fn answers(s: &Snapshot, space: &str, service: &str) -> bool {
    let slices = s.within(Kind::EndpointSlice, space);
    let own =
        slices.filter(|slice| pairs(slice, "/metadata/labels").get("kubernetes.io/service-name") == Some(&service));
    own.into_iter()
        .flat_map(|slice| items(slice, "/endpoints"))
        .any(|endpoint| endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true))
}

fn webhooks(s: &Snapshot, out: &mut Vec<Finding>) {
    for kind in [Kind::ValidatingWebhookConfiguration, Kind::MutatingWebhookConfiguration] {
        for configuration in s.all(kind) {
            out.extend(
                items(configuration, "/webhooks")
                    .iter()
                    .find_map(|webhook| without_service(s, kind, configuration, webhook)),
            );
        }
    }
}

fn without_service(s: &Snapshot, kind: Kind, configuration: &Value, webhook: &Value) -> Option<Finding> {
    let (space, service) =
        (text(webhook, "/clientConfig/service/namespace"), text(webhook, "/clientConfig/service/name"));
    if service.is_empty() || text(webhook, "/failurePolicy") == "Ignore" {
        return None;
    }
    let object = ObjectRef::of(kind, configuration);
    let webhook_name = text(webhook, "/name");
    let reference = ObjectRef::new(Kind::Service, space, service);
    let why = if s.lacks(Kind::Service, space, service) {
        format!("its Service {space}/{service} doesn't exist")
    } else if s.knows(Kind::EndpointSlice, space) && s.find(&reference).is_some() && !answers(s, space, service) {
        format!("its Service {space}/{service} has nobody that answers")
    } else {
        return None;
    };
    let delete = format!("kubectl delete {} {}  (until it is mended)", kind.resource().plural, name(configuration));
    Some(
        Finding::new(&codes::WEBHOOK_NO_SERVICE, object, format!("webhook {webhook_name:?} can't be asked: {why}"))
            .because(reference)
            .follows("what it would be asked about is refused")
            .next(format!("kubectl -n {space} get service,endpointslices"))
            .next(delete),
    )
}

fn api_services(s: &Snapshot, out: &mut Vec<Finding>) {
    for service in s.all(Kind::ApiService) {
        let Some(condition) = object::condition(service, "Available").filter(|c| text(c, "/status") == "False") else {
            continue;
        };
        let backend = ObjectRef::new(
            Kind::Service,
            text(service, "/spec/service/namespace"),
            text(service, "/spec/service/name"),
        );
        out.push(
            Finding::new(
                &codes::API_SERVICE,
                ObjectRef::of(Kind::ApiService, service),
                format!("its server doesn't answer: {}", short(text(condition, "/message"), 200)),
            )
            .because(backend.clone())
            .follows("its kinds can't be read, and namespaces can't be removed")
            .next(format!("kubectl -n {} get service,endpointslices,pods", backend.namespace)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_says_has_its_code() {
        for (message, code) in [
            (
                "pods \"a\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1",
                "W-QUOTA-EXCEEDED",
            ),
            ("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": privileged", "W-POD-SECURITY"),
            (
                "Internal error occurred: failed calling webhook \"a.b.c\": failed to call webhook: no endpoints",
                "W-WEBHOOK-DOWN",
            ),
            ("admission webhook \"a.b.c\" denied the request: no", "W-WEBHOOK-DENIED"),
            (
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                "W-POLICY-DENIED",
            ),
            ("pods \"a\" is forbidden: maximum memory usage per Container is 1Mi, but limit is 2Mi", "W-LIMIT-RANGE"),
            (
                "pods \"a\" is forbidden: error looking up service account x/y: serviceaccount \"y\" not found",
                "W-SERVICE-ACCOUNT-MISSING",
            ),
            ("pods \"a\" is forbidden: no PriorityClass with name x was found", "W-PRIORITY-CLASS-MISSING"),
            ("pods \"a\" is forbidden: pod rejected: RuntimeClass \"x\" not found", "W-RUNTIME-CLASS-MISSING"),
            ("Pod \"a\" is invalid: spec.x: Required value", "W-CREATE-FAILED"),
        ] {
            assert_eq!(classify(message).0.id, code, "{message}");
        }
        assert!(classify("exceeded quota: small, requested: pods=1").1.contains("\"small\""));
    }
}
