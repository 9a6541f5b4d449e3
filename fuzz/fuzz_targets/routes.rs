//! Where requests from outside lead: whatever Ingresses, HTTPRoutes and requests say, an answer is found.
#![no_main]

use std::sync::Arc;

use gateway::GatewaySnapshot;
use http::Request;
use ingress::readers::{Expressions, VirtualHosts, Services, Table, add_gateways, add_ingresses};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Option<Arc<T>> {
    serde_json::from_value(value).ok().map(Arc::new)
}

fuzz_target!(|parts: (&str, &str, &str, &str, i32)| {
    let (host, path, annotation, uri, number) = parts;
    let Ok(request) = Request::get(uri).header("host", "a.b").body(()) else { return };
    let (request, ()) = request.into_parts();
    let service = |name: &str| read(json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"ports": [{"name": "web", "port": 80}]}}));
    let slice = read(json!({"metadata": {"name": "s", "namespace": "n", "labels": {"kubernetes.io/service-name": "a"}}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": number}], "endpoints": [{"addresses": ["10.0.0.1", host]}]}));
    let (Some(one), Some(slice)) = (service("a"), slice) else { return };
    let (all, slices) = ([one], [slice]);
    let services = Services::new(&all, &slices);

    let nginx = "nginx.ingress.kubernetes.io/";
    let annotations: serde_json::Map<String, Value> = ["rewrite-target", "use-regex", "ssl-redirect", "permanent-redirect", "proxy-body-size",
        "proxy-read-timeout", "backend-protocol", "upstream-vhost", "affinity", "app-root", "whitelist-source-range", "permanent-redirect-code"]
        .iter().map(|name| (format!("{nginx}{name}"), annotation.into())).collect();
    let paths = ["Prefix", "Exact", "ImplementationSpecific"].map(|kind| json!({"path": path, "pathType": kind, "backend": {"service": {"name": "a", "port": {"number": 80}}}}));
    for annotations in [json!({}), json!({format!("{nginx}use-regex"): "true", format!("{nginx}rewrite-target"): annotation}), annotations.into()] {
        let Some(ingress) = read(json!({"metadata": {"name": "i", "namespace": "n", "annotations": annotations},
            "spec": {"defaultBackend": {"service": {"name": "a", "port": {"name": annotation}}}, "rules": [{"host": host, "http": {"paths": paths}}]}})) else { continue };
        let mut hosts = VirtualHosts::default();
        add_ingresses(&mut hosts, &[ingress], &services, &mut Expressions::default());
        hosts.sort();
        if let Some(found) = hosts.find(host, &request) {
            assert!(found.path(found.action.path.as_ref(), request.uri.path()).starts_with('/'));
        }
    }

    let filters = json!([{"type": "URLRewrite", "urlRewrite": {"hostname": annotation, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": annotation}}},
        {"type": "RequestRedirect", "requestRedirect": {"scheme": annotation, "hostname": host, "port": number, "statusCode": 302, "path": {"type": "ReplaceFullPath", "replaceFullPath": path}}},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": annotation, "value": path}], "remove": [host]}}]);
    let matches = json!([{"path": {"type": "RegularExpression", "value": path}}, {"path": {"type": "PathPrefix", "value": path},
        "headers": [{"name": annotation, "value": host}], "queryParams": [{"name": annotation, "value": host}], "method": annotation}]);
    let (class, gateway, route) = (
        read(json!({"metadata": {"name": "c"}, "spec": {"controllerName": gateway::CONTROLLER_NAME}})),
        read(json!({"metadata": {"name": "g", "namespace": "n"}, "spec": {"gatewayClassName": "c", "listeners": [
            {"name": "a", "port": 80, "protocol": "HTTP", "hostname": host}, {"name": "b", "port": number, "protocol": annotation}]}})),
        read(json!({"metadata": {"name": "r", "namespace": "n"}, "spec": {"parentRefs": [{"name": "g"}], "hostnames": [host, annotation],
            "rules": [{"matches": matches, "filters": filters, "backendRefs": [{"name": "a", "port": 80, "weight": number}], "timeouts": {"request": annotation}}]}})),
    );
    let (Some(class), Some(gateway), Some(route)) = (class, gateway, route) else { return };
    let world = GatewaySnapshot::new(&[class], vec![gateway], vec![route], Vec::new(), &[]);
    let mut table = Table::default();
    add_gateways(&mut table, &world, &services, &mut Expressions::default());
    for port in table.ports.values_mut() {
        port.hosts.sort();
        if let Some(found) = port.hosts.find(host, &request) {
            assert!(found.path(found.action.path.as_ref(), request.uri.path()).starts_with('/'));
        }
    }
});
