//! Services, config maps, secrets, service accounts, namespaces, quotas, ingresses and the like.

use serde_json::Value;

use super::{Text, items, number, plain, selector, text};
use crate::client::Call;
use crate::context::Context;
use crate::error::Result;
use crate::print::table::label_text;

pub async fn service(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    let spec = &object["spec"];
    out.head(object, true);
    out.field(0, "Selector", &label_text(&spec["selector"], ","));
    out.field(0, "Type", text(&spec["type"]));
    let list = |field: &str| {
        let all = items(&spec[field]).iter().map(text).collect::<Vec<_>>().join(",");
        if all.is_empty() { "<none>".to_string() } else { all }
    };
    out.maybe(0, "IP Family Policy", &spec["ipFamilyPolicy"]);
    out.field(0, "IP Families", &list("ipFamilies"));
    out.field(0, "IP", text(&spec["clusterIP"]));
    out.field(0, "IPs", &list("clusterIPs"));
    if !items(&spec["externalIPs"]).is_empty() {
        out.field(0, "External IPs", &list("externalIPs"));
    }
    out.maybe(0, "Desired LoadBalancer IP", &spec["loadBalancerIP"]);
    out.maybe(0, "External Name", &spec["externalName"]);
    let balancers = items(&object["status"]["loadBalancer"]["ingress"]).iter().map(|i| {
        let mode = text(&i["ipMode"]);
        let address = text(if i["ip"].is_string() { &i["ip"] } else { &i["hostname"] });
        if mode.is_empty() { address.to_string() } else { format!("{address} ({mode})") }
    });
    let balancers = balancers.collect::<Vec<_>>().join(", ");
    if !balancers.is_empty() {
        out.field(0, "LoadBalancer Ingress", &balancers);
    }
    let slices = slices(cx, object).await?;
    for port in items(&spec["ports"]) {
        let protocol = text(&port["protocol"]);
        let name = text(&port["name"]);
        let shown = if name.is_empty() { "<unset>" } else { name };
        out.field(0, "Port", &format!("{shown}\t{}/{protocol}", number(&port["port"])));
        out.field(0, "TargetPort", &format!("{}/{protocol}", plain(&port["targetPort"])));
        out.maybe(0, "AppProtocol", &port["appProtocol"]);
        if number(&port["nodePort"]) != 0 {
            out.field(0, "NodePort", &format!("{shown}\t{}/{protocol}", number(&port["nodePort"])));
        }
        out.field(0, "Endpoints", &endpoints(&slices, Some(name)));
    }
    out.field(0, "Session Affinity", text(&spec["sessionAffinity"]));
    out.maybe(0, "External Traffic Policy", &spec["externalTrafficPolicy"]);
    out.maybe(0, "Internal Traffic Policy", &spec["internalTrafficPolicy"]);
    if number(&spec["healthCheckNodePort"]) != 0 {
        out.maybe(0, "HealthCheck NodePort", &spec["healthCheckNodePort"]);
    }
    if !items(&spec["loadBalancerSourceRanges"]).is_empty() {
        out.field(0, "LoadBalancer Source Ranges", &list("loadBalancerSourceRanges"));
    }
    out.maybe(0, "Traffic Distribution", &spec["trafficDistribution"]);
    Ok(())
}

async fn slices(cx: &Context, service: &Value) -> Result<Vec<Value>> {
    let metadata = &service["metadata"];
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", text(&metadata["namespace"]));
    let label = format!("kubernetes.io/service-name={}", text(&metadata["name"]));
    let found = cx.json(Call::new("GET", &path).query("labelSelector", label)).await?;
    Ok(items(&found["items"]).to_vec())
}

/// Ready addresses of a port, the first three of them.
fn endpoints(slices: &[Value], port: Option<&str>) -> String {
    let mut all = Vec::new();
    for slice in slices {
        for p in items(&slice["ports"]) {
            if port.is_some_and(|wanted| text(&p["name"]) != wanted) {
                continue;
            }
            for endpoint in items(&slice["endpoints"]) {
                let ready = endpoint["conditions"]["ready"] != false;
                for address in items(&endpoint["addresses"]).iter().filter(|_| ready) {
                    all.push(apimachinery::addresses::authority(text(address), number(&p["port"])));
                }
            }
        }
    }
    match all.len() {
        0 => String::new(),
        count if count > 3 => format!("{} + {} more...", all[..3].join(","), count.saturating_sub(3)),
        _ => all.join(","),
    }
}

pub fn config_map(out: &mut Text, object: &Value) {
    out.head(object, true);
    out.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        out.line(0, &format!("{key}:\n----\n{}\n", text(value)));
    }
    out.line(0, "\nBinaryData\n====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        out.line(0, &format!("{key}: {} bytes", decoded(value)));
    }
    out.line(0, "");
}

