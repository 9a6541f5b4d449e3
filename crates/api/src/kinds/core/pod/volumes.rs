//! The volumes of a pod.

use std::collections::HashSet;

use apimachinery::{Cause, ObjectExt as _, names};

use crate::kinds::persistent_volume::{check_access_modes, size};
use crate::validate::field::{Causes, Field};
use crate::validate::signer;

/// All sources that a volume may have.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "secret",
    "configMap",
    "downwardAPI",
    "projected",
    "persistentVolumeClaim",
    "ephemeral",
    "image",
    "nfs",
    "csi",
    "iscsi",
    "fc",
    "glusterfs",
    "rbd",
    "cephfs",
    "cinder",
    "flexVolume",
    "flocker",
    "gitRepo",
    "azureDisk",
    "azureFile",
    "awsElasticBlockStore",
    "gcePersistentDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

const PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks volumes and returns their names.
pub fn check<'a>(volumes: &Field<'a>, causes: &mut Causes) -> Vec<&'a str> {
    volumes.unique("name", causes);
    volumes
        .items()
        .map(|volume| {
            let name = volume.at("name");
            if name.require("", causes) {
                name.is(names::dns1123_label, causes);
            }
            if let Some(source) = volume.one_member(SOURCES, "volume type", causes) {
                check_source(source, &volume.at(source), causes);
            }
            name.text()
        })
        .collect()
}

fn check_source(kind: &str, source: &Field<'_>, causes: &mut Causes) {
    match kind {
        "emptyDir" => {
            source.at("medium").one_of(&["", "HugePages", "HugePages-1Gi", "HugePages-2Mi", "Memory"], causes);
            if source.at("sizeLimit").is_set() {
                source.at("sizeLimit").quantity(causes);
            }
        }
        "hostPath" => {
            if source.at("path").require("", causes) {
                no_backstep(&source.at("path"), causes);
            }
            source.at("type").one_of(PATH_TYPES, causes);
        }
        "secret" => {
            source.at("secretName").require("", causes);
            files(source, causes);
        }
        "configMap" => {
            source.at("name").require("", causes);
            files(source, causes);
        }
        "downwardAPI" => {
            mode(&source.at("defaultMode"), causes);
            downward(source, causes);
        }
        "projected" => projected(source, causes),
        "persistentVolumeClaim" => {
            source.at("claimName").require("", causes);
        }
        "ephemeral" => ephemeral(source, causes),
        "image" => {
            source.at("pullPolicy").one_of(&["Always", "IfNotPresent", "Never"], causes);
        }
        "nfs" => {
            source.at("server").require("", causes);
            if source.at("path").require("", causes) && !source.at("path").text().starts_with('/') {
                source.at("path").invalid("must be an absolute path", causes);
            }
        }
        "csi" => {
            source.at("driver").require("", causes);
        }
        _ => {}
    }
}

fn ephemeral(source: &Field<'_>, causes: &mut Vec<Cause>) {
    if source.at("volumeClaimTemplate").require("", causes) {
        let claim = source.at("volumeClaimTemplate").at("spec");
        check_access_modes(&claim, causes);
        let path = format!("{}.resources[storage]", claim.path);
        size(claim.value.at(&["resources", "requests", "storage"]), &path, causes);
    }
}

