//! Kinds of the smaller groups: nodes, quotas, budgets, autoscalers, classes, leases, flow control, webhooks.

use apimachinery::{Cause, Quantity, names};
use serde_json::Value;

use super::field::{Causes, Field, invalid_text};

pub fn node(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let spec = object.at("spec");
    let mut seen = std::collections::HashSet::new();
    for taint in spec.at("taints").items() {
        let (key, effect) = (taint.at("key"), taint.at("effect"));
        if key.require("name part must be non-empty", causes) {
            key.is(names::qualified_name, causes);
        }
        taint.at("value").is(names::label_value, causes);
        effect.must_be(&["NoSchedule", "PreferNoSchedule", "NoExecute"], causes);
        let pair = (key.text(), effect.text());
        if !seen.insert(pair) {
            causes.push(Cause::duplicate(&taint.path, taint.value));
        }
    }
    if let Some(old) = old {
        for field in ["podCIDR", "providerID"] {
            let before = old["spec"][field].as_str().unwrap_or("");
            if !before.is_empty() && before != spec.at(field).text() {
                let why = format!("node updates may not change {field} except from \"\" to valid");
                spec.at(field).forbid(&why, causes);
            }
        }
    }
}

const QUOTA_SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub fn quota(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let spec = object.at("spec");
    for (name, amount) in spec.at("hard").entries() {
        if let Err(why) = names::qualified_name(name) {
            causes.push(invalid_text(&amount.path, name, &why));
        }
        amount.quantity(causes);
    }
    let scopes: Vec<&str> = spec.at("scopes").items().map(|s| s.text()).collect();
    for scope in spec.at("scopes").items() {
        scope.one_of(QUOTA_SCOPES, causes);
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            spec.at("scopes").invalid("conflicting scopes", causes);
        }
    }
    spec.at("scopes").immutable(old, causes);
    for expression in spec.at("scopeSelector").at("matchExpressions").items() {
        expression.at("scopeName").must_be(QUOTA_SCOPES, causes);
        let values = expression.at("values");
        match expression.at("operator").text() {
            "In" | "NotIn" => {
                values.require(
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                    causes,
                );
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.invalid(
                        "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
                        causes,
                    );
                }
            }
            _ => expression.at("operator").invalid("not a valid selector operator", causes),
        }
    }
}

pub fn limit_range(object: &Field<'_>, causes: &mut Causes) {
    object.at("spec").at("limits").unique("type", causes);
    for limit in object.at("spec").at("limits").items() {
        limit.at("type").require("", causes);
        let of = |list: &str, name: &str| -> Option<Quantity> {
            let value = limit.at(list).at(name);
            value.is_set().then(|| Quantity::from_json(value.value)).flatten()
        };
        if limit.at("type").text() == "Pod" {
            for list in ["default", "defaultRequest"] {
                if !limit.at(list).is_empty() {
                    limit.at(list).forbid("may not be specified when `type` is 'Pod'", causes);
                }
            }
        }
        let mut resources: Vec<&str> = Vec::new();
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (name, amount) in limit.at(list).entries() {
                amount.quantity(causes);
                if !resources.contains(&name) {
                    resources.push(name);
                }
            }
        }
        for name in resources {
            // Each must not be above the next.
            let order = ["min", "defaultRequest", "default", "max"];
            for (i, low) in order.iter().enumerate() {
                for high in &order[i + 1..] {
                    let (Some(a), Some(b)) = (of(low, name), of(high, name)) else { continue };
                    if a > b {
                        let entry = limit.at(low);
                        let what = match *low {
                            "min" => "min value",
                            "defaultRequest" => "default request value",
                            _ => "default value",
                        };
                        let text = |list: &str| limit.at(list).at(name).value.as_str().unwrap_or("").to_string();
                        let what_high = match *high {
                            "max" => "max value",
                            "default" => "default limit value",
                            _ => "default request value",
                        };
                        let why = format!("{what} {} is greater than {what_high} {}", text(low), text(high));
                        causes.push(invalid_text(format!("{}[{name}]", entry.path), &text(low), &why));
                    }
                }
            }
        }
    }
}

