//! Variables that name the services of a namespace.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt as _;

use super::expansion::{TooLarge, Variables};

/// Variables in the manner of Docker links for the services of a namespace (`NAME_SERVICE_HOST`, …).
///
/// # Errors
/// When they become too many.
pub fn add(services: &[Arc<Service>], env: &mut Variables) -> Result<(), TooLarge> {
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.clone().unwrap_or_default();
        let Some(first) = spec.ports.as_ref().and_then(|p| p.first()).filter(|_| !ip.is_empty() && ip != "None") else {
            continue;
        };
        let name = service.name_any().to_ascii_uppercase().replace('-', "_");
        env.insert(format!("{name}_SERVICE_HOST"), ip.clone())?;
        env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string())?;
        let url = |p: &ServicePort| {
            let protocol = p.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            format!("{protocol}://{}", apimachinery::authority(&ip, p.port))
        };
        env.insert(format!("{name}_PORT"), url(first))?;
        for port in spec.ports.iter().flatten() {
            if let Some(label) = port.name.as_ref().filter(|n| !n.is_empty()) {
                let label = label.to_ascii_uppercase().replace('-', "_");
                env.insert(format!("{name}_SERVICE_PORT_{label}"), port.port.to_string())?;
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_uppercase();
            let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
            env.insert(prefix.clone(), url(port))?;
            env.insert(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase())?;
            env.insert(format!("{prefix}_PORT"), port.port.to_string())?;
            env.insert(format!("{prefix}_ADDR"), ip.clone())?;
        }
    }
    Ok(())
}
