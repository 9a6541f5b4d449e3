//! The functions that expressions can call: the language's own, and Kubernetes' libraries for addresses, authorization, formats, lists,
//! quantities, regular expressions, URLs and versions.

mod addresses;
mod authorizer;
mod format;
mod function;
mod lists;
pub(crate) mod loops;
mod quantity;
mod texts;
mod urls;
mod versions;

use cel::{DeclarationError, Env, extensions};

use crate::macros;

pub use authorizer::{Attributes, Authorizer};
pub(crate) use format::NAMES as FORMATS;
pub(crate) use quantity::amount;
pub use texts::regular;
pub(crate) use versions::version;

/// Whether a name is that of a type, which expressions may compare with.
pub fn is_type(name: &str) -> bool {
    matches!(
        name,
        "int"
            | "uint"
            | "double"
            | "string"
            | "bytes"
            | "bool"
            | "list"
            | "map"
            | "null_type"
            | "type"
            | "optional_type"
            | "google.protobuf.Timestamp"
            | "google.protobuf.Duration"
            | "net.IP"
            | "net.CIDR"
            | "kubernetes.URL"
            | "kubernetes.Quantity"
            | "kubernetes.Semver"
    )
}

/// Whether objects of a type may be made: those that mutating policies return.
pub fn is_made_type(name: &str) -> bool {
    name == "Object" || name.starts_with("Object.") || name == "JSONPatch"
}

/// The language with all its libraries.
pub fn environment() -> Env {
    let mut env = Env::stdlib();
    let declared = declare(&mut env);
    // Two overloads that collide are a mistake in this file, which every test of this crate would show.
    assert!(declared.is_ok(), "CEL's libraries collide: {declared:?}");
    env
}

fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    extensions::strings(env)?;
    extensions::lists(env)?;
    macros::declare(env)?;
    loops::declare(env)?;
    texts::declare(env)?;
    format::declare(env)?;
    addresses::declare(env)?;
    urls::declare(env)?;
    versions::declare(env)?;
    lists::declare(env)?;
    quantity::declare(env)?;
    authorizer::declare(env)
}