pub fn budget(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    let (least, most) = (spec.at("minAvailable"), spec.at("maxUnavailable"));
    if least.is_set() && most.is_set() {
        spec.invalid("minAvailable and maxUnavailable cannot be both set", causes);
    }
    least.share(true, causes);
    most.share(true, causes);
    spec.at("selector").selector(causes);
    spec.at("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"], causes);
}

pub fn autoscaler(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    let (least, most) = (spec.at("minReplicas"), spec.at("maxReplicas"));
    let minimum = least.value.as_i64().unwrap_or(1);
    if minimum < 1 {
        least.invalid("must be greater than or equal to 1", causes);
    }
    match most.value.as_i64().unwrap_or(0) {
        n if n < 1 => most.invalid("must be greater than 0", causes),
        n if n < minimum => most.invalid("must be greater than or equal to `minReplicas`", causes),
        _ => {}
    }
    let target = spec.at("scaleTargetRef");
    for field in ["kind", "name"] {
        if target.at(field).require("", causes) {
            target.at(field).is(names::path_segment, causes);
        }
    }
    for metric in spec.at("metrics").items() {
        self::metric(&metric, causes);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(direction);
        let window = rules.at("stabilizationWindowSeconds");
        if window.value.as_i64().is_some_and(|n| n < 0) {
            window.invalid("must be greater than or equal to zero", causes);
        }
        if window.value.as_i64().is_some_and(|n| n > 3600) {
            window.invalid("must be less than or equal to 3600", causes);
        }
        rules.at("selectPolicy").one_of(&["Disabled", "Max", "Min"], causes);
        if rules.is_set() && rules.at("policies").is_set() {
            rules.at("policies").require("must specify at least one Policy", causes);
        }
        for policy in rules.at("policies").items() {
            policy.at("type").must_be(&["Percent", "Pods"], causes);
            if policy.at("value").value.as_i64().unwrap_or(0) <= 0 {
                policy.at("value").invalid("must be greater than zero", causes);
            }
            let period = policy.at("periodSeconds");
            match period.value.as_i64().unwrap_or(0) {
                n if n <= 0 => period.invalid("must be greater than zero", causes),
                n if n > 1800 => period.invalid("must be less than or equal to 1800", causes),
                _ => {}
            }
        }
    }
}

fn metric(metric: &Field<'_>, causes: &mut Causes) {
    const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    metric.at("type").must_be(TYPES, causes);
    let (field, named) = match metric.at("type").text() {
        "ContainerResource" => ("containerResource", &["name", "container"][..]),
        "External" => ("external", &[][..]),
        "Object" => ("object", &[][..]),
        "Pods" => ("pods", &[][..]),
        "Resource" => ("resource", &["name"][..]),
        _ => return,
    };
    let source = metric.at(field);
    if !source.is_set() {
        causes.push(Cause::required(source.path, "must populate information for the given metric source"));
        return;
    }
    for name in named {
        source.at(name).require("", causes);
    }
    if named.is_empty() {
        source.at("metric").at("name").require("must specify a metric name", causes);
    }
    let target = source.at("target");
    target.at("type").must_be(&["AverageValue", "Utilization", "Value"], causes);
    let set = ["averageUtilization", "averageValue", "value"].map(|f| target.at(f));
    if set.iter().all(|f| !f.is_set()) {
        causes.push(Cause::required(&target.path, "must specify a target value"));
    }
    set[0].positive(causes);
    for amount in &set[1..] {
        if amount.is_set()
            && let Some(amount_value) = amount.quantity(causes)
            && amount_value <= Quantity::ZERO
        {
            amount.invalid("must be positive", causes);
        }
    }
}

