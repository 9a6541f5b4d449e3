//! Rules of ten thousand services: all of them written, and one changed.

use std::sync::Arc;
use std::time::Instant;

use apimachinery::Family;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::nft::{self, TableSync};
use proxy::plan::{self, NodeTopology, Planner};
use serde_json::json;

use crate::Figure;

const COUNT: usize = 10_000;
/// A table of its own, in the namespace of the measured server.
const TABLE: &str = "bench";

fn service(n: usize) -> anyhow::Result<Arc<Service>> {
    let address = format!("10.200.{}.{}", n / 250, n % 250 + 1);
    Ok(Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("s{n}"), "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "protocol": "TCP"}]}}))?))
}

/// Three endpoints, the last of which is `last`.
fn slice(n: usize, last: usize) -> anyhow::Result<Arc<EndpointSlice>> {
    let endpoint = |k: usize| {
        let address = format!("10.{}.{}.{}", 100 + k, n / 250, n % 250 + 1);
        json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "a"})
    };
    Ok(Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("s{n}-x"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4", "endpoints": [endpoint(0), endpoint(1), endpoint(last)],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]}))?))
}

/// Planning and writing, as the node does it.
pub async fn measure() -> anyhow::Result<Vec<Figure>> {
    let config = proxy::Config {
        table: TABLE.into(),
        node_name: "a".into(),
        cluster_cidr: "10.42.0.0/16".parse()?,
        cluster_dns: "10.43.0.10".parse().ok(),
        bridge: Some("bench0".into()),
    };
    let mut services = (0..COUNT).map(service).collect::<anyhow::Result<Vec<_>>>()?;
    services.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut slices = (0..COUNT).map(|n| slice(n, 2)).collect::<anyhow::Result<Vec<_>>>()?;
    let topology = NodeTopology::default();
    let mut table_sync = TableSync::new(&format!("ip {TABLE}"), "services");
    let mut planner = Planner::new(Family::V4);
    let begun = Instant::now();
    table_sync
        .sync_parts(plan::base_table(&config, Family::V4), planner.parts(&config, &topology, &services, &slices))
        .await?;
    let full = begun.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for round in 0..11 {
        let n = round * 800;
        slices[n] = slice(n, 3)?;
        let begun = Instant::now();
        table_sync
            .sync_parts(plan::base_table(&config, Family::V4), planner.parts(&config, &topology, &services, &slices))
            .await?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    nft::remove(TABLE).await?;
    let figure = |what, value, promise| Figure { what, value, unit: "s", promise: Some(promise), less: true };
    Ok(vec![
        figure("10,000 services written", full, 5.0),
        figure("one service changed among 10,000, p50 of 11", times[times.len() / 2], 0.05),
    ])
}
