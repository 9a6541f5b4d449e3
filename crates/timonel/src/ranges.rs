//! Pod and service CIDRs can't change after the cluster was created, since nodes and services have addresses of them; they can be extended.

use std::path::Path;

use anyhow::{Context as _, bail};
use apimachinery::AddressRanges;
use serde::{Deserialize, Serialize};

const FILE: &str = "ranges.json";

#[derive(Serialize, Deserialize)]
struct Record {
    cluster_cidr: String,
    service_cidr: String,
}

/// Records the CIDRs at the first start. Later, other CIDRs are refused, unless they start at the same address and contain the recorded ones.
///
/// # Errors
/// When the CIDRs conflict with the recorded ones, or the record can't be read or written; the text says what to do.
pub fn check_or_record(server: &Path, pods: &AddressRanges, services: &AddressRanges) -> anyhow::Result<()> {
    let path = server.join(FILE);
    let before = bounded::bytes(&path, bounded::MAX_OWN_FILE_BYTES)
        .ok()
        .and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    if let Some(before) = before {
        for (flag, now, before) in
            [("--cluster-cidr", pods, before.cluster_cidr), ("--service-cidr", services, before.service_cidr)]
        {
            let former: AddressRanges =
                before.parse().with_context(|| format!("{} is malformed: remove it", path.display()))?;
            if !extends(&former, now) {
                bail!(
                    "{flag} was {before} when this cluster was made, and its nodes and services have addresses of that: {flag} {now} can't take its place. Say {flag} {before}, or begin a new cluster in another --data-dir"
                );
            }
        }
    }
    let record = Record { cluster_cidr: pods.to_string(), service_cidr: services.to_string() };
    bounded::durable::create(&path, &serde_json::to_vec(&record)?)
        .with_context(|| format!("can't write {}", path.display()))
}

fn extends(former: &AddressRanges, now: &AddressRanges) -> bool {
    former
        .iter()
        .all(|old| now.iter().any(|new| new.network() == old.network() && new.prefix_len() <= old.prefix_len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ranges_are_refused_and_larger_ones_taken() {
        let dir = tempfile::tempdir().unwrap();
        let start = |pods: &str, services: &str| {
            check_or_record(dir.path(), &pods.parse().unwrap(), &services.parse().unwrap()).map_err(|e| e.to_string())
        };
        start("10.42.0.0/16", "10.43.0.0/16").unwrap();
        start("10.42.0.0/16", "10.43.0.0/16").unwrap();
        let refused = start("10.44.0.0/16", "10.43.0.0/16").unwrap_err();
        assert!(
            refused.contains("--cluster-cidr was 10.42.0.0/16") && refused.contains("Say --cluster-cidr"),
            "{refused}"
        );
        let refused = start("10.42.0.0/16", "10.43.0.0/20").unwrap_err();
        assert!(refused.contains("--service-cidr was 10.43.0.0/16"), "{refused}");
        start("10.42.0.0/15,fd42::/56", "10.43.0.0/16,fd43::/112").unwrap();
        assert!(start("10.42.0.0/16", "10.43.0.0/16").is_err(), "they grew meanwhile");
    }
}
