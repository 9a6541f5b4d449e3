//! Controllers of services, and of requests from outside.

pub mod endpoints;
pub mod gateway;
pub mod ingress;
pub mod service_lb;