/// The highest value of a class that users make.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

pub fn priority_class(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let name = object.at("metadata").at("name");
    let known = ["system-cluster-critical", "system-node-critical"].contains(&name.text());
    if name.text().starts_with("system-") && !known {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        name.forbid(why, causes);
    }
    if !known && object.at("value").value.as_i64().is_some_and(|v| v > HIGHEST_PRIORITY) {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        object.at("value").forbid(&why, causes);
    }
    object.at("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], causes);
    object.at("value").immutable(old, causes);
    object.at("preemptionPolicy").immutable(old, causes);
}

pub fn runtime_class(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let handler = object.at("handler");
    if handler.require("", causes) {
        handler.is(names::dns1123_label, causes);
    }
    handler.immutable(old, causes);
}

pub fn lease(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    spec.at("leaseDurationSeconds").positive(causes);
    spec.at("leaseTransitions").not_negative(causes);
}

pub fn event(object: &Field<'_>, newer: bool, causes: &mut Causes) {
    let (of, namespace) = (object.at("involvedObject").at("namespace"), object.at("metadata").at("namespace").text());
    let timed = !object.at("eventTime").is_empty();
    // Events of objects without a namespace are in `default`, or in the system's.
    let fits = match (of.is_empty(), timed) {
        (true, false) => namespace == "default",
        (true, true) => ["default", "kube-system"].contains(&namespace),
        (false, false) => of.text() == namespace,
        (false, true) => true,
    };
    if !fits {
        of.invalid("does not match event.namespace", causes);
    }
    if !timed {
        return;
    }
    let controller = object.at("reportingComponent");
    let named = if newer { Field::new(controller.value, "reportingController") } else { controller };
    if named.require("", causes) {
        named.is(names::qualified_name, causes);
    }
    for (field, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        if object.at(field).require("", causes) && object.at(field).text().len() > most {
            causes.push(invalid_text(field, "", &format!("can have at most {most} characters")));
        }
    }
    if object.at("message").text().len() > 1024 {
        causes.push(invalid_text("message", "", "can have at most 1024 characters"));
    }
}

/// What is demanded of events that are written through `events.k8s.io` beside that.
pub fn new_event(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    const FIXED: [&str; 12] = [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingInstance",
    ];
    let series = object.at("series");
    if series.is_set() && old.is_none_or(|old| old["series"] != *series.value) {
        if series.at("count").value.as_i64().unwrap_or(0) < 2 {
            causes.push(invalid_text("series.count", "", "should be at least 2"));
        }
        series.at("lastObservedTime").require("", causes);
    }
    if let Some(old) = old {
        FIXED.iter().for_each(|field| object.at(field).immutable(Some(old), causes));
        let controller = Field::new(object.at("reportingComponent").value, "reportingController");
        if old["reportingComponent"] != *controller.value {
            controller.invalid(super::IMMUTABLE, causes);
        }
        return;
    }
    object.at("eventTime").require("", causes);
    let kind = object.at("type");
    if !["Normal", "Warning"].contains(&kind.text()) {
        causes.push(invalid_text("type", "", &format!("has invalid value: {}", kind.text())));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !object.at(field).is_empty() && *object.at(field).value != 0 {
            causes.push(invalid_text(field, "", "needs to be unset"));
        }
    }
}

pub fn signing_request(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let spec = object.at("spec");
    spec.at("request").require("", causes);
    if spec.at("signerName").require("", causes)
        && !spec.at("signerName").text().split_once('/').is_some_and(|(domain, path)| {
            names::dns1123_subdomain(domain).is_ok() && domain.contains('.') && !path.is_empty()
        })
    {
        spec.at("signerName")
            .invalid("must be a fully qualified domain and path of the form \"example.com/signer-name\"", causes);
    }
    let seconds = spec.at("expirationSeconds");
    if seconds.value.as_i64().is_some_and(|n| n < 600) {
        seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)", causes);
    }
    spec.immutable(old, causes);
}

