//! Services, endpoints, ingresses and network policies.

use apimachinery::patch::merge_patch;
use serde_json::{Value, json};

use super::Kind;

pub(super) fn network() -> Vec<Kind> {
    let spec = |extra: Value| json!({"spec": extra});
    let path = |extra: Value| {
        let mut path =
            json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}});
        merge_patch(&mut path, &extra);
        json!({"spec": {"rules": [{"http": {"paths": [path]}}]}})
    };
    vec![
        Kind {
            path: "/api/v1/namespaces/default/services",
            good: json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "good"}, "spec": {"ports": [{"port": 80}]}}),
            bad: vec![
                (spec(json!({"ports": []})), "spec.ports FieldValueRequired"),
                (spec(json!({"type": "x"})), "spec.type FieldValueNotSupported"),
                (spec(json!({"type": "ExternalName", "ports": null})), "spec.externalName FieldValueRequired"),
                (
                    spec(
                        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}}}),
                    ),
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds FieldValueInvalid",
                ),
                (
                    spec(json!({"ports": [{"port": 80, "nodePort": 30001}]})),
                    "spec.ports[0].nodePort FieldValueForbidden",
                ),
                (
                    spec(json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]})),
                    "spec.ports[1] FieldValueDuplicate",
                ),
                (spec(json!({"externalIPs": ["x"]})), "spec.externalIPs[0] FieldValueInvalid"),
                (
                    spec(json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]})),
                    "spec.loadBalancerSourceRanges FieldValueForbidden",
                ),
                (
                    spec(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["x"]})),
                    "spec.loadBalancerSourceRanges[0] FieldValueInvalid",
                ),
                (spec(json!({"externalTrafficPolicy": "Local"})), "spec.externalTrafficPolicy FieldValueInvalid"),
                (spec(json!({"internalTrafficPolicy": "x"})), "spec.internalTrafficPolicy FieldValueNotSupported"),
            ],
        },
        Kind {
            path: "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            good: json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "good"},
                "spec": path(json!({}))["spec"]}),
            bad: vec![
                (path(json!({"path": "x"})), "spec.rules[0].http.paths[0].path FieldValueInvalid"),
                (path(json!({"path": "/a//b"})), "spec.rules[0].http.paths[0].path FieldValueInvalid"),
                (path(json!({"pathType": null})), "spec.rules[0].http.paths[0].pathType FieldValueRequired"),
                (path(json!({"backend": {"service": null}})), "spec.rules[0].http.paths[0].backend FieldValueRequired"),
                (
                    path(json!({"backend": {"service": {"port": {"name": "http"}}}})),
                    "spec.rules[0].http.paths[0].backend.service FieldValueInvalid",
                ),
                (spec(json!({"rules": [{"host": "1.2.3.4"}]})), "spec.rules[0].host FieldValueInvalid"),
                (spec(json!({"rules": null})), "spec FieldValueInvalid"),
                (spec(json!({"tls": [{"hosts": ["a*b"]}]})), "spec.tls[0].hosts[0] FieldValueInvalid"),
            ],
        },
        Kind {
            path: "/apis/networking.k8s.io/v1/ingressclasses",
            good: json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "good"},
                "spec": {"controller": "a.io/b"}}),
            bad: vec![(spec(json!({"controller": "x"})), "spec.controller FieldValueInvalid")],
        },
        Kind {
            path: "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            good: json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "good"},
                "spec": {"podSelector": {}}}),
            bad: vec![
                (
                    spec(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "x"}]}})),
                    "spec.podSelector.matchExpressions[0].operator FieldValueInvalid",
                ),
                (
                    spec(json!({"ingress": [{"ports": [{"port": 80, "endPort": 70}]}]})),
                    "spec.ingress[0].ports[0].endPort FieldValueInvalid",
                ),
                (
                    spec(json!({"ingress": [{"ports": [{"port": "http", "endPort": 70}]}]})),
                    "spec.ingress[0].ports[0].endPort FieldValueInvalid",
                ),
                (spec(json!({"ingress": [{"from": [{}]}]})), "spec.ingress[0].from[0] FieldValueRequired"),
                (
                    spec(json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]})),
                    "spec.egress[0].to[0].ipBlock.except[0] FieldValueInvalid",
                ),
                (spec(json!({"policyTypes": ["x"]})), "spec.policyTypes[0] FieldValueNotSupported"),
            ],
        },
        Kind {
            path: "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            good: json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "good"},
                "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.1.1"]}], "ports": []}),
            bad: vec![
                (json!({"addressType": "x"}), "addressType FieldValueNotSupported"),
                (json!({"addressType": "IPv6"}), "endpoints[0].addresses[0] FieldValueInvalid"),
                (json!({"endpoints": [{"addresses": []}]}), "endpoints[0].addresses FieldValueRequired"),
                (
                    json!({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}),
                    "ports[1].name FieldValueDuplicate",
                ),
            ],
        },
        Kind {
            path: "/api/v1/namespaces/default/endpoints",
            good: json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "good"},
                "subsets": [{"addresses": [{"ip": "10.1.1.1"}], "ports": [{"port": 80}]}]}),
            bad: vec![
                (
                    json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]}),
                    "subsets[0].addresses[0].ip FieldValueInvalid",
                ),
                (json!({"subsets": [{}]}), "subsets[0] FieldValueRequired"),
            ],
        },
    ]
}
