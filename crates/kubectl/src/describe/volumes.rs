//! Volumes of pods, claims, persistent volumes, storage classes.

use serde_json::Value;

use super::{Text, age, items, plain, text, title};
use crate::context::Context;
use crate::error::Result;
use crate::print::table::label_text;

/// The sources that most have: their field, what upstream calls them, and their members.
type Source = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const SOURCES: &[Source] = &[
    ("hostPath", "HostPath (bare host directory volume)", &[("Path", "path"), ("HostPathType", "type")]),
    (
        "emptyDir",
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
        &[("Medium", "medium"), ("SizeLimit", "sizeLimit")],
    ),
    ("secret", "Secret (a volume populated by a Secret)", &[("SecretName", "secretName"), ("Optional", "optional")]),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("Server", "server"), ("Path", "path"), ("ReadOnly", "readOnly")],
    ),
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName", "claimName"), ("ReadOnly", "readOnly")],
    ),
    ("local", "LocalVolume (a persistent volume backed by local storage on a node)", &[("Path", "path")]),
    ("image", "Image (a container image or OCI artifact)", &[("Reference", "reference"), ("PullPolicy", "pullPolicy")]),
];

pub fn of_pod(out: &mut Text, volumes: &Value, space: &str) {
    if items(volumes).is_empty() {
        return out.line(0, &format!("{space}Volumes:\t<none>"));
    }
    out.line(0, &format!("{space}Volumes:"));
    for volume in items(volumes) {
        let indent = if space.is_empty() { "" } else { " " };
        out.line(1, &format!("{indent}{}:", text(&volume["name"])));
        source(out, volume);
    }
}

