//! How long a kubelet may keep the Secrets and ConfigMaps that it read, by the size of the cluster. Our kubelets watch; others
//! poll, and find it in an annotation of their Node (upstream's TTL controller).

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::{Result, ignore};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// With fewer nodes than the first, less time is enough; with more than the second, it is too little. The third is in seconds.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The time for a cluster of `count` nodes. A count near a bound leaves it as it `is`.
fn seconds(count: usize, is: Option<&str>) -> u32 {
    let is = is.and_then(|text| text.parse().ok());
    let mut step = STEPS.iter().position(|(_, _, seconds)| Some(*seconds) == is).unwrap_or(0);
    while count > STEPS[step].1 {
        step += 1;
    }
    while count < STEPS[step].0 {
        step -= 1;
    }
    STEPS[step].2
}

/// Writes the annotation of a node in a cluster of `count` nodes.
///
/// # Errors
/// The API refuses the annotation of a node that is there.
pub async fn annotate(api: &Api<Node>, node: &Node, count: usize) -> Result {
    let is = node.annotations().get(ANNOTATION).map(String::as_str);
    let wanted = seconds(count, is).to_string();
    if is == Some(wanted.as_str()) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"metadata": {"uid": node.uid(), "annotations": {ANNOTATION: wanted}}}));
    ignore(api.patch(&node.name_any(), &PatchParams::default(), &patch).await, &[404, 409])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_grows_with_the_cluster_and_stays_near_a_bound() {
        for (count, is, want) in [
            (0, None, 0),
            (100, None, 0),
            (101, Some("0"), 15),
            (95, Some("15"), 15),
            (89, Some("15"), 0),
            (500, Some("15"), 15),
            (501, Some("15"), 30),
            (460, Some("30"), 30),
            (440, Some("30"), 15),
            (1001, Some("30"), 60),
            (2001, Some("60"), 300),
            (1799, Some("300"), 60),
            (5000, None, 300),
            (10, Some("300"), 0),
            (10, Some("soon"), 0),
        ] {
            assert_eq!(seconds(count, is), want, "{count} {is:?}");
        }
    }
}
