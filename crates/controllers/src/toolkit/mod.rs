//! What the loops have in common. It knows no loop.

pub mod adoption;
pub mod conditions;
pub mod controller;
pub mod definitions;
pub mod discovery;
pub mod dynamic;
pub mod failures;
pub mod nodes;
pub mod pods;
pub mod status;

use std::sync::Arc;

use informer::{Informers, Recorder};
use kube::Client;

use crate::Config;

/// What every loop gets.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub informers: Informers,
    pub events: Recorder,
    pub config: Arc<Config>,
}

impl Context {
    /// The same, with events that name `component` as their source.
    pub fn events(&self, component: &'static str) -> Self {
        Context { events: Recorder::new(self.client.clone(), component, ""), ..self.clone() }
    }
}

pub type Result<T = (), E = kube::Error> = std::result::Result<T, E>;

/// Takes an answer of the API with one of these codes for a success: what is to be deleted is gone, or what is to be created is there.
///
/// # Errors
/// Any other error than an answer of the API with one of the codes.
pub fn ignore<T>(result: Result<T>, codes: &[u16]) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if codes.contains(&status.code) => Ok(()),
        other => other.map(|_| ()),
    }
}
