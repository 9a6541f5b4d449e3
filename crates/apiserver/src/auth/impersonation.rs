//! `Impersonate-*` headers: acting as somebody else, for those who may.

use apimachinery::Status;
use http::HeaderMap;

use super::{AUTHENTICATED, Attributes, UNAUTHENTICATED, User};
use crate::ApiServer;

const EXTRA: &str = "impersonate-extra-";
const ANONYMOUS: &str = "system:anonymous";
/// Where the rights to pose with a UID or an extra stand; users and groups are in the core group.
const GROUP: &str = "authentication.k8s.io";

/// Whom a request of `user` is made as. Each part of the other's identity takes a right of its own.
pub fn act(server: &ApiServer, headers: &HeaderMap, user: User) -> Result<User, Status> {
    let all = |name: &str| headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>();
    let extras: Vec<(String, &str)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix(EXTRA)?, value.to_str().ok()?)))
        .map(|(key, value)| (percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase(), value))
        .collect();
    let (names, groups, uids) = (all("impersonate-user"), all("impersonate-group"), all("impersonate-uid"));
    let Some(name) = names.first().copied().filter(|name| !name.is_empty()) else {
        return match groups.is_empty() && uids.is_empty() && extras.is_empty() {
            true => Ok(user),
            false => Err(Status::internal("requested a group, a UID or extras without impersonating a user")),
        };
    };
    let demand = |group: &str, resource: &str, namespace: &str, name: &str| {
        let wanted = Attributes { verb: "impersonate", group, resource, namespace, name, path: "" };
        super::demand(server, &user, &wanted)
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => demand("", "serviceaccounts", namespace, name)?,
        None => demand("", "users", "", name)?,
    }
    for group in &groups {
        demand("", "groups", "", group)?;
    }
    let mut target = match account {
        Some((namespace, name)) if groups.is_empty() => User::service_account(namespace, name, ""),
        _ => User::new(name, &groups),
    };
    if let Some(uid) = uids.first() {
        demand(GROUP, "uids", "", uid)?;
        target.uid = (*uid).into();
    }
    for (key, value) in extras {
        demand(GROUP, &format!("userextras/{key}"), "", value)?;
        match target.extra.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value.into()),
            None => target.extra.push((key, vec![value.into()])),
        }
    }
    let everybody = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !target.is_in(AUTHENTICATED) && !target.is_in(UNAUTHENTICATED) {
        target.groups.push(everybody.into());
    }
    Ok(target)
}
