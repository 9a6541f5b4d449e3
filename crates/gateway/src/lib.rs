//! The Gateway API: its kinds ([`kinds`]), and the attachment of routes to listeners ([`GatewaySnapshot`]). The controller writes statuses and
//! every node's ingress serves by the same functions, so that they can't disagree. So it is with the annotations of Ingresses ([`nginx`]).

#![warn(missing_docs, clippy::missing_errors_doc)]

mod attach;
pub mod certificate;
pub mod kinds;
pub mod nginx;

pub use attach::{AttachedListener, GatewaySnapshot, Problem, RouteParent};

/// Our `controllerName` in GatewayClasses.
pub const CONTROLLER_NAME: &str = "timonel.io/gateway-controller";
