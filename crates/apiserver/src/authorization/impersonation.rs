//! Impersonation: a request acts as another user (`Impersonate-*` headers), if its own user may.

use api::kinds;
use apimachinery::Status;
use http::HeaderMap;

use super::Attributes;
use crate::ApiServer;
use crate::authentication::{AUTHENTICATED, UNAUTHENTICATED, User};

const PREFIX: &str = "impersonate-";
const ANONYMOUS: &str = "system:anonymous";
/// The API group of the rights to impersonate a UID or an extra; users and groups are in the core group.
const GROUP: &str = "authentication.k8s.io";

/// The user that a request wants to act as.
#[derive(Default)]
struct Wanted {
    name: Option<String>,
    groups: Vec<String>,
    uid: Option<String>,
    extra: Vec<(String, String)>,
}

impl Wanted {
    /// Reads the headers. One that can't be read, or can't be kept to, is an error: a request that is not to be made
    /// with all rights must never be made with them by mistake.
    fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let refuse = |name: &str, why: &str| Err(Status::bad_request(format!("the header {name} {why}")));
        let mut wanted = Wanted::default();
        for (name, value) in headers {
            let Some(what) = name.as_str().strip_prefix(PREFIX) else { continue };
            let Ok(value) = std::str::from_utf8(value.as_bytes()).map(String::from) else {
                return refuse(name.as_str(), "is not valid UTF-8");
            };
            match what {
                "user" | "uid" if value.is_empty() => return refuse(name.as_str(), "is empty"),
                "user" if wanted.name.is_some() => return refuse(name.as_str(), "is there more than once"),
                "uid" if wanted.uid.is_some() => return refuse(name.as_str(), "is there more than once"),
                "user" => wanted.name = Some(value),
                "uid" => wanted.uid = Some(value),
                "group" => wanted.groups.push(value),
                _ => match what.strip_prefix("extra-").filter(|key| !key.is_empty()) {
                    Some(key) => {
                        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
                        wanted.extra.push((key, value));
                    }
                    None => return refuse(name.as_str(), "is not known"),
                },
            }
        }
        Ok(wanted)
    }
}

/// The user that a request of `user` acts as. Each part of that identity takes a right of its own.
///
/// # Errors
/// 400 for headers that can't be read, 403 without one of the rights, 500 (as upstream) for groups without a user.
pub fn impersonate(server: &ApiServer, headers: &HeaderMap, user: User) -> Result<User, Status> {
    let Wanted { name, groups, uid, extra } = Wanted::read(headers)?;
    let Some(name) = name else {
        return match groups.is_empty() && uid.is_none() && extra.is_empty() {
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
        Some((namespace, name)) => demand("", kinds::SERVICE_ACCOUNTS.plural(), namespace, name)?,
        None => demand("", "users", "", &name)?,
    }
    for group in &groups {
        demand("", "groups", "", group)?;
    }
    let mut target = match account {
        Some((namespace, name)) if groups.is_empty() => User::service_account(namespace, name, ""),
        _ => User { name: name.clone(), groups, ..User::default() },
    };
    if let Some(uid) = uid {
        demand(GROUP, "uids", "", &uid)?;
        target.uid = uid;
    }
    for (key, value) in extra {
        demand(GROUP, &format!("userextras/{key}"), "", &value)?;
        match target.extra.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => target.extra.push((key, vec![value])),
        }
    }
    let everybody = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !target.is_in(AUTHENTICATED) && !target.is_in(UNAUTHENTICATED) {
        target.groups.push(everybody.into());
    }
    Ok(target)
}