pub fn flow_schema(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    let precedence = spec.at("matchingPrecedence");
    match precedence.value.as_i64().unwrap_or(0) {
        n if n < 1 => precedence.invalid("must be a positive value", causes),
        n if n > 10_000 => precedence.invalid("must not be greater than 10000", causes),
        1 if object.at("metadata").at("name").text() != "exempt" => {
            precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1", causes);
        }
        _ => {}
    }
    if spec.at("distinguisherMethod").is_set() {
        spec.at("distinguisherMethod").at("type").must_be(&["ByNamespace", "ByUser"], causes);
    }
    let level = spec.at("priorityLevelConfiguration").at("name");
    if level.require("must reference a priority level by name", causes) {
        level.is(names::dns1123_subdomain, causes);
    }
    for rule in spec.at("rules").items() {
        rule.at("subjects").require("subjects must contain at least one value", causes);
        for subject in rule.at("subjects").items() {
            subject.at("kind").must_be(&["Group", "ServiceAccount", "User"], causes);
            let of = match subject.at("kind").text() {
                "Group" => "group",
                "ServiceAccount" => "serviceAccount",
                "User" => "user",
                _ => continue,
            };
            subject
                .at(of)
                .require(&format!("{of} is required when subject kind is '{}'", subject.at("kind").text()), causes);
        }
        let lists = ["resourceRules", "nonResourceRules"].map(|l| rule.at(l));
        if lists.iter().all(Field::is_empty) {
            causes.push(Cause::required(
                &rule.path,
                "at least one of resourceRules and nonResourceRules has to be non-empty",
            ));
        }
        for of in lists[0].items() {
            of.at("verbs").require("verbs must contain at least one value", causes);
            of.at("apiGroups").require("resource rules must supply at least one api group", causes);
            of.at("resources").require("resource rules must supply at least one resource", causes);
            if of.at("namespaces").is_empty() && of.at("clusterScope").value != true {
                let why = "resource rules that are not cluster scoped must supply at least one namespace";
                causes.push(Cause::required(of.at("namespaces").path, why));
            }
        }
        for of in lists[1].items() {
            of.at("verbs").require("verbs must contain at least one value", causes);
            of.at("nonResourceURLs").require("nonResourceURLs must contain at least one value", causes);
        }
    }
}

pub fn priority_level(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    spec.at("type").must_be(&["Exempt", "Limited"], causes);
    let limited = spec.at("limited");
    match (spec.at("type").text(), limited.is_set()) {
        ("Exempt", true) => limited.forbid("must be nil if the type is not Limited", causes),
        ("Limited", false) => causes.push(Cause::required(&limited.path, "must not be empty when type is Limited")),
        _ => {}
    }
    limited.at("nominalConcurrencyShares").not_negative(causes);
    limited.at("lendablePercent").range(0, 100, causes);
    limited.at("borrowingLimitPercent").not_negative(causes);
    if !limited.is_set() {
        return;
    }
    let response = limited.at("limitResponse");
    response.at("type").must_be(&["Queue", "Reject"], causes);
    let queuing = response.at("queuing");
    match (response.at("type").text(), queuing.is_set()) {
        ("Reject", true) => queuing.forbid("must be nil if limited.limitResponse.type is not Limited", causes),
        ("Queue", false) => {
            causes.push(Cause::required(&queuing.path, "must not be empty if limited.limitResponse.type is Limited"));
        }
        _ => {}
    }
    for field in ["queues", "handSize", "queueLengthLimit"] {
        queuing.at(field).positive(causes);
    }
    let (queues, hand) = (queuing.at("queues").value.as_i64(), queuing.at("handSize").value.as_i64());
    if let (Some(queues), Some(hand)) = (queues, hand)
        && hand > queues
    {
        queuing.at("handSize").invalid(&format!("should not be greater than queues ({queues})"), causes);
    }
}

