//! Puts the control plane's parts together in one process.

use std::sync::Arc;

use apiserver::{ApiServer, User};
use informer::Informers;
use kube::Client;
use pki::{Authority, TokenKey};

use crate::cli::ServerArgs;

/// A client for a component of this process, which acts as `user`: no network, no TLS, same rules.
pub fn client(api: &Arc<ApiServer>, user: User) -> Client {
    Client::new(api.in_process(user), "default")
}

/// Starts controllers and scheduler. They end with the process; what they do is safe to
/// break off anywhere.
pub fn start_control_plane(
    api: &Arc<ApiServer>,
    args: &ServerArgs,
    authority: &Arc<Authority>,
    token_key: &Arc<TokenKey>,
) {
    let component = |name: &str| Informers::new(client(api, User::new(name, &["system:authenticated"])));
    let managers = component("system:kube-controller-manager");
    let config = controllers::Config {
        authority: authority.clone(),
        token_key: token_key.clone(),
        cluster_cidr: args.cluster_cidr.clone(),
        service_cidr: args.service_cidr.clone(),
        api_names: args.tls_sans.clone(),
        node_cidr_mask_size: args.node_cidr_mask_size,
        local_storage: !args.disable.iter().any(|d| d == "local-storage"),
        snapshots: !args.disable.iter().any(|d| d == "snapshots"),
        ingress: !args.disable.iter().any(|d| d == "ingress"),
        service_lb: !args.disable.iter().any(|d| d == "servicelb"),
        api_port: args.https_listen_port.into(),
    };
    controllers::start(config, managers.clone());
    // The scheduler reads the controllers' caches, so that each kind is decoded once in this process.
    scheduler::start(&args.scheduler_config.clone().unwrap_or_default(), &managers);
}
