//! Why the network can't be set up.

/// Why the network can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what} failed: {source}")]
    /// A request of netlink failed.
    Netlink {
        /// What failed.
        what: String,
        /// The error of netlink.
        source: rtnetlink::Error,
    },
    #[error("{what} failed")]
    /// A system call failed.
    System {
        /// What failed.
        what: String,
        /// The error of the system call.
        source: std::io::Error,
    },
    #[error("there is no interface {0}")]
    /// The interface doesn't exist.
    NoLink(String),
    #[error(
        "the cluster has IPv6 addresses and this machine has IPv6 switched off: set the sysctl net.ipv6.conf.all.disable_ipv6 to 0, or leave the IPv6 range out of --cluster-cidr and --service-cidr"
    )]
    /// IPv6 is requested and disabled.
    NoIpv6,
}

pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.into();
    |source| NetworkError::Netlink { what, source }
}

pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let what = what.into();
    |source| NetworkError::System { what, source }
}

/// An error of the request itself, which isn't sent to the kernel.
pub(crate) fn invalid(what: &str, why: impl std::fmt::Display) -> NetworkError {
    NetworkError::System { what: what.into(), source: std::io::Error::other(why.to_string()) }
}
