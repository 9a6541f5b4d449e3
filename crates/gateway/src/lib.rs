//! The Gateway API: its kinds ([`kinds`]), and which routes attach to which listeners ([`World`]). The control plane tells of it in
//! statuses, every node's ingress serves by it; both ask here, so they can't disagree.

mod attach;
pub mod certificate;
pub mod kinds;

pub use attach::{Attached, Parent, Problem, World};

/// The controller that GatewayClasses name.
pub const CONTROLLER: &str = "timonel.io/gateway-controller";
