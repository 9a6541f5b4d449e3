//! The cluster's DNS on this node. Its sockets outlive the node's part: the parent process keeps them, so that who asks while the part is
//! started again waits for his answer, and isn't refused.

use std::sync::Arc;

use informer::Informers;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use parking_lot::Mutex;

use crate::part;

/// Bytes of questions that wait: some five thousand.
const WAITING: usize = 4 << 20;

const UDP: &str = "dns-udp";
const TCP: &str = "dns-tcp";

pub struct Names {
    config: dns::Config,
    informers: Informers,
    /// Once they are there.
    sockets: Mutex<Option<dns::Sockets>>,
}

impl Names {
    /// Takes over the sockets of the process before this one, if it had any.
    pub fn new(config: dns::Config, informers: Informers) -> Arc<Self> {
        let (mut udp, mut tcp) = (None, None);
        for (name, socket) in part::kept() {
            match name.as_str() {
                UDP => udp = Some(socket),
                TCP => tcp = Some(socket),
                _ => {}
            }
        }
        let sockets = udp.zip(tcp).and_then(|(udp, tcp)| dns::Sockets::from_fds(config.address, udp, tcp));
        Arc::new(Names { config, informers, sockets: Mutex::new(sockets) })
    }

    /// Serves until the process ends; returns if the address can't be had now.
    pub async fn serve(self: Arc<Self>) {
        match self.sockets() {
            Ok(sockets) => dns::run(self.config.clone(), sockets, self.informers.clone()).await,
            Err(error) => tracing::error!(%error, "the cluster's DNS isn't served on this node; it is tried again"),
        }
    }

    fn sockets(&self) -> Result<dns::Sockets, dns::BindError> {
        let mut known = self.sockets.lock();
        if let Some(sockets) = &*known {
            return Ok(sockets.clone());
        }
        let sockets = dns::Sockets::bind(self.config.address)?;
        if let Err(error) = setsockopt(&sockets.udp(), RcvBufForce, &WAITING) {
            tracing::debug!(%error, "few questions wait while the node's part is started again");
        }
        part::keep(&[(UDP.into(), sockets.udp()), (TCP.into(), sockets.tcp())]);
        *known = Some(sockets.clone());
        Ok(sockets)
    }
}
