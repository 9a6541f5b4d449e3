//! The server's certificates are renewed while it runs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pki::ManagedCertificate;

/// How often they are looked at; clocks jump.
const CHECK_PERIOD: Duration = Duration::from_secs(60);

type OnRenewed = Box<dyn Fn() -> anyhow::Result<()> + Send + Sync>;

/// Certificates, each with what is to be done once it is renewed.
pub struct Renewal {
    pub certificates: Vec<(ManagedCertificate, Option<OnRenewed>)>,
}

impl Renewal {
    /// Renews what it is time for, for as long as the process lives.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.look();
            tokio::time::sleep(CHECK_PERIOD).await;
        }
    }

    fn look(&self) {
        for (kept, after) in &self.certificates {
            let renewed = match kept.renew() {
                Ok(false) => continue,
                Ok(true) => after.as_ref().map_or(Ok(()), |after| after()),
                Err(error) => Err(error.into()),
            };
            match renewed {
                Ok(()) => tracing::info!(certificate = kept.file(), "renewed a certificate"),
                Err(error) => {
                    tracing::error!(
                        certificate = kept.file(),
                        error = format!("{error:#}"),
                        "failed to renew a certificate"
                    )
                }
            }
        }
    }
}

/// The addresses that the server had before and this machine still has: who knows it by one of them isn't cut off when `--node-ip`
/// names another.
pub fn former_addresses(certificate: &Path, names: &[String]) -> Vec<String> {
    former(certificate, names, &own_addresses())
}

fn former(certificate: &Path, names: &[String], own: &HashSet<IpAddr>) -> Vec<String> {
    let facts =
        bounded::text(certificate, bounded::MAX_OWN_FILE_BYTES).ok().and_then(|pem| pki::parse_certificate(&pem).ok());
    let before = facts.into_iter().flat_map(|facts| facts.names);
    before.filter(|name| !names.contains(name) && name.parse().is_ok_and(|ip: IpAddr| own.contains(&ip))).collect()
}

fn own_addresses() -> HashSet<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    let ip = |address: nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(v4.ip().into()),
            (_, Some(v6)) => Some(v6.ip().into()),
            _ => None,
        }
    };
    addresses.filter_map(ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_the_machine_still_has_stays_in_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let authority = pki::Authority::load_or_create(dir.path(), "ca").unwrap();
        let names = ["localhost", "192.0.2.1", "192.0.2.2"].map(String::from);
        authority.load_or_issue(dir.path(), "apiserver", "a", None, &[pki::Usage::Server], &names).unwrap();
        let own = ["192.0.2.2", "192.0.2.3"].map(|ip| ip.parse().unwrap()).into();
        let wanted = ["localhost".to_string(), "192.0.2.3".to_string()];
        assert_eq!(former(&dir.path().join("apiserver.crt"), &wanted, &own), ["192.0.2.2"]);
        assert!(former(&dir.path().join("none.crt"), &wanted, &own).is_empty());
        assert!(own_addresses().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