pub fn api_service(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    let (group, version) = (spec.at("group").text(), spec.at("version").text());
    let wanted = format!("{version}.{group}");
    let name = object.at("metadata").at("name");
    if name.text() != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        name.invalid(&why, causes);
    }
    spec.at("version").require("", causes);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let field = spec.at(field);
        if !field.value.as_i64().is_some_and(|n| (1..=most).contains(&n)) {
            field.invalid(&format!("must be positive and less than {most}"), causes);
        }
    }
    let service = spec.at("service");
    let unchecked = spec.at("insecureSkipTLSVerify").value == true;
    if !service.is_set() {
        if !spec.at("caBundle").is_empty() {
            spec.at("caBundle").invalid("local APIServices may not have a caBundle", causes);
        }
        return;
    }
    service.at("namespace").require("", causes);
    service.at("name").require("", causes);
    if unchecked && !spec.at("caBundle").is_empty() {
        spec.at("insecureSkipTLSVerify").invalid("may not be true if caBundle is present", causes);
    }
}

pub fn webhook(hook: &Field<'_>, causes: &mut Causes) {
    let name = hook.at("name");
    if name.require("", causes) {
        name.is(names::dns1123_subdomain, causes);
        if name.text().split('.').count() < 3 {
            name.invalid("should be a domain with at least three segments separated by dots", causes);
        }
    }
    let client = hook.at("clientConfig");
    let (url, service) = (client.at("url"), client.at("service"));
    if url.is_set() == service.is_set() {
        causes.push(Cause::required(&client.path, "exactly one of url or service is required"));
    }
    if url.is_set() && !url.text().starts_with("https://") {
        url.invalid("'https' is the only allowed URL scheme; desired format: https://host[/path]", causes);
    }
    if service.is_set() {
        service.at("name").require("service name is required", causes);
        service.at("namespace").require("service namespace is required", causes);
        if service.at("port").is_set() {
            service.at("port").port(causes);
        }
    }
    hook.at("sideEffects").must_be(&["None", "NoneOnDryRun"], causes);
    let versions = hook.at("admissionReviewVersions");
    if versions.require("must specify one of v1, v1beta1", causes)
        && !versions.items().any(|v| matches!(v.text(), "v1" | "v1beta1"))
    {
        versions.invalid("must include at least one of v1, v1beta1", causes);
    }
    let seconds = hook.at("timeoutSeconds");
    if seconds.value.as_i64().is_some_and(|n| !(1..=30).contains(&n)) {
        seconds.invalid("the timeout value must be between 1 and 30 seconds", causes);
    }
    hook.at("failurePolicy").one_of(&["Fail", "Ignore"], causes);
    hook.at("matchPolicy").one_of(&["Equivalent", "Exact"], causes);
    hook.at("reinvocationPolicy").one_of(&["IfNeeded", "Never"], causes);
    for selector in ["namespaceSelector", "objectSelector"] {
        hook.at(selector).selector(causes);
    }
    for rule in hook.at("rules").items() {
        admission_rule(&rule, causes);
    }
}

/// `admissionregistration.k8s.io/v1` `RuleWithOperations`.
pub fn admission_rule(rule: &Field<'_>, causes: &mut Causes) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        rule.at(field).require("", causes);
    }
    let operations = rule.at("operations");
    for operation in operations.items() {
        operation.one_of(&["*", "CONNECT", "CREATE", "DELETE", "UPDATE"], causes);
    }
    for field in ["operations", "apiGroups", "apiVersions"] {
        let list = rule.at(field);
        if list.items().any(|item| item.text() == "*") && list.value.as_array().map_or(0, Vec::len) > 1 {
            list.invalid("if '*' is present, must not specify other values", causes);
        }
    }
    rule.at("scope").one_of(&["*", "Cluster", "Namespaced"], causes);
}