fn decoded(value: &Value) -> usize {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text(value)).map_or(0, |bytes| bytes.len())
}

pub fn secret(out: &mut Text, object: &Value) {
    out.head(object, true);
    out.field(0, "\nType", text(&object["type"]));
    out.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        if key == "token" && object["type"] == "kubernetes.io/service-account-token" {
            use base64::Engine as _;
            let token = base64::engine::general_purpose::STANDARD.decode(text(value)).unwrap_or_default();
            out.field(0, key, &String::from_utf8_lossy(&token));
        } else {
            out.field(0, key, &format!("{} bytes", decoded(value)));
        }
    }
}

pub fn service_account(out: &mut Text, object: &Value) {
    out.head(object, true);
    let names: Vec<&str> = items(&object["imagePullSecrets"]).iter().map(|s| text(&s["name"])).collect();
    out.field(
        0,
        "Image pull secrets",
        &if names.is_empty() { "<none>".into() } else { names.join("\n                   \t") },
    );
}

pub async fn namespace(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    let metadata = &object["metadata"];
    out.head(object, false);
    out.field(0, "Status", text(&object["status"]["phase"]));
    let conditions = items(&object["status"]["conditions"]);
    if !conditions.is_empty() {
        out.line(0, "Conditions:");
        out.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
        out.line(1, "----\t------\t------------------\t------\t-------");
        for c in conditions {
            let row = format!(
                "{}\t{}\t{}\t{}\t{}",
                text(&c["type"]),
                text(&c["status"]),
                super::time(&c["lastTransitionTime"]),
                text(&c["reason"]),
                text(&c["message"])
            );
            out.line(1, &row);
        }
    }
    let root = format!("/api/v1/namespaces/{}", text(&metadata["name"]));
    if let Ok(quotas) = cx.get(&format!("{root}/resourcequotas")).await {
        out.line(0, "");
        namespace_quotas(out, items(&quotas["items"]));
    }
    if let Ok(ranges) = cx.get(&format!("{root}/limitranges")).await {
        out.line(0, "");
        limit_ranges(out, items(&ranges["items"]));
    }
    Ok(())
}

fn namespace_quotas(out: &mut Text, quotas: &[Value]) {
    if quotas.is_empty() {
        return out.line(0, "No resource quota.");
    }
    out.line(0, "Resource Quotas");
    for quota in quotas {
        out.field(1, "Name", text(&quota["metadata"]["name"]));
        scopes(out, quota, 1, "* ");
        out.line(1, "Resource\tUsed\tHard");
        out.line(1, "--------\t---\t---");
        amounts(out, quota, 1);
    }
}

fn amounts(out: &mut Text, quota: &Value, level: usize) {
    for (resource, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
        let used = quota["status"]["used"][resource].as_str().unwrap_or("0");
        out.line(level, &format!("{resource}\t{used}\t{}", plain(hard)));
    }
}

fn scopes(out: &mut Text, quota: &Value, level: usize, mark: &str) {
    let mut scopes: Vec<&str> = items(&quota["spec"]["scopes"]).iter().map(text).collect();
    scopes.sort_unstable();
    if scopes.is_empty() {
        return;
    }
    out.field(level, "Scopes", &scopes.join(", "));
    for scope in scopes {
        let help = match scope {
            "Terminating" => {
                "Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system."
            }
            "NotTerminating" => {
                "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate."
            }
            "BestEffort" => {
                "Matches all pods that do not have resource requirements set. These pods have a best effort quality of service."
            }
            "NotBestEffort" => {
                "Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service."
            }
            _ => continue,
        };
        out.line(level, &format!("{mark}{help}"));
    }
}

