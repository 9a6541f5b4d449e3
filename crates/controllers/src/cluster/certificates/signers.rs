//! What each signer signs (upstream's "Certificate Signing Requests"). Checked when something is approved by itself,
//! and again when it is signed, also of a request that a user approved.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use pki::{CertificateRequest, SigningProfile, Usage};

use crate::Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    NodeClient,
    NodeServing,
    Client,
}

/// What the rules look at beside the request.
pub struct Cluster<'a> {
    pub config: &'a Config,
    pub nodes: &'a [Arc<Node>],
    /// Where the API is served.
    pub api: Option<&'a EndpointSlice>,
}

const NODE: &str = "system:node:";
const NODES: &str = "system:nodes";
const MASTERS: &str = "system:masters";
/// Only the server's own kubelet may give itself this label.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

impl Signer {
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Signer::NodeClient),
            "kubernetes.io/kubelet-serving" => Some(Signer::NodeServing),
            "kubernetes.io/kube-apiserver-client" => Some(Signer::Client),
            _ => None,
        }
    }

    /// The terms on which the signer signs a request, or why it doesn't, in upstream's words.
    ///
    /// # Errors
    /// The rule of the signer that the request breaks.
    pub fn check(
        self,
        spec: &CertificateSigningRequestSpec,
        facts: &CertificateRequest,
        cluster: &Cluster<'_>,
    ) -> Result<SigningProfile, String> {
        let usages: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
        let usage = if self == Signer::NodeServing { Usage::Server } else { Usage::Client };
        match self {
            Signer::NodeClient => {
                node_subject(facts)?;
                no_names(facts, false)?;
                exactly(&usages, "client auth")?;
            }
            Signer::NodeServing => {
                node_subject(facts)?;
                no_names(facts, true)?;
                exactly(&usages, "server auth")?;
                serving_names(spec, facts, cluster)?;
            }
            Signer::Client => {
                if facts.organizations.iter().any(|o| o == MASTERS) {
                    let signer = &spec.signer_name;
                    return Err(format!("use of {signer} signer with {MASTERS} group is not allowed"));
                }
                no_names(facts, false)?;
                client_usages(&usages)?;
            }
        }
        let seconds = spec.expiration_seconds.map(i64::from);
        Ok(SigningProfile { usage, key_encipherment: usages.contains("key encipherment"), seconds })
    }
}

fn node_subject(facts: &CertificateRequest) -> Result<(), String> {
    if facts.organizations != [NODES] {
        return Err(format!("subject organization is not {NODES}"));
    }
    match facts.common_name.strip_prefix(NODE) {
        None | Some("") => Err(format!("subject common name does not begin with {NODE}")),
        Some(name) => apimachinery::names::dns1123_subdomain(name).map_err(|why| format!("subject common name: {why}")),
    }
}

/// Refuses alternative names, all or those that no server has.
fn no_names(facts: &CertificateRequest, serves: bool) -> Result<(), String> {
    if facts.has_other_names {
        return Err("email and URI subjectAltNames are not allowed".into());
    }
    match (serves, facts.dns_names.is_empty(), facts.addresses.is_empty()) {
        (false, false, _) => Err("DNS subjectAltNames are not allowed".into()),
        (false, true, false) => Err("IP subjectAltNames are not allowed".into()),
        (true, true, true) => Err("DNS or IP subjectAltName is required".into()),
        _ => Ok(()),
    }
}

fn exactly(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let mut wanted: BTreeSet<&str> = ["digital signature", purpose].into();
    if *usages == wanted {
        return Ok(());
    }
    wanted.insert("key encipherment");
    if *usages == wanted { Ok(()) } else { Err(format!("usages did not match {wanted:?}")) }
}

fn client_usages(usages: &BTreeSet<&str>) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.contains("client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".into())
    }
}

/// A node may serve as what its Node says it is, and never as the API server, a service, a pod or another node: it
/// writes the addresses in its status itself.
fn serving_names(
    spec: &CertificateSigningRequestSpec,
    facts: &CertificateRequest,
    cluster: &Cluster<'_>,
) -> Result<(), String> {
    if spec.username.as_deref() != Some(&facts.common_name) || !spec.groups.iter().flatten().any(|g| g == NODES) {
        return Err("the request isn't that of the node which it names".into());
    }
    let name = facts.common_name.trim_start_matches(NODE);
    let node = cluster.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name));
    let node = node.ok_or_else(|| format!("there is no node {name:?}"))?;
    let own: Vec<&str> = addresses(node).map(|a| a.address.as_str()).collect();
    let is_server = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(CONTROL_PLANE));
    for dns in &facts.dns_names {
        if !own.contains(&dns.as_str()) && dns != name {
            return Err(format!("{dns:?} is no address in the status of node {name:?}"));
        }
        if !is_server && cluster.is_api(dns) {
            return Err(format!("{dns:?} is a name of the API server"));
        }
    }
    for address in &facts.addresses {
        let text = address.to_string();
        if !own.iter().any(|own| own.parse() == Ok(*address)) {
            return Err(format!("{text} is no address in the status of node {name:?}"));
        }
        if !is_server && cluster.is_api(&text) {
            return Err(format!("{text} is an address of the API server"));
        }
        cluster.may_serve(*address)?;
        // Only of who can't be told from them otherwise: no node may keep the server's from being renewed.
        if let Some(other) = cluster.other_with(name, *address).filter(|_| !is_server) {
            return Err(format!("{text} is an address of node {other:?}"));
        }
    }
    Ok(())
}

fn addresses(node: &Node) -> impl Iterator<Item = &NodeAddress> {
    node.status.as_ref().and_then(|status| status.addresses.as_ref()).into_iter().flatten()
}

impl Cluster<'_> {
    fn is_api(&self, name: &str) -> bool {
        let own = ["kubernetes", "kubernetes.default", "localhost"];
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let service = name.ends_with(".svc") || name.contains(".svc.");
        let endpoints = self.api.iter().filter_map(|slice| slice.endpoints.as_ref()).flatten();
        let served = endpoints.flat_map(|endpoint| &endpoint.addresses);
        let named = self.config.api_names.iter().chain(served).any(|api| api.eq_ignore_ascii_case(&name));
        service || own.contains(&name.as_str()) || named
    }

    fn may_serve(&self, address: IpAddr) -> Result<(), String> {
        if !apimachinery::addresses::is_global_unicast(address) {
            return Err(format!("{address} is an address of every machine"));
        }
        if self.config.service_cidr.contains(address) || self.config.cluster_cidr.contains(address) {
            return Err(format!("{address} is an address of services or pods"));
        }
        Ok(())
    }

    /// Another node that has the address.
    fn other_with(&self, name: &str, address: IpAddr) -> Option<&str> {
        let has = |node: &Node| addresses(node).any(|a| a.address.parse() == Ok(address));
        let names = self.nodes.iter().filter(|node| has(node)).filter_map(|node| node.metadata.name.as_deref());
        names.into_iter().find(|other| *other != name)
    }
}

#[cfg(test)]
mod tests;
