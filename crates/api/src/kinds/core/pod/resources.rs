//! Requests and limits of containers and of a pod as a whole.

use apimachinery::{Cause, Quantity, names};
use serde_json::Value;

use super::amounts;
use crate::kinds::core::resource_quota::OBJECT_COUNTS;
use crate::validate::field::Field;

/// What a pod may use as a whole (KEP-2837): at least what its containers ask for, and what each may use.
pub(super) fn whole(spec: &Field<'_>, causes: &mut Vec<Cause>) {
    let own = spec.at("resources");
    if own.value.is_null() {
        return;
    }
    resources(own.value, &own.path, causes);
    for part in ["requests", "limits"] {
        for name in own.value[part].as_object().into_iter().flatten().map(|(name, _)| name) {
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
                let supported = ["cpu", "hugepages-", "memory"];
                causes.push(Cause::not_supported(
                    format!("{}.{part}[{name}]", own.path),
                    &Value::from(name.as_str()),
                    &supported,
                ));
            }
        }
    }
    let of = |part: &str, name: &str| Quantity::from_json(&own.value[part][name]);
    for (name, asked) in amounts::container_amounts(spec.value, "requests") {
        if let Some(whole) = of("requests", &name).filter(|whole| *whole < asked) {
            let detail = format!(
                "must be greater than or equal to aggregate container requests of {}",
                asked.canonical(name != "cpu")
            );
            let field = format!("{}.requests[{name}]", own.path);
            causes.push(Cause::invalid(field, &Value::from(whole.canonical(name != "cpu")), &detail));
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.at(list).items() {
            for (name, limit) in container.value["resources"]["limits"].as_object().into_iter().flatten() {
                let (Some(limit_of_one), Some(whole)) = (Quantity::from_json(limit), of("limits", name)) else {
                    continue;
                };
                if limit_of_one > whole {
                    let detail =
                        format!("must be less than or equal to pod limits of {}", whole.canonical(name != "cpu"));
                    causes.push(Cause::invalid(format!("{}.resources.limits[{name}]", container.path), limit, &detail));
                }
            }
        }
    }
}

/// What a container may ask for: Kubernetes' own resources by their names, those of others with a domain (upstream's
/// `ValidateContainerResourceName`).
fn container_resource(name: &str, field: &str, causes: &mut Vec<Cause>) {
    let invalid = |why: &str| Cause::invalid(field, &Value::from(name), why);
    if let Err(why) = names::qualified_name(name) {
        causes.push(invalid(&why));
        return;
    }
    if !name.contains('/') {
        let of_containers = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if !of_containers && !is_standard(name) {
            causes.push(invalid("must be a standard resource type or fully qualified"));
        }
        if !of_containers {
            causes.push(invalid("must be a standard resource for containers"));
        }
    } else if !name.contains("kubernetes.io/")
        && (name.starts_with("requests.") || names::qualified_name(&format!("requests.{name}")).is_err())
    {
        causes.push(invalid("doesn't follow extended resource name standard"));
    }
}

/// Whether a name without a domain means a resource at all, be it of containers or of quotas.
pub fn is_standard(name: &str) -> bool {
    let (part, resource) = match name.split_once('.') {
        Some((part @ ("requests" | "limits"), resource)) => (part, resource),
        _ => ("", name),
    };
    OBJECT_COUNTS.contains(&name)
        || matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || (resource == "storage" && part != "limits")
        || (resource.starts_with(HUGE_PAGES) && part != "limits")
}

/// Quantities, none negative, and no request above its limit.
pub fn resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    let read = |list: &str, name: &str, value: &Value, causes: &mut Vec<Cause>| -> Option<Quantity> {
        let field = format!("{path}.{list}[{name}]");
        container_resource(name, &field, causes);
        let text = value.as_str().map(String::from).unwrap_or_else(|| value.to_string());
        match text.parse::<Quantity>() {
            Ok(q) if q.is_negative() => {
                causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
                None
            }
            Ok(q) => {
                // Devices come whole.
                if name.contains('/') && !name.contains("kubernetes.io/") && q.milli() % 1000 != 0 {
                    causes.push(Cause::invalid(field.clone(), value, "must be an integer"));
                }
                let page = name.strip_prefix(HUGE_PAGES).and_then(|size| size.parse::<Quantity>().ok());
                if let Some(page) = page.filter(|page| page.value() <= 0 || q.value() % page.value() != 0) {
                    let detail = format!("must be a multiple of the size of a page, {}", page.canonical(true));
                    causes.push(Cause::invalid(field, value, &detail));
                }
                Some(q)
            }
            Err(e) => {
                causes.push(Cause::invalid(field, value, &e.to_string()));
                None
            }
        }
    };
    for (name, value) in resources["limits"].as_object().into_iter().flatten() {
        read("limits", name, value, causes);
    }
    for (name, value) in resources["requests"].as_object().into_iter().flatten() {
        let request = read("requests", name, value, causes);
        let limit = &resources["limits"][name.as_str()];
        if limit.is_null() {
            if !may_be_exceeded(name) {
                let detail = "Limit must be set for non overcommitable resources";
                causes.push(Cause::required(format!("{path}.limits"), detail));
            }
            continue;
        }
        let text = limit.as_str().map(String::from).unwrap_or_else(|| limit.to_string());
        if let (Some(request), Ok(limit)) = (request, text.parse::<Quantity>())
            && (request > limit || (request < limit && !may_be_exceeded(name)))
        {
            let relation = if may_be_exceeded(name) { "less than or equal" } else { "equal" };
            let detail = format!("must be {relation} to {name} limit of {text}");
            causes.push(Cause::invalid(format!("{path}.requests"), value, &detail));
        }
    }
    let names = || {
        ["limits", "requests"]
            .into_iter()
            .flat_map(|list| resources[list].as_object().into_iter().flatten())
            .map(|(n, _)| n)
    };
    if names().any(|n| n.starts_with(HUGE_PAGES)) && !names().any(|n| matches!(n.as_str(), "cpu" | "memory")) {
        causes.push(Cause::forbidden(path, "HugePages require cpu or memory"));
    }
}

const HUGE_PAGES: &str = "hugepages-";

/// Whether more of a resource may be promised than there is: not of huge pages, nor of what isn't Kubernetes' own.
fn may_be_exceeded(name: &str) -> bool {
    let own = !name.contains('/') || name.split('/').next().is_some_and(|domain| domain.ends_with("kubernetes.io"));
    own && !name.starts_with(HUGE_PAGES)
}
