//! DenyServiceExternalIPs: whoever may write services could take the traffic to any address from all others
//! (CVE-2020-8554), so `externalIPs` may be from ranges that the administrator names, and from none unless he does.

use std::net::IpAddr;

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use super::super::AdmissionRequest;
use crate::ApiServer;

/// Addresses that a service has already may stay.
pub fn check(server: &ApiServer, attempt: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    if attempt.kind != kinds::SERVICES || attempt.subresource.is_some() {
        return Ok(());
    }
    let addresses = |service: &Value| -> Vec<IpAddr> {
        let texts = service.strings_at(&["spec", "externalIPs"]);
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    };
    let before = attempt.old.map(addresses).unwrap_or_default();
    let config = &server.config;
    let refuse = |why: &str| Err(attempt.kind.forbidden(attempt.name, why));
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
