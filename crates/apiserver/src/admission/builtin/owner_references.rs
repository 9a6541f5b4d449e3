//! OwnerReferencesPermissionEnforcement: who may set owner references, and block the deletion of owners.

use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use super::super::AdmissionAttributes;
use crate::ApiServer;
use crate::authentication::User;
use crate::authorization::{self, Attributes};

/// To change the owners of what there is takes the right to delete it, and to
/// block an owner's deletion the right to update the owner's finalizers.
///
/// # Errors
/// 403 without these rights.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    let kind = attributes.kind;
    let references = |object: &Value| object.array_at(&["metadata", "ownerReferences"]).to_vec();
    let (new, old) = (references(object), attributes.old.map(references).unwrap_or_default());
    if new == old {
        return Ok(());
    }
    let refuse = |why: String| Err(kind.forbidden(attributes.name, &why));
    let may = |user: &User, wanted: Attributes<'_>| authorization::allows(server, user, &wanted);
    let (namespace, name) = (attributes.namespace, attributes.name);
    if attributes.old.is_some() {
        let wanted =
            Attributes { verb: "delete", group: kind.group, resource: kind.plural(), namespace, name, path: "" };
        if !may(attributes.user, wanted) {
            return refuse("cannot set an ownerRef on a resource you can't delete".into());
        }
    }
    for owner in new.iter().filter(|o| o["blockOwnerDeletion"] == true && !old.contains(o)) {
        let (group, version) =
            owner.str_at(&["apiVersion"]).rsplit_once('/').unwrap_or(("", owner.str_at(&["apiVersion"])));
        let known = server.catalog.kinds();
        let Some(of) = known.iter().find(|k| k.group == group && k.version == version && k.kind == owner["kind"])
        else {
            return refuse(format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {group} Kind {}",
                owner["kind"]
            ));
        };
        let resource = format!("{}/finalizers", of.plural());
        let namespace = if of.namespaced { namespace } else { "" };
        let wanted = Attributes {
            verb: "update",
            group,
            resource: &resource,
            namespace,
            name: owner.str_at(&["name"]),
            path: "",
        };
        if !may(attributes.user, wanted) {
            return refuse(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
                    .into(),
            );
        }
    }
    Ok(())
}
