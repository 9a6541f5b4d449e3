//! The subresources that a kind can declare ([`Kind::subresources`](super::Kind::subresources)).
//!
//! A custom kind can declare `status` and `scale` alone ([`CustomKind`](super::CustomKind)): one that is called `pods`
//! has no logs, and nobody opens a stream to a node by the rights to `nodes.example.com`.

/// A part of an object, or an action on one, with a path of its own below that of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// `status`, of any kind that has one.
    Status,
    /// `scale`: the number of replicas, as an `autoscaling/v1` Scale.
    Scale,
    /// `attach` of pods: the streams of a container's own process.
    Attach,
    /// `binding` of pods: the node that the scheduler has chosen.
    Binding,
    /// `ephemeralcontainers` of pods.
    EphemeralContainers,
    /// `resize` of pods: what their containers may use (KEP-1287).
    Resize,
    /// `eviction` of pods: a deletion that disruption budgets may refuse.
    Eviction,
    /// `exec` of pods: a command in a container.
    Exec,
    /// `log` of pods.
    Log,
    /// `portforward` of pods.
    PortForward,
    /// `proxy` of pods.
    PodProxy,
    /// `proxy` of services.
    ServiceProxy,
    /// `proxy` of nodes: their kubelet's own API.
    NodeProxy,
    /// `token` of service accounts: a TokenRequest.
    Token,
    /// `finalize` of namespaces: `spec.finalizers`.
    Finalize,
    /// `approval` of CertificateSigningRequests: their conditions.
    Approval,
}

const CHANGE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];
/// Streams are opened by GET (WebSocket) or POST (SPDY).
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

impl Subresource {
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

    /// Whether it passes requests on to a pod, a service or a node.
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
    use crate::Kind;
    use crate::kinds::CustomKind;

    #[test]
    fn custom_kinds_have_status_and_scale_alone_whatever_they_are_called() {
        for kind in crate::KINDS {
            for (status, scale, want) in [
                (false, false, &[][..]),
                (true, false, &[Subresource::Status]),
                (false, true, &[Subresource::Scale]),
                (true, true, &[Subresource::Status, Subresource::Scale]),
            ] {
                // Also one that is in the built-in group.
                for group in ["example.com", kind.group] {
                    let custom = Kind::custom(CustomKind {
                        group,
                        version: kind.version,
                        kind: kind.kind,
                        plural: kind.plural(),
                        short_names: kind.short_names,
                        categories: kind.categories,
                        namespaced: kind.namespaced,
                        selectable: kind.selectable,
                        status,
                        scale,
                    });
                    assert_eq!(custom.subresources(), want, "{kind:?}");
                    assert_ne!(custom, *kind);
                }
            }
        }
        assert_eq!(crate::kinds::PODS.subresource("proxy"), Some(Subresource::PodProxy));
        assert_eq!(crate::kinds::PODS.subresource("token"), None);
    }
}