fn limit_ranges(out: &mut Text, ranges: &[Value]) {
    if ranges.is_empty() {
        return out.line(0, "No LimitRange resource.");
    }
    out.line(0, "Resource Limits\n Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    out.line(0, " ----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    for limit in ranges.iter().flat_map(|range| items(&range["spec"]["limits"])) {
        let fields = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
        let mut resources: Vec<&String> =
            fields.iter().flat_map(|f| limit[*f].as_object().into_iter().flatten().map(|(k, _)| k)).collect();
        resources.sort();
        resources.dedup();
        for resource in resources {
            let cells: Vec<String> =
                fields.iter().map(|f| limit[*f][resource].as_str().unwrap_or("-").to_string()).collect();
            out.line(0, &format!(" {}\t{resource}\t{}", text(&limit["type"]), cells.join("\t")));
        }
    }
}

pub fn quota(out: &mut Text, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.field(0, "Namespace", text(&object["metadata"]["namespace"]));
    scopes(out, object, 0, " * ");
    out.line(0, "Resource\tUsed\tHard");
    out.line(0, "--------\t----\t----");
    amounts(out, object, 0);
}

pub async fn ingress(cx: &Context, out: &mut Text, object: &Value) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    out.field(0, "Name", text(&metadata["name"]));
    out.labels("Labels", &metadata["labels"]);
    out.field(0, "Namespace", text(&metadata["namespace"]));
    let mut addresses: Vec<&str> = items(&object["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|i| text(if i["ip"].is_string() { &i["ip"] } else { &i["hostname"] }))
        .collect();
    addresses.sort_unstable();
    out.field(0, "Address", &addresses.join(","));
    out.field(0, "Ingress Class", spec["ingressClassName"].as_str().unwrap_or("<none>"));
    let namespace = text(&metadata["namespace"]);
    let default = if spec["defaultBackend"].is_object() {
        backend(cx, namespace, &spec["defaultBackend"]).await
    } else {
        "<default>".into()
    };
    out.field(0, "Default backend", &default);
    if !items(&spec["tls"]).is_empty() {
        out.line(0, "TLS:");
        for tls in items(&spec["tls"]) {
            let hosts = items(&tls["hosts"]).iter().map(text).collect::<Vec<_>>().join(",");
            match text(&tls["secretName"]) {
                "" => out.line(1, &format!("SNI routes {hosts}")),
                name => out.line(1, &format!("{name} terminates {hosts}")),
            }
        }
    }
    out.line(0, "Rules:\n  Host\tPath\tBackends");
    out.line(1, "----\t----\t--------");
    let mut count = 0_usize;
    for rule in items(&spec["rules"]).iter().filter(|r| r["http"].is_object()) {
        count = count.saturating_add(1);
        let host = text(&rule["host"]);
        out.line(1, &format!("{}\t", if host.is_empty() { "*" } else { host }));
        for path in items(&rule["http"]["paths"]) {
            let to = backend(cx, namespace, &path["backend"]).await;
            out.line(2, &format!("\t{} \t{to}", text(&path["path"])));
        }
    }
    if count == 0 {
        out.line(1, &format!("*\t*\t{default}"));
    }
    out.annotations("Annotations", &metadata["annotations"]);
}

async fn backend(cx: &Context, namespace: &str, backend: &Value) -> String {
    let service = &backend["service"];
    if !service.is_object() {
        let of = &backend["resource"];
        return format!(
            "APIGroup: {}, Kind: {}, Name: {}",
            of["apiGroup"].as_str().unwrap_or("<none>"),
            text(&of["kind"]),
            text(&of["name"])
        );
    }
    let name = text(&service["name"]);
    let port = if service["port"]["number"].is_number() {
        plain(&service["port"]["number"])
    } else {
        text(&service["port"]["name"]).to_string()
    };
    let shown = format!("{name}:{port}");
    let found = match cx.get(&format!("/api/v1/namespaces/{namespace}/services/{name}")).await {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return format!("{shown} (<error: services {name:?} not found>)"),
        Err(error) => return format!("{shown} (<error: {}>)", error.text()),
    };
    let own = items(&found["spec"]["ports"]).iter().find(|p| plain(&p["port"]) == port || text(&p["name"]) == port);
    let slices = slices(cx, &found).await.unwrap_or_default();
    let to = own.map_or(String::new(), |p| endpoints(&slices, Some(text(&p["name"]))));
    format!("{shown} ({to})")
}

pub fn priority_class(out: &mut Text, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.field(0, "Value", &plain(&object["value"]));
    out.field(0, "GlobalDefault", if object["globalDefault"] == true { "true" } else { "false" });
    out.field(0, "PreemptionPolicy", text(&object["preemptionPolicy"]));
    out.field(0, "Description", text(&object["description"]));
    out.field(0, "Annotations", &label_text(&object["metadata"]["annotations"], ","));
}

pub fn budget(out: &mut Text, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.field(0, "Namespace", text(&object["metadata"]["namespace"]));
    if spec["minAvailable"].is_null() {
        out.maybe(0, "Max unavailable", &spec["maxUnavailable"]);
    } else {
        out.maybe(0, "Min available", &spec["minAvailable"]);
    }
    out.field(0, "Selector", &if spec["selector"].is_null() { "<unset>".into() } else { selector(&spec["selector"]) });
    out.line(0, "Status:");
    for (name, field) in [
        ("Allowed disruptions", "disruptionsAllowed"),
        ("Current", "currentHealthy"),
        ("Desired", "desiredHealthy"),
        ("Total", "expectedPods"),
    ] {
        out.field(2, name, &number(&status[field]).to_string());
    }
}
