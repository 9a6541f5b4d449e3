//! Claims of devices: which a pod uses (`spec.resourceClaims`), and what of them its containers are given (`resources.claims`).

use std::collections::BTreeSet;

use apimachinery::{Cause, names};

use crate::validate::field::{Causes, Field};

/// Checks the claims of a pod's spec and of its containers.
pub fn check(spec: &Field<'_>, causes: &mut Causes) {
    let mut known = BTreeSet::new();
    for claim in spec.at("resourceClaims").items() {
        let name = claim.at("name");
        if name.require("", causes) {
            if known.insert(name.text()) {
                name.is(names::dns1123_label, causes);
            } else {
                causes.push(Cause::duplicate(&name.path, name.value));
            }
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|field| claim.at(field));
        match sources.iter().filter(|source| source.is_set()).count() {
            0 => claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`", causes),
            1 => {}
            _ => {
                let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                claim.invalid(why, causes);
            }
        }
        for source in sources {
            source.is_if_said(names::dns1123_subdomain, causes);
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.at(list).items() {
            used(&container.at("resources").at("claims"), &known, causes);
        }
    }
}

/// The claims of one container: each of the pod's, and nothing of them twice.
fn used(claims: &Field<'_>, known: &BTreeSet<&str>, causes: &mut Causes) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for claim in claims.items() {
        let (name, request) = (claim.at("name"), claim.at("request"));
        if name.text().is_empty() {
            causes.push(Cause::required(&claim.path, ""));
            continue;
        }
        request.is(names::dns1123_label, causes);
        let (of, part) = (name.text(), request.text());
        // All of a claim goes with no part of it.
        let overlaps =
            |(other, what): &(&str, &str)| *other == of && (*what == part || part.is_empty() || what.is_empty());
        if seen.iter().any(overlaps) {
            causes.push(Cause::duplicate(&claim.path, name.value));
        }
        seen.insert((of, part));
        if !known.contains(of) {
            let list: Vec<&str> = known.iter().copied().collect();
            let list = if list.is_empty() { " which is empty".into() } else { format!(": {}", list.join(", ")) };
            let mut cause = Cause::not_found(&claim.path, name.value);
            cause.message = format!("{}: must be one of the names in pod.spec.resourceClaims{list}", cause.message);
            causes.push(cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn containers_name_claims_of_their_pod() {
        let told = |claims: Value, used: Value| {
            let spec = json!({"resourceClaims": claims, "containers": [{"resources": {"claims": used}}]});
            let mut causes = Causes::new();
            check(&Field::new(&spec, "spec"), &mut causes);
            causes.iter().map(|cause| format!("{} {}", cause.field, cause.message)).collect::<Vec<_>>().join("; ")
        };
        let gpu = json!([{"name": "gpu", "resourceClaimName": "c"}]);
        assert_eq!(told(gpu.clone(), json!([{"name": "gpu", "request": "r"}, {"name": "gpu", "request": "s"}])), "");
        let at = "spec.containers[0].resources.claims";
        let (whole, part) = (json!({"name": "gpu"}), json!({"name": "gpu", "request": "r"}));
        assert_eq!(told(gpu.clone(), json!([part, whole])), format!("{at}[1] Duplicate value: \"gpu\""));
        assert_eq!(told(gpu.clone(), json!([whole, part])), format!("{at}[1] Duplicate value: \"gpu\""));
        assert_eq!(
            told(gpu, json!([{"name": "nic"}])),
            format!("{at}[0] Not found: \"nic\": must be one of the names in pod.spec.resourceClaims: gpu")
        );
        assert!(told(json!([]), json!([{"name": "nic"}])).ends_with("resourceClaims which is empty"));
        assert!(told(json!([{"name": "gpu"}]), json!([])).contains("must specify one of"));
        let both = json!([{"name": "gpu", "resourceClaimName": "c", "resourceClaimTemplateName": "t"}]);
        assert!(told(both, json!([])).contains("at most one of"));
        let twice = json!([{"name": "gpu", "resourceClaimName": "c"}, {"name": "gpu", "resourceClaimName": "d"}]);
        assert!(told(twice, json!([])).contains("spec.resourceClaims[1].name Duplicate"));
    }
}
