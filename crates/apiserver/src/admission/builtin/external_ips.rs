//! DenyServiceExternalIPs: a user that may write services could take over the traffic to any address
//! (CVE-2020-8554), so `externalIPs` may only be from ranges that the administrator names.

use std::net::IpAddr;

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use super::super::AdmissionAttributes;
use crate::ApiServer;

/// Addresses that a service has already may stay.
///
/// # Errors
/// 403 for an address that the administrator doesn't allow.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    if attributes.kind != kinds::SERVICES || attributes.subresource.is_some() {
        return Ok(());
    }
    let addresses = |service: &Value| -> Vec<IpAddr> {
        let texts = service.strings_at(&["spec", "externalIPs"]);
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    };
    let before = attributes.old.map(addresses).unwrap_or_default();
    let config = &server.config;
    let refuse = |why: &str| Err(attributes.kind.forbidden(attributes.name, why));
    for address in addresses(object).into_iter().filter(|address| !before.contains(address)) {
        if config.service_cidr.contains(address) || config.cluster_cidr.contains(address) {
            return refuse(&format!("external IP {address} is an address of services or pods"));
        }
        if !config.external_ips.iter().any(|range| range.contains(&address)) {
            return refuse("Use of external IPs is denied by admission control");
        }
    }
    Ok(())
}
