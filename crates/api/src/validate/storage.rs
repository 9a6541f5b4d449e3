//! Claims, volumes and classes.

use apimachinery::{Cause, ObjectExt as _, Quantity};
use serde_json::Value;

use super::field::Field;
use super::{IMMUTABLE, immutable, one_of, placement};

const MODES: &[&str] = &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

fn access_modes(spec: &Value, causes: &mut Vec<Cause>) {
    let modes = spec.array_at(&["accessModes"]);
    if modes.is_empty() {
        causes.push(Cause::required("spec.accessModes", "at least 1 access mode is required"));
    }
    for mode in modes {
        if !mode.as_str().is_some_and(|m| MODES.contains(&m)) {
            causes.push(Cause::not_supported("spec.accessModes", mode, MODES));
        }
    }
}

fn size(value: &Value, field: &str, causes: &mut Vec<Cause>) -> Option<Quantity> {
    if value.is_null() {
        causes.push(Cause::required(field, ""));
        return None;
    }
    let text = value.as_str().map(String::from).unwrap_or_else(|| value.to_string());
    match text.parse::<Quantity>() {
        Ok(q) if q > Quantity::ZERO => Some(q),
        Ok(_) => {
            causes.push(Cause::invalid(field, value, "must be greater than zero"));
            None
        }
        Err(e) => {
            causes.push(Cause::invalid(field, value, &e.to_string()));
            None
        }
    }
}

pub fn claim(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    access_modes(&object["spec"], causes);
    let request = &["spec", "resources", "requests", "storage"];
    let now = size(object.at(request), "spec.resources[storage]", causes);
    let Some(old) = old else { return };
    // After creation the binder may set the volume's name and a user may grow the request.
    let freeze = |claim: &Value| {
        let mut spec = claim["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            map.remove("resources");
            map.remove("volumeAttributesClassName");
            if old.str_at(&["spec", "volumeName"]).is_empty() {
                map.remove("volumeName");
            }
            if old["spec"]["storageClassName"].is_null() {
                map.remove("storageClassName");
            }
        }
        spec
    };
    if freeze(object) != freeze(old) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        causes.push(Cause::forbidden("spec", detail));
    }
    let before = old.str_at(request).parse::<Quantity>().ok();
    if let (Some(now), Some(before)) = (now, before)
        && now < before
    {
        let detail = "field can not be less than previous value";
        causes.push(Cause::forbidden("spec.resources.requests.storage", detail));
    }
}

pub fn volume(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    access_modes(&object["spec"], causes);
    size(&object["spec"]["capacity"]["storage"], "spec.capacity[storage]", causes);
    let policies = &["Delete", "Recycle", "Retain"];
    let field = "spec.persistentVolumeReclaimPolicy";
    one_of(object, &["spec", "persistentVolumeReclaimPolicy"], field, policies, causes);
    let known = ["hostPath", "local", "nfs", "csi", "iscsi", "fc", "cephfs", "rbd"];
    let sources = object["spec"].as_object().map_or(0, |s| s.keys().filter(|k| known.contains(&k.as_str())).count());
    match sources {
        0 => causes.push(Cause::required("spec", "must specify a volume type")),
        1 => {}
        _ => causes.push(Cause::forbidden("spec", "may not specify more than 1 volume type")),
    }
    if !object["spec"]["local"].is_null() && object["spec"]["nodeAffinity"].is_null() {
        causes.push(Cause::required("spec.nodeAffinity", "Local volume requires node affinity"));
    }
    let affinity = Field::new(object.at(&["spec", "nodeAffinity", "required"]), "spec.nodeAffinity.required");
    if affinity.is_set() {
        placement::node_selector(&affinity, causes);
    }
    if let Some(old) = old {
        for source in known {
            if old["spec"][source] != object["spec"][source] {
                let detail = "spec.persistentvolumesource is immutable after creation";
                causes.push(Cause::forbidden("spec.persistentvolumesource", detail));
            }
        }
        if old["spec"]["volumeMode"] != object["spec"]["volumeMode"] {
            causes.push(Cause::invalid("spec.volumeMode", &object["spec"]["volumeMode"], IMMUTABLE));
        }
    }
}

/// Kinds of `storage.k8s.io`.
pub fn storage(plural: &str, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let root = Field::root(object);
    match plural {
        "storageclasses" => class(object, old, causes),
        "csidrivers" => {
            let spec = root.at("spec");
            spec.at("attachRequired").immutable(old, causes);
            spec.at("fsGroupPolicy").one_of(&["File", "None", "ReadWriteOnceWithFSType"], causes);
            for mode in spec.at("volumeLifecycleModes").items() {
                mode.one_of(&["Ephemeral", "Persistent"], causes);
            }
        }
        "csinodes" => {
            root.at("spec").at("drivers").unique("name", causes);
            for driver in root.at("spec").at("drivers").items() {
                driver.at("name").require("", causes);
                driver.at("nodeID").require("", causes);
            }
        }
        "csistoragecapacities" => {
            root.at("storageClassName").require("", causes);
            root.at("storageClassName").immutable(old, causes);
            root.at("nodeTopology").immutable(old, causes);
        }
        "volumeattachments" => {
            let spec = root.at("spec");
            spec.at("attacher").require("", causes);
            spec.at("nodeName").require("", causes);
            spec.at("source").one_member(&["persistentVolumeName", "inlineVolumeSpec"], "source", causes);
            spec.immutable(old, causes);
        }
        "volumeattributesclasses" => {
            root.at("driverName").require("", causes);
            root.at("driverName").immutable(old, causes);
            root.at("parameters").immutable(old, causes);
        }
        _ => {}
    }
}

fn class(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if object.str_at(&["provisioner"]).is_empty() {
        causes.push(Cause::required("provisioner", ""));
    }
    for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
        immutable(object, old, &[field], field, causes);
    }
    one_of(object, &["reclaimPolicy"], "reclaimPolicy", &["Delete", "Retain"], causes);
    let modes = &["Immediate", "WaitForFirstConsumer"];
    one_of(object, &["volumeBindingMode"], "volumeBindingMode", modes, causes);
}