fn projected(source: &Field<'_>, causes: &mut Causes) {
    mode(&source.at("defaultMode"), causes);
    const KINDS: &[&str] =
        &["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
    let mut paths = HashSet::new();
    for projection in source.at("sources").items() {
        let Some(kind) = projection.one_member(KINDS, "volume type", causes) else { continue };
        let of = projection.at(kind);
        match kind {
            "secret" | "configMap" => {
                of.at("name").require("", causes);
                keys(&of, causes);
            }
            "downwardAPI" => downward(&of, causes),
            "serviceAccountToken" => {
                let seconds = of.at("expirationSeconds");
                match seconds.value.as_i64() {
                    Some(n) if n < 600 => seconds.invalid("may not specify a duration less than 10 minutes", causes),
                    Some(n) if n > 1 << 32 => {
                        seconds.invalid("may not specify a duration larger than 2^32 seconds", causes);
                    }
                    _ => {}
                }
                if of.at("path").require("", causes) {
                    relative(&of.at("path"), causes);
                }
            }
            "clusterTrustBundle" => trust_bundle(&of, causes),
            _ => pod_certificate(&of, causes),
        }
        let placed = match kind {
            "serviceAccountToken" | "clusterTrustBundle" => vec![of.at("path")],
            "podCertificate" => CERTIFICATE_PATHS.iter().map(|path| of.at(path)).collect(),
            _ => of.at("items").items().map(|i| i.at("path")).collect(),
        };
        for path in placed.iter().filter(|path| !path.is_empty()) {
            if !paths.insert(path.text()) {
                let named = matches!(kind, "secret" | "configMap") && !of.at("name").is_empty();
                let what = if named { of.at("name").value } else { path.value };
                causes.push(Cause::invalid(&projection.path, what, "conflicting duplicate paths"));
            }
        }
    }
}

/// Authorities (KEP-3257): of one bundle by its name, or all of a signer that a selector takes.
fn trust_bundle(of: &Field<'_>, causes: &mut Causes) {
    let (name, signer, selector) = (of.at("name"), of.at("signerName"), of.at("labelSelector"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => of.invalid("only one of name and signerName may be used", causes),
        (true, false) => {
            if name.text().is_empty() {
                causes.push(Cause::required(&name.path, "must be a valid object name"));
            }
            let of_signer = name.text().rsplit_once(':').map(|(signer, _)| signer.replace(':', "/"));
            if let Err(why) = signer::trust_bundle_name(of_signer.as_deref().unwrap_or(""), name.text()) {
                name.invalid(&format!("not a valid clustertrustbundlename: {why}"), causes);
            }
            if selector.is_set() {
                selector.invalid("labelSelector must be unset if name is specified", causes);
            }
        }
        (false, true) => {
            if signer.text().is_empty() {
                causes.push(Cause::required(&signer.path, "must be a valid signer name"));
            }
            signer::name(&signer, causes);
            selector.selector(causes);
        }
        (false, false) => causes.push(Cause::required(&of.path, "either name or signerName must be specified")),
    }
    of.at("path").require("", causes);
    relative(&of.at("path"), causes);
}

/// Where a certificate of the pod and its key may be put.
const CERTIFICATE_PATHS: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];

/// A certificate of the pod (KEP-4317).
fn pod_certificate(of: &Field<'_>, causes: &mut Causes) {
    let (signer, seconds, key) = (of.at("signerName"), of.at("maxExpirationSeconds"), of.at("keyType"));
    signer::name(&signer, causes);
    signer::user_annotations(&of.at("userAnnotations"), causes);
    if !pki::KEY_TYPES.contains(&key.text()) {
        causes.push(Cause::not_supported(&key.path, &key.text().into(), &pki::KEY_TYPES));
    }
    let (least, most) = (signer::MIN_VALIDITY_SECONDS, signer::max_validity_seconds(signer.text()));
    match seconds.value.as_i64() {
        Some(n) if n < least => {
            seconds.invalid(&format!("if provided, maxExpirationSeconds must be >= {least}"), causes);
        }
        Some(n) if n > most => {
            seconds.invalid(&format!("if provided, maxExpirationSeconds must be <= {most}"), causes);
        }
        _ => {}
    }
    let paths = CERTIFICATE_PATHS.map(|path| of.at(path));
    if paths.iter().all(Field::is_empty) {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        causes.push(Cause::required(&of.path, why));
    }
    paths.iter().filter(|path| !path.is_empty()).for_each(|path| relative(path, causes));
}

fn files(source: &Field<'_>, causes: &mut Causes) {
    mode(&source.at("defaultMode"), causes);
    keys(source, causes);
}

fn keys(source: &Field<'_>, causes: &mut Causes) {
    for item in source.at("items").items() {
        item.at("key").require("", causes);
        if item.at("path").require("", causes) {
            relative(&item.at("path"), causes);
        }
        mode(&item.at("mode"), causes);
    }
}

fn downward(source: &Field<'_>, causes: &mut Causes) {
    for item in source.at("items").items() {
        if item.at("path").require("", causes) {
            relative(&item.at("path"), causes);
        }
        item.one_member(&["fieldRef", "resourceFieldRef"], "source", causes);
        mode(&item.at("mode"), causes);
    }
}

fn mode(field: &Field<'_>, causes: &mut Causes) {
    if field.value.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
        field.invalid("must be a number between 0 and 0777 (octal), both inclusive", causes);
    }
}

fn no_backstep(field: &Field<'_>, causes: &mut Causes) {
    if field.text().split('/').any(|step| step == "..") {
        field.invalid("must not contain '..'", causes);
    }
}

/// A path below the volume's root.
fn relative(field: &Field<'_>, causes: &mut Causes) {
    if field.text().starts_with('/') {
        field.invalid("must be a relative path", causes);
    }
    no_backstep(field, causes);
    if field.text().starts_with("..") && !field.text().starts_with("../") {
        field.invalid("must not start with '..'", causes);
    }
}
