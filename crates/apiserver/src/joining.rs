//! Joining: which machine has which node name.
//!
//! A machine generates a password once, and claims its name with it: `POST /timonel/join/NAME`, the password in a header. The
//! first that claims a name has it, as long as there is a Node of that name; a salted hash of its password is kept in a Secret of
//! kube-system (`NAME.node-password.timonel`), as k3s does. A machine with the join token gets a ticket for the name, with which it may
//! request a certificate for some minutes: its requests have the name as an extra of their user, and the signer issues the certificate of
//! an existing Node to no other.

use std::sync::Arc;

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::request::Parts;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::ApiServer;
use crate::authentication::{BOOTSTRAPPERS, NODES, User, ticket};
use crate::pipeline::WriteRequest;
use crate::registry::{Filter, object_key};
use crate::request::DeleteOptions;

pub use crate::authentication::ticket::NODE_NAME;

/// The header with a machine's password.
pub const PASSWORD: &str = "timonel-node-password";
/// A password has 32 digits.
const MAX_PASSWORD_BYTES: usize = 256;
const PATH: &str = "/timonel/join/";
const NAMESPACE: &str = "kube-system";
/// Behind a node's name, for the Secret with the hash of its password.
const SUFFIX: &str = ".node-password.timonel";
/// How many names are remembered that there is no Node of: more than machines join at once.
const MAX_UNUSED_NAMES: usize = 500;

/// Answers `POST /timonel/join/NAME`: with a ticket for a machine that has no certificate yet. None for other paths.
pub async fn answer(server: &Arc<ApiServer>, user: &User, request: &Parts) -> Option<Result<String, Status>> {
    let name = request.uri.path().strip_prefix(PATH)?;
    if request.method != Method::POST {
        return Some(Err(Status::method_not_allowed()));
    }
    Some(join(server, user, request, name).await)
}

async fn join(server: &Arc<ApiServer>, user: &User, request: &Parts, name: &str) -> Result<String, Status> {
    if apimachinery::names::dns1123_subdomain(name).is_err() {
        return Err(Status::bad_request(format!("{name:?} can't be a node's name")));
    }
    let is_node = user.is_in(NODES) && user.name.strip_prefix("system:node:") == Some(name);
    if !is_node && !user.is_in(BOOTSTRAPPERS) {
        let why = "only a node itself, or who has the token for joining, may claim its name";
        return Err(kinds::NODES.forbidden(name, why));
    }
    let password = request.headers.get(PASSWORD).and_then(|v| v.to_str().ok()).unwrap_or("");
    if password.len() < 16 || password.len() > MAX_PASSWORD_BYTES {
        return Err(Status::bad_request(format!("the header {PASSWORD} must have the machine's password")));
    }
    claim(server, name, password, false).await?;
    if is_node {
        return Ok(String::new());
    }
    ticket::issue(server, name)
}

fn hash(salt: &str, password: &str) -> String {
    pki::sha256_hex(format!("{salt}:{password}").as_bytes())
}

/// Gives a node name to the server's own machine, also if another has it: its password may be lost where the database was restored.
///
/// # Errors
/// When it can't be written down.
pub async fn take(server: &Arc<ApiServer>, name: &str, password: &str) -> Result<(), Status> {
    claim(server, name, password, true).await
}

/// A client with the token may claim any number of names. Of those without a Node, which any machine may claim, the newest are remembered.
async fn forget_unused(server: &Arc<ApiServer>) {
    let (secrets, nodes) = (server.cache.of(kinds::SECRETS), server.cache.of(kinds::NODES));
    let filter = Filter { namespace: NAMESPACE.into(), ..Filter::default() };
    let mut unused = secrets.list(&filter).0;
    unused.retain(|entry| {
        let name = entry.key.rsplit('/').next().and_then(|name| name.strip_suffix(SUFFIX));
        name.is_some_and(|name| nodes.get(name).is_none())
    });
    unused.sort_by_key(|entry| entry.revision);
    let surplus = (unused.len() + 1).saturating_sub(MAX_UNUSED_NAMES);
    for entry in unused.iter().take(surplus) {
        let name = entry.key.rsplit('/').next().unwrap_or("");
        let unchanged = DeleteOptions { resource_version: entry.revision.to_string(), ..DeleteOptions::default() };
        // Another claim may have been here first.
        let _ = WriteRequest::by_server(server, kinds::SECRETS, NAMESPACE, name).delete(&unchanged).await;
    }
}

/// Gives a node name to a machine, unless another machine has it.
async fn claim(server: &Arc<ApiServer>, name: &str, password: &str, takes: bool) -> Result<(), Status> {
    // Of two at once, the second sees the claim of the first when it tries again.
    for _ in 0..3 {
        match try_claim(server, name, password, takes).await {
            Err(status) if status.code == 409 => {}
            done => return done,
        }
    }
    Err(kinds::NODES.forbidden(name, "another machine claims the name at this moment"))
}

async fn try_claim(server: &Arc<ApiServer>, name: &str, password: &str, takes: bool) -> Result<(), Status> {
    let secret_name = format!("{name}{SUFFIX}");
    let key = object_key(NAMESPACE, &secret_name);
    let secrets = kinds::SECRETS;
    let present = server.cache.of(secrets).get(&key);
    if let Some(entry) = &present {
        let object = entry.parse();
        let kept = STANDARD.decode(object.str_at(&["data", "hash"])).unwrap_or_default();
        let kept = String::from_utf8(kept).unwrap_or_default();
        let (salt, kept) = kept.split_once(':').unwrap_or_default();
        if bool::from(hash(salt, password).as_bytes().ct_eq(kept.as_bytes())) {
            return Ok(());
        }
        // Without a Node the name is free again.
        if !takes && server.cache.of(kinds::NODES).get(name).is_some() {
            let why = format!(
                "another machine has this name: choose another with --node-name; if it was this machine before it was installed anew, or if the other is gone for good, say on the server: kubectl delete node {name}"
            );
            return Err(kinds::NODES.forbidden(name, &why));
        }
    }
    let salt = pki::random_secret();
    let value = STANDARD.encode(format!("{salt}:{}", hash(&salt, password)));
    let write = WriteRequest::by_server(server, secrets, NAMESPACE, &secret_name);
    match present {
        Some(entry) => {
            let present = entry.parse();
            let update = write.update(|current| {
                let mut new = current.clone();
                new["data"]["hash"] = value.as_str().into();
                // Not over the claim of another machine that came meanwhile.
                new.set_meta("resourceVersion", present.resource_version());
                Ok(new)
            });
            update.await.map(|_| ())
        }
        None => {
            forget_unused(server).await;
            let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {"name": secret_name, "namespace": NAMESPACE}, "data": {"hash": value}});
            write.create(object).await.map(|_| ())
        }
    }
}
