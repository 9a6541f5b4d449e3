//! `CSIDriver`: how a storage driver wants to be called.

use serde_json::{Value, json};

use super::GROUP;
use crate::defaults::{default, default_list, spec};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    strategy: Strategy { defaults, validate, ..Strategy::PLAIN },
    ..Kind::cluster(GROUP, "v1", "CSIDriver", "csidrivers")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "attachRequired", || json!(true));
    default(spec, "podInfoOnMount", || json!(false));
    default(spec, "storageCapacity", || json!(false));
    default(spec, "fsGroupPolicy", || json!("ReadWriteOnceWithFSType"));
    default_list(spec, "volumeLifecycleModes", || json!(["Persistent"]));
    default(spec, "requiresRepublish", || json!(false));
    default(spec, "seLinuxMount", || json!(false));
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    spec.at("attachRequired").immutable(old, causes);
    spec.at("fsGroupPolicy").one_of(&["File", "None", "ReadWriteOnceWithFSType"], causes);
    for mode in spec.at("volumeLifecycleModes").items() {
        mode.one_of(&["Ephemeral", "Persistent"], causes);
    }
}
