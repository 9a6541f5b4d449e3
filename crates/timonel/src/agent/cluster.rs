//! What the server tells every node of the cluster: the ConfigMap `kube-system/timonel-cluster`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context as _;
use apimachinery::AddressRanges;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

/// The settings of a cluster.
pub(super) struct Cluster {
    pub cidr: AddressRanges,
    pub service_cidr: AddressRanges,
    pub dns: IpAddr,
    pub domain: String,
    pub run_dns: bool,
    pub run_ingress: bool,
    pub snapshots: bool,
}

impl Cluster {
    /// Reads the settings.
    pub(super) fn read(settings: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let get = |key: &str| {
            settings.get(key).cloned().with_context(|| format!("ConfigMap kube-system/timonel-cluster lacks {key}"))
        };
        let disabled = get("disable")?;
        let runs = |part: &str| !disabled.split(',').any(|d| d == part);
        Ok(Cluster {
            cidr: get("cluster-cidr")?.parse()?,
            service_cidr: get("service-cidr")?.parse()?,
            dns: get("cluster-dns")?.parse()?,
            domain: get("cluster-domain")?,
            run_dns: runs("dns"),
            run_ingress: runs("ingress"),
            snapshots: runs("snapshots"),
        })
    }
}

/// The settings, as the server keeps them for its nodes.
pub(super) async fn settings(client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = api
        .get("timonel-cluster")
        .await
        .context("the cluster's settings (ConfigMap kube-system/timonel-cluster) can't be read")?;
    Ok(map.data.unwrap_or_default())
}