fn source(out: &mut Text, volume: &Value) {
    if let Some((field, name, members)) = SOURCES.iter().find(|(field, ..)| volume[*field].is_object()) {
        out.field(2, "Type", name);
        for (label, member) in *members {
            let value = &volume[*field][*member];
            let unset = match (*field, *member) {
                (_, "sizeLimit") => "<unset>",
                (_, "readOnly" | "optional") => "false",
                _ => "",
            };
            out.field(2, label, &if value.is_null() { unset.to_string() } else { plain(value) });
        }
        return;
    }
    let map = &volume["configMap"];
    if map.is_object() {
        out.field(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
        out.field(2, "Name", text(&map["name"]));
        return out.field(2, "Optional", if map["optional"] == true { "true" } else { "false" });
    }
    let csi = &volume["csi"];
    if csi.is_object() {
        return self::csi(out, csi);
    }
    if volume["projected"].is_object() {
        return projected(out, &volume["projected"]);
    }
    if volume["downwardAPI"].is_object() {
        out.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
        out.line(2, "Items:");
        for item in items(&volume["downwardAPI"]["items"]) {
            let from = if item["fieldRef"].is_object() {
                &item["fieldRef"]["fieldPath"]
            } else {
                &item["resourceFieldRef"]["resource"]
            };
            out.line(3, &format!("{} -> {}", text(from), text(&item["path"])));
        }
        return;
    }
    let template = &volume["ephemeral"]["volumeClaimTemplate"];
    if template.is_object() {
        out.field(
            2,
            "Type",
            "EphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)",
        );
        out.field(2, "StorageClass", text(&template["spec"]["storageClassName"]));
        out.field(2, "Volume", "");
        out.labels("    Labels", &template["metadata"]["labels"]);
        out.annotations("    Annotations", &template["metadata"]["annotations"]);
        out.field(2, "Capacity", "");
        out.field(2, "Access Modes", "");
        return out.maybe(2, "VolumeMode", &template["spec"]["volumeMode"]);
    }
    out.line(1, "<unknown>");
}

fn csi(out: &mut Text, csi: &Value) {
    let is_persistent = csi["volumeHandle"].is_string();
    out.field(2, "Type", "CSI (a Container Storage Interface (CSI) volume source)");
    out.field(2, "Driver", text(&csi["driver"]));
    out.field(2, "FSType", text(&csi["fsType"]));
    if is_persistent {
        out.field(2, "VolumeHandle", text(&csi["volumeHandle"]));
    }
    out.field(2, "ReadOnly", if csi["readOnly"] == true { "true" } else { "false" });
    let attributes: Vec<String> =
        csi["volumeAttributes"].as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", plain(v))).collect();
    if attributes.is_empty() {
        return out.field(2, "VolumeAttributes", "<none>");
    }
    out.field(2, "VolumeAttributes", &format!("    {}", attributes.join("\n          \t    ")));
}

fn projected(out: &mut Text, projected: &Value) {
    out.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for source in items(&projected["sources"]) {
        if source["secret"].is_object() {
            out.field(2, "SecretName", text(&source["secret"]["name"]));
            out.field(2, "Optional", if source["secret"]["optional"] == true { "true" } else { "false" });
        } else if source["downwardAPI"].is_object() {
            out.field(2, "DownwardAPI", "true");
        } else if source["configMap"].is_object() {
            out.field(2, "ConfigMapName", text(&source["configMap"]["name"]));
            out.field(2, "Optional", if source["configMap"]["optional"] == true { "true" } else { "false" });
        } else if source["serviceAccountToken"].is_object() {
            out.field(2, "TokenExpirationSeconds", &plain(&source["serviceAccountToken"]["expirationSeconds"]));
        }
    }
}

fn modes(all: &Value) -> String {
    let short = |mode: &Value| match text(mode) {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    items(all).iter().map(short).collect::<Vec<_>>().join(",")
}

fn list(all: &Value) -> String {
    format!("[{}]", items(all).iter().map(text).collect::<Vec<_>>().join(" "))
}

fn status(out: &mut Text, object: &Value) {
    match &object["metadata"]["deletionTimestamp"] {
        Value::Null => out.field(0, "Status", text(&object["status"]["phase"])),
        at => out.field(0, "Status", &format!("Terminating (lasts {})", age(at))),
    }
}

pub async fn claim(cx: &Context, out: &mut Text, object: &Value) -> Result<()> {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    out.field(0, "Name", text(&metadata["name"]));
    out.field(0, "Namespace", text(&metadata["namespace"]));
    out.field(0, "StorageClass", text(&spec["storageClassName"]));
    status(out, object);
    out.field(0, "Volume", text(&spec["volumeName"]));
    out.labels("Labels", &metadata["labels"]);
    out.annotations("Annotations", &metadata["annotations"]);
    out.field(0, "Finalizers", &list(&metadata["finalizers"]));
    let bound = !text(&spec["volumeName"]).is_empty();
    out.field(0, "Capacity", &if bound { plain(&object["status"]["capacity"]["storage"]) } else { String::new() });
    out.field(0, "Access Modes", &if bound { modes(&object["status"]["accessModes"]) } else { String::new() });
    out.maybe(0, "VolumeMode", &spec["volumeMode"]);
    if spec["dataSource"].is_object() {
        out.line(0, "DataSource:");
        out.maybe(1, "APIGroup", &spec["dataSource"]["apiGroup"]);
        out.field(1, "Kind", text(&spec["dataSource"]["kind"]));
        out.field(1, "Name", text(&spec["dataSource"]["name"]));
    }
    let pods = cx.get(&format!("/api/v1/namespaces/{}/pods", text(&metadata["namespace"]))).await?;
    let uses = |pod: &&Value| {
        items(&pod["spec"]["volumes"]).iter().any(|v| v["persistentVolumeClaim"]["claimName"] == metadata["name"])
    };
    let mut users: Vec<&str> =
        items(&pods["items"]).iter().filter(uses).map(|p| text(&p["metadata"]["name"])).collect();
    users.sort_unstable();
    out.field(0, "Used By", &if users.is_empty() { "<none>".into() } else { users.join("\n\t") });
    Ok(())
}

pub fn claim_templates(out: &mut Text, templates: &Value) {
    if items(templates).is_empty() {
        return out.field(0, "Volume Claims", "<none>");
    }
    out.line(0, "Volume Claims:");
    for claim in items(templates) {
        out.field(1, "Name", text(&claim["metadata"]["name"]));
        out.field(1, "StorageClass", text(&claim["spec"]["storageClassName"]));
        out.field(1, "Labels", &label_text(&claim["metadata"]["labels"], "\n  \t"));
        out.field(1, "Annotations", &label_text(&claim["metadata"]["annotations"], "\n  \t"));
        let size = &claim["spec"]["resources"]["requests"]["storage"];
        out.field(1, "Capacity", &if size.is_null() { "<default>".into() } else { plain(size) });
        out.field(1, "Access Modes", &list(&claim["spec"]["accessModes"]));
    }
}

pub fn volume(out: &mut Text, object: &Value) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    out.head(object, false);
    out.field(0, "Finalizers", &list(&metadata["finalizers"]));
    out.field(0, "StorageClass", text(&spec["storageClassName"]));
    status(out, object);
    let claim = &spec["claimRef"];
    out.field(
        0,
        "Claim",
        &if claim.is_object() {
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
        } else {
            String::new()
        },
    );
    out.field(0, "Reclaim Policy", text(&spec["persistentVolumeReclaimPolicy"]));
    out.field(0, "Access Modes", &modes(&spec["accessModes"]));
    out.maybe(0, "VolumeMode", &spec["volumeMode"]);
    out.field(0, "Capacity", &plain(&spec["capacity"]["storage"]));
    affinity(out, &spec["nodeAffinity"]);
    out.field(0, "Message", text(&object["status"]["message"]));
    out.line(0, "Source:");
    source(out, spec);
}

fn affinity(out: &mut Text, affinity: &Value) {
    if !affinity.is_object() {
        return out.field(0, "Node Affinity", "<none>");
    }
    out.line(0, "Node Affinity:");
    let terms = items(&affinity["required"]["nodeSelectorTerms"]);
    if terms.is_empty() {
        return out.field(1, "Required Terms", "<none>");
    }
    out.line(1, "Required Terms:  ");
    for (i, term) in terms.iter().enumerate() {
        let all = items(&term["matchExpressions"]).iter().map(|e| {
            let values = items(&e["values"]).iter().map(text).collect::<Vec<_>>().join(", ");
            let values = if values.is_empty() { String::new() } else { format!(" [{values}]") };
            format!("{} {}{values}", text(&e["key"]), text(&e["operator"]).to_lowercase())
        });
        let all: Vec<String> = all.collect();
        out.line(2, &format!("Term {i}:\t{}", if all.is_empty() { "<none>".into() } else { all.join("\n    \t") }));
    }
}

pub fn class(out: &mut Text, object: &Value) {
    let metadata = &object["metadata"];
    out.field(0, "Name", text(&metadata["name"]));
    let default = metadata["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    out.field(0, "IsDefaultClass", if default { "Yes" } else { "No" });
    out.field(0, "Annotations", &label_text(&metadata["annotations"], ","));
    out.field(0, "Provisioner", text(&object["provisioner"]));
    out.field(0, "Parameters", &label_text(&object["parameters"], ","));
    out.field(0, "AllowVolumeExpansion", object["allowVolumeExpansion"].as_bool().map_or("<unset>", title));
    if items(&object["mountOptions"]).is_empty() {
        out.field(0, "MountOptions", "<none>");
    } else {
        out.line(0, "MountOptions:");
        items(&object["mountOptions"]).iter().for_each(|o| out.line(1, text(o)));
    }
    out.maybe(0, "ReclaimPolicy", &object["reclaimPolicy"]);
    out.maybe(0, "VolumeBindingMode", &object["volumeBindingMode"]);
}
