//! The subresources that a kind has beside its objects.
//!
//! All but `status` and `scale` belong to built-in kinds by identity ([`Kind::id`]): a custom kind that is called `pods`
//! has no logs, and nobody opens a stream to a node by the rights to `nodes.example.com`.

use crate::Kind;
use crate::kinds::{CERTIFICATE_SIGNING_REQUESTS, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS, SERVICES};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    Status,
    Scale,
    Attach,
    Binding,
    EphemeralContainers,
    Resize,
    Eviction,
    Exec,
    Log,
    PortForward,
    PodProxy,
    ServiceProxy,
    NodeProxy,
    Token,
    Finalize,
    Approval,
}

const CHANGE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];
/// Streams are opened by GET (WebSocket) or POST (SPDY).
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

impl Subresource {
    /// What `kind` calls `name`, if it has such a subresource.
    pub fn of(kind: &Kind, name: &str) -> Option<Self> {
        Self::all(kind).into_iter().find(|s| s.name() == name)
    }

    /// The subresources of a kind, in the order in which discovery lists them.
    pub fn all(kind: &Kind) -> Vec<Self> {
        let own: &[Self] = match kind.id() {
            PODS => &[
                Self::Attach,
                Self::Binding,
                Self::EphemeralContainers,
                Self::Resize,
                Self::Eviction,
                Self::Exec,
                Self::Log,
                Self::PortForward,
                Self::PodProxy,
            ],
            SERVICES => &[Self::ServiceProxy],
            NODES => &[Self::NodeProxy],
            SERVICE_ACCOUNTS => &[Self::Token],
            NAMESPACES => &[Self::Finalize],
            CERTIFICATE_SIGNING_REQUESTS => &[Self::Approval],
            _ => &[],
        };
        let status = kind.has_status.then_some(Self::Status);
        let scale = kind.has_scale.then_some(Self::Scale);
        status.into_iter().chain(scale).chain(own.iter().copied()).collect()
    }

    /// As paths and rules of roles name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Attach => "attach",
            Self::Binding => "binding",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Eviction => "eviction",
            Self::Exec => "exec",
            Self::Log => "log",
            Self::PortForward => "portforward",
            Self::PodProxy | Self::ServiceProxy | Self::NodeProxy => "proxy",
            Self::Token => "token",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
        }
    }

    /// The verbs that it has, as discovery lists them.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status | Self::Scale | Self::EphemeralContainers | Self::Resize | Self::Approval => CHANGE,
            Self::Binding | Self::Eviction | Self::Token => CREATE,
            Self::Attach | Self::Exec | Self::PortForward => STREAM,
            Self::Log => &["get"],
            Self::Finalize => &["update"],
            Self::PodProxy | Self::ServiceProxy | Self::NodeProxy => PROXY,
        }
    }

    /// Whether a request with a verb may be sent to it. A proxy also passes on what no verb stands for.
    pub fn has(self, verb: &str) -> bool {
        self.verbs().contains(&verb) || (self.is_proxy() && verb.is_empty())
    }

    /// Group, version and kind of what is sent to it, where that isn't the object itself.
    pub fn body(self) -> Option<(&'static str, &'static str, &'static str)> {
        Some(match self {
            Self::Scale => ("autoscaling", "v1", "Scale"),
            Self::Attach => ("", "v1", "PodAttachOptions"),
            Self::Binding => ("", "v1", "Binding"),
            Self::Eviction => ("policy", "v1", "Eviction"),
            Self::Exec => ("", "v1", "PodExecOptions"),
            Self::PortForward => ("", "v1", "PodPortForwardOptions"),
            Self::PodProxy => ("", "v1", "PodProxyOptions"),
            Self::ServiceProxy => ("", "v1", "ServiceProxyOptions"),
            Self::NodeProxy => ("", "v1", "NodeProxyOptions"),
            Self::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
            _ => return None,
        })
    }

    pub fn is_proxy(self) -> bool {
        matches!(self, Self::PodProxy | Self::ServiceProxy | Self::NodeProxy)
    }

    /// Whether its bytes are passed on between the client and a kubelet, a pod or a service.
    pub fn is_stream(self) -> bool {
        self.is_proxy() || matches!(self, Self::Attach | Self::Exec | Self::Log | Self::PortForward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A custom kind with every subresource that it may have.
    fn custom(plural: &'static str) -> Kind {
        let built_in = crate::KINDS.iter().find(|k| k.plural == plural).unwrap();
        Kind { group: "example.com", custom: true, has_status: true, has_scale: true, ..*built_in }
    }

    #[test]
    fn custom_kinds_have_status_and_scale_alone_whatever_they_are_called() {
        for kind in crate::KINDS {
            assert_eq!(
                Subresource::all(&custom(kind.plural)),
                [Subresource::Status, Subresource::Scale],
                "{}",
                kind.plural
            );
            // Also one that is in the built-in group.
            let impostor = Kind { custom: true, has_status: false, has_scale: false, ..*kind };
            assert_eq!(Subresource::all(&impostor), [], "{}", kind.plural);
        }
        let pods = crate::find("", "v1", "pods").unwrap();
        assert_eq!(Subresource::of(pods, "proxy"), Some(Subresource::PodProxy));
        assert_eq!(Subresource::of(pods, "token"), None);
    }
}
