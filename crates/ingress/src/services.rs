//! Ready endpoints of service ports. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use crate::table::Protocol;

/// Services and their endpoints, by namespace and name.
pub struct Services<'a> {
    services: HashMap<(String, String), &'a Arc<Service>>,
    slices: BTreeMap<(String, String), Vec<&'a EndpointSlice>>,
}

/// A port by its number or its name.
#[derive(Debug, Clone, Copy)]
pub enum PortRef<'a> {
    Number(i32),
    Name(&'a str),
}

/// Endpoints and protocol of a service's port.
pub struct ResolvedPort {
    /// `address:port` of the ready endpoints.
    pub endpoints: Vec<Arc<str>>,
    /// The protocol of `appProtocol` (KEP-3726), if it isn't plain HTTP/1.1.
    pub protocol: Option<Protocol>,
}

impl<'a> Services<'a> {
    /// An index of services and their endpoints.
    pub fn new(services: &'a [Arc<Service>], slices: &'a [Arc<EndpointSlice>]) -> Self {
        let mut by_service: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            if let Some(name) = slice.labels().get("kubernetes.io/service-name") {
                by_service.entry((slice.namespace().unwrap_or_default(), name.clone())).or_default().push(slice);
            }
        }
        let services = services.iter().map(|s| ((s.namespace().unwrap_or_default(), s.name_any()), s)).collect();
        Services { services, slices: by_service }
    }

    /// Looks up a service's port.
    ///
    /// # Errors
    /// When the service or port doesn't exist; the text says which.
    pub fn find(&self, namespace: &str, name: &str, port: PortRef<'_>) -> Result<ResolvedPort, String> {
        let key = (namespace.to_string(), name.to_string());
        let service = self.services.get(&key).ok_or_else(|| format!("there is no service {namespace}/{name}"))?;
        let spec = service.spec.as_ref();
        let matches = |p: &&ServicePort| match port {
            PortRef::Name(text) => p.name.as_deref() == Some(text),
            PortRef::Number(number) => p.port == number,
        };
        let found = spec.and_then(|s| s.ports.iter().flatten().find(matches));
        let port = found.ok_or_else(|| format!("service {namespace}/{name} has no port {}", port.display()))?;
        let protocol = match port.app_protocol.as_deref() {
            Some("kubernetes.io/h2c" | "grpc") => Some(Protocol::Grpc),
            Some("https") => Some(Protocol::Https),
            _ => None,
        };
        let external = spec.filter(|s| s.type_.as_deref() == Some("ExternalName")).map(|s| s.external_name.iter());
        if let Some(external) = external {
            let endpoints = external.map(|host| format!("{host}:{}", port.port).into()).collect();
            return Ok(ResolvedPort { endpoints, protocol });
        }
        let wanted = port.name.as_deref().unwrap_or("");
        let mut endpoints: Vec<Arc<str>> = Vec::new();
        for slice in self.slices.get(&key).into_iter().flatten() {
            let number = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or("") == wanted);
            let Some(number) = number.and_then(|p| p.port) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                let ready = endpoint.addresses.iter().filter(|_| ready);
                endpoints.extend(ready.map(|address| Arc::from(apimachinery::authority(address, number))));
            }
        }
        endpoints.sort();
        endpoints.dedup();
        Ok(ResolvedPort { endpoints, protocol })
    }
}

impl PortRef<'_> {
    pub fn display(&self) -> String {
        match self {
            PortRef::Number(number) => number.to_string(),
            PortRef::Name(name) => (*name).to_string(),
        }
    }
}
