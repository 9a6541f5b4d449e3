//! Kinds of `networking.k8s.io`.

pub(crate) mod ingress;
pub(crate) mod ingress_class;
pub(crate) mod ip_address;
pub(crate) mod network_policy;
pub(crate) mod service_cidr;

const GROUP: &str = "networking.k8s.io";

table! {
    INGRESSES = ingress;
    INGRESS_CLASSES = ingress_class;
    IP_ADDRESSES = ip_address;
    NETWORK_POLICIES = network_policy;
    SERVICE_CIDRS = service_cidr;
}
