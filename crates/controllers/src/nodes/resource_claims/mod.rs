//! Claims of devices (KEP-4381; upstream's `pkg/controller/resourceclaim`): those of templates are made for their pods ([`of_pods`]), and what no pod
//! uses any more is given back ([`unused`]).

mod of_pods;
mod unused;

use informer::Pod;

use crate::toolkit::{Context, pods};

pub fn start(context: Context) {
    of_pods::start(context.clone());
    unused::start(context);
}

/// Whether a pod won't use devices any more: it has ended, or is deleted before it had a node.
fn is_done(pod: &Pod) -> bool {
    let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    pod.is_over() || (pods::is_deleting(pod) && !has_node)
}
