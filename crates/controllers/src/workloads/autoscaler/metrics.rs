//! Where an autoscaler's figures come from: `metrics.k8s.io`, `custom.metrics.k8s.io`, `external.metrics.k8s.io`.

use std::collections::HashMap;

use apimachinery::{ObjectExt as _, Quantity};
use http::Request;
use k8s_openapi::api::autoscaling::v2::MetricIdentifier;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use serde_json::Value;

type Result<T> = std::result::Result<T, String>;

/// Percent-encodes a part of a path or a query.
fn part(text: &str) -> String {
    let keep = |c: u8| c.is_ascii_alphanumeric() || b"-_.~".contains(&c);
    text.bytes().map(|b| if keep(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn get(client: &Client, path: &str) -> Result<Value> {
    let request = Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
    client.request::<Value>(request).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 404 => {
            format!("no metrics are known: {} (is a server for this API installed?)", status.message)
        }
        other => other.to_string(),
    })
}

fn milli(value: &Value) -> Result<i64> {
    Quantity::from_json(value).map(Quantity::milli).ok_or_else(|| format!("{value} is no amount"))
}

/// The sum of quantities, which may be of any size.
fn total<'a>(mut amounts: impl Iterator<Item = &'a Value>) -> Result<i64> {
    amounts.try_fold(0, |all: i64, amount| Ok(all.saturating_add(milli(amount)?)))
}

/// A resource's use by pod, of one container or of all. Thousandths.
///
/// # Errors
/// No server of `metrics.k8s.io` answers, or it knows of no pod that is selected.
pub async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<HashMap<String, i64>> {
    let path =
        format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods?labelSelector={}", part(namespace), part(selector));
    let list = get(client, &path).await?;
    let mut uses = HashMap::new();
    for pod in list.array_at(&["items"]) {
        let all = pod.array_at(&["containers"]).iter();
        let chosen: Vec<&Value> = all.filter(|c| container.is_none_or(|name| c["name"] == name)).collect();
        // Without the metrics of one of its containers a pod has none; the other pods' count.
        if chosen.is_empty() || chosen.iter().any(|c| c["usage"][resource].is_null()) {
            continue;
        }
        let used = total(chosen.into_iter().map(|c| &c["usage"][resource]))?;
        uses.insert(pod.name().to_string(), used);
    }
    if uses.is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    Ok(uses)
}

fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return String::new() };
    let mut terms: Vec<String> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    for e in selector.match_expressions.iter().flatten() {
        let values = e.values.clone().unwrap_or_default().join(",");
        terms.push(match e.operator.as_str() {
            "In" => format!("{} in ({values})", e.key),
            "NotIn" => format!("{} notin ({values})", e.key),
            "Exists" => e.key.clone(),
            _ => format!("!{}", e.key),
        });
    }
    terms.join(",")
}

const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces";

/// A metric of each pod.
///
/// # Errors
/// No server of `custom.metrics.k8s.io` answers, or a value isn't a quantity.
pub async fn of_pods(
    client: &Client,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<HashMap<String, i64>> {
    let path = format!(
        "{CUSTOM}/{}/pods/*/{}?labelSelector={}&metricLabelSelector={}",
        part(namespace),
        part(&metric.name),
        part(selector),
        part(&selector_text(metric.selector.as_ref()))
    );
    let list = get(client, &path).await?;
    let item = |of: &Value| Ok((of.str_at(&["describedObject", "name"]).to_string(), milli(&of["value"])?));
    list.array_at(&["items"]).iter().map(item).collect()
}

/// A metric of one object. `resource` is the plural with its group, as in `ingresses.networking.k8s.io`.
///
/// # Errors
/// No server of `custom.metrics.k8s.io` answers, or it has not exactly one value.
pub async fn of_object(
    client: &Client,
    namespace: &str,
    resource: &str,
    name: &str,
    metric: &MetricIdentifier,
) -> Result<i64> {
    let path = format!(
        "{CUSTOM}/{}/{}/{}/{}?metricLabelSelector={}",
        part(namespace),
        part(resource),
        part(name),
        part(&metric.name),
        part(&selector_text(metric.selector.as_ref()))
    );
    let list = get(client, &path).await?;
    match list.array_at(&["items"]) {
        [one] => milli(&one["value"]),
        items => Err(format!("{} values were returned for the metric {}, one is needed", items.len(), metric.name)),
    }
}

/// The sum of an external metric.
///
/// # Errors
/// No server of `external.metrics.k8s.io` answers, or it has no value.
pub async fn external(client: &Client, namespace: &str, metric: &MetricIdentifier) -> Result<i64> {
    let path = format!(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}?labelSelector={}",
        part(namespace),
        part(&metric.name),
        part(&selector_text(metric.selector.as_ref()))
    );
    let list = get(client, &path).await?;
    let items = list.array_at(&["items"]);
    if items.is_empty() {
        return Err(format!("no values were returned for the external metric {}", metric.name));
    }
    total(items.iter().map(|item| &item["value"]))
}
