//! Authorities that pods trust: the `clusterTrustBundle` sources of projected volumes (KEP-3257).

use std::collections::BTreeSet;

use apimachinery::LabelSelector;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::VolumeError;

/// How many bytes of bundles a source may have, and so the kubelet in its memory. One bundle has a MiB at the most.
const MAX_BYTES: usize = 16 << 20;

/// The authorities of a source as PEM, each once; nothing if none is found and the source is optional.
///
/// # Errors
/// When the API refuses, or there is none.
pub async fn read(client: &Client, source: &ClusterTrustBundleProjection) -> Result<Vec<u8>, VolumeError> {
    let api: Api<ClusterTrustBundle> = Api::all(client.clone());
    let optional = source.optional.unwrap_or(false);
    let bundles = if let Some(name) = &source.name {
        match api.get_opt(name).await? {
            Some(bundle) => vec![bundle],
            None if optional => Vec::new(),
            None => {
                let why = format!("clustertrustbundle.certificates.k8s.io {name:?} not found");
                return Err(VolumeError::Refused(format!("while getting ClusterTrustBundle: {why}")));
            }
        }
    } else {
        let signer = source.signer_name.as_deref().unwrap_or("");
        // No selector takes none, an empty one takes all.
        let found = match &source.label_selector {
            Some(selector) => {
                let selector = LabelSelector::from_json(&serde_json::to_value(selector)?)
                    .map_err(|why| VolumeError::Refused(format!("while parsing label selector: {why}")))?;
                let listed = api.list(&ListParams::default().fields(&format!("spec.signerName={signer}"))).await?;
                let takes = |bundle: &ClusterTrustBundle| selector.matches_map(bundle.metadata.labels.as_ref());
                listed.items.into_iter().filter(takes).collect()
            }
            None => Vec::new(),
        };
        if found.is_empty() && !optional {
            let why = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
            return Err(VolumeError::Refused(why.into()));
        }
        found
    };
    normalized(&bundles)
}

/// The certificates of bundles, each once and without what stands around them.
fn normalized(bundles: &[ClusterTrustBundle]) -> Result<Vec<u8>, VolumeError> {
    let size: usize = bundles.iter().map(|bundle| bundle.spec.trust_bundle.len()).sum();
    if size > MAX_BYTES {
        let names: Vec<String> = bundles.iter().take(3).map(ResourceExt::name_any).collect();
        let many = format!("{} ClusterTrustBundles ({}, …)", bundles.len(), names.join(", "));
        let why = format!("{many} have more than {MAX_BYTES} bytes together: select fewer of them");
        return Err(VolumeError::Refused(why));
    }
    let blocks = bundles.iter().flat_map(|bundle| pki::pem_blocks(&bundle.spec.trust_bundle));
    let anchors: BTreeSet<Vec<u8>> = blocks.map(|block| block.contents).collect();
    let pem: String = anchors.iter().map(|der| pki::to_pem("CERTIFICATE", der)).collect();
    Ok(pem.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_of_several_bundles_are_there_once() {
        let bundle = |ders: &[&[u8]]| {
            let text: String =
                ders.iter().map(|der| format!("about it\n{}", pki::to_pem("CERTIFICATE", der))).collect();
            ClusterTrustBundle {
                spec: k8s_openapi::api::certificates::v1::ClusterTrustBundleSpec {
                    signer_name: None,
                    trust_bundle: text,
                },
                ..ClusterTrustBundle::default()
            }
        };
        let (one, both) = (bundle(&[b"b"]), bundle(&[b"b", b"a"]));
        let wanted = format!("{}{}", pki::to_pem("CERTIFICATE", b"a"), pki::to_pem("CERTIFICATE", b"b"));
        assert_eq!(String::from_utf8(normalized(&[one.clone(), both]).unwrap()).unwrap(), wanted);
        let large = bundle(&[&vec![0; MAX_BYTES]]);
        assert!(normalized(&[one, large]).unwrap_err().to_string().contains("select fewer"));
    }
}
