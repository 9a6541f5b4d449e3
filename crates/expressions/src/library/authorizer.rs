//! `authorizer.group('apps').resource('deployments').namespace('x').check('create').allowed()`.

use std::fmt;
use std::sync::Arc;

use cel::common::types::{CelBool, CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::{DeclarationError, Env, add_member_overload};

use super::function::opaque;

/// What the authorizer is asked about (upstream's `authorizer.Attributes`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// For requests that are for no resource.
    pub path: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural of the kind.
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Empty for all namespaces, and for kinds without one.
    pub namespace: String,
    /// Empty for all objects.
    pub name: String,
    /// What is to be done: `get`, `create`, …
    pub verb: String,
    /// Namespace and name of the service account that is asked about, instead of who asks.
    pub service_account: Option<(String, String)>,
}

type Ask = dyn Fn(&Attributes) -> Result<(), String> + Send + Sync;

static AUTHORIZER: Type = Type::new_unspecified_type("kubernetes.authorization.Authorizer");

/// Answers whether a user may do something: `Ok`, or the reason why not.
#[derive(Clone)]
pub struct Authorizer {
    ask: Arc<Ask>,
    attributes: Attributes,
}

impl Authorizer {
    /// An authorizer that asks `ask`, about nothing yet.
    pub fn new(ask: impl Fn(&Attributes) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Authorizer { ask: Arc::new(ask), attributes: Attributes::default() }
    }

    /// An authorizer that is already about a resource, as `authorizer.requestResource` is.
    pub fn about(&self, attributes: Attributes) -> Self {
        Authorizer { ask: self.ask.clone(), attributes }
    }

    fn with(&self, set: impl FnOnce(&mut Attributes)) -> Self {
        let mut next = self.clone();
        set(&mut next.attributes);
        next
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorizer").field(&self.attributes).finish()
    }
}

impl Val for Authorizer {
    fn get_type(&self) -> &Type {
        &AUTHORIZER
    }
    fn cel_type() -> &'static Type {
        &AUTHORIZER
    }
    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Authorizer>().is_some_and(|o| o.attributes == self.attributes)
    }
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}
impl StaticVal for Authorizer {}

opaque!(Decision(Result<(), String>), DECISION = "kubernetes.authorization.Decision");

macro_rules! setter {
    ($name:ident) => {
        fn $name(of: &Authorizer, text: &CelString<'_>) -> Authorizer {
            of.with(|a| a.$name = text.inner().to_string())
        }
    };
}
setter!(path);
setter!(group);
setter!(resource);
setter!(subresource);
setter!(namespace);
setter!(name);

fn service_account(of: &Authorizer, namespace: &CelString<'_>, name: &CelString<'_>) -> Authorizer {
    of.with(|a| a.service_account = Some((namespace.inner().to_string(), name.inner().to_string())))
}

fn check(of: &Authorizer, verb: &CelString<'_>) -> Decision {
    let attributes = of.with(|a| a.verb = verb.inner().to_string()).attributes;
    Decision((of.ask)(&attributes))
}

fn allowed(of: &Decision) -> CelBool {
    of.0.is_ok().into()
}

fn reason(of: &Decision) -> CelString<'static> {
    of.0.clone().err().unwrap_or_default().into()
}

pub fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(AUTHORIZER.to_owned())?;
    env.add_type(DECISION.to_owned())?;
    add_member_overload!(env, fn path: (Authorizer, CelString) -> Authorizer)?;
    add_member_overload!(env, fn group: (Authorizer, CelString) -> Authorizer)?;
    add_member_overload!(env, fn resource: (Authorizer, CelString) -> Authorizer)?;
    add_member_overload!(env, fn subresource: (Authorizer, CelString) -> Authorizer)?;
    add_member_overload!(env, fn namespace: (Authorizer, CelString) -> Authorizer)?;
    add_member_overload!(env, fn name: (Authorizer, CelString) -> Authorizer)?;
    add_member_overload!(env, fn service_account: (Authorizer, CelString, CelString) -> Authorizer)?;
    add_member_overload!(env, fn check: (Authorizer, CelString) -> Decision)?;
    add_member_overload!(env, fn allowed: (Decision) -> CelBool)?;
    add_member_overload!(env, fn reason: (Decision) -> CelString)
}
