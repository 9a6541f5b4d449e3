//! The way of every write to the store: create, update, patch, apply, delete, and what the server writes itself.
//!
//! A [`WriteRequest`] has the user, the object and the options. Each try of it is a [`Draft`], which goes through the steps that stand in one list
//! ([`steps::STEPS`]) and is committed with the revision that it was made from; when another write was faster, it is tried again.
//! Bodies are decoded before ([`decode`], [`patch`]).

mod allocator;
mod apply;
mod commit;
mod create;
pub mod decode;
mod delete;
mod managed;
mod patch;
pub mod scale;
mod steps;
mod strategy;
mod update;

use std::sync::Arc;

use api::kinds::Target;
use api::{Kind, Subresource};
use apimachinery::Status;
use parking_lot::Mutex;

use crate::ApiServer;
use crate::authentication::User;
use crate::registry::object_key;
use crate::request::{ResourceRequest, dry_run};

pub use allocator::{Allocator, kubernetes_address};
pub use apply::{apply, require_field_manager};
pub use create::check_identity;
pub use delete::check_preconditions;
pub use managed::{FieldManager, apply as merge_applied};
pub use patch::{Patch, is_apply};

use steps::Draft;

/// How often a write is tried again when another one to the same object was faster.
pub const CONFLICT_RETRIES: usize = 20;

/// Who writes which object, and how.
pub struct WriteRequest<'a> {
    pub server: &'a Arc<ApiServer>,
    pub user: &'a User,
    pub kind: &'static Kind,
    pub namespace: &'a str,
    /// Empty for a create: there the object has its name.
    pub name: &'a str,
    pub subresource: Option<Subresource>,
    /// The part of the object that may change.
    pub target: Target,
    pub manager: FieldManager,
    pub dry_run: bool,
    /// What the client says for `fieldManager` and `fieldValidation`.
    options: (String, String),
    /// The managed fields of the object are set already, as by server-side apply.
    is_applied: bool,
    /// Policies and webhooks were asked about what brought the write (a Binding, an Eviction), and aren't asked about the write.
    is_admitted: bool,
    /// What the client is to be warned of.
    warnings: Mutex<Vec<String>>,
}

impl<'a> WriteRequest<'a> {
    /// The write that a request of `user` asks for.
    ///
    /// # Errors
    /// 422 when its `dryRun` is neither empty nor `All`.
    pub fn of(server: &'a Arc<ApiServer>, user: &'a User, info: &'a ResourceRequest) -> Result<Self, Status> {
        let is_status = info.subresource == Some(Subresource::Status);
        Ok(WriteRequest {
            user,
            subresource: info.subresource,
            target: if is_status { Target::Status } else { Target::Main },
            manager: FieldManager::of(info),
            dry_run: dry_run(&info.query)?,
            options: (info.query.get("fieldManager").into(), info.query.get("fieldValidation").into()),
            ..Self::by_server(server, info.kind, &info.path.namespace, &info.path.name)
        })
    }

    /// A write of the server's own (upstream's loopback client).
    pub fn by_server(server: &'a Arc<ApiServer>, kind: &'static Kind, namespace: &'a str, name: &'a str) -> Self {
        WriteRequest {
            server,
            user: &server.user,
            kind,
            namespace,
            name,
            subresource: None,
            target: Target::Main,
            manager: FieldManager { manager: "apiserver".into(), subresource: String::new() },
            dry_run: false,
            options: Default::default(),
            is_applied: false,
            is_admitted: false,
            warnings: Mutex::default(),
        }
    }

    /// The same to the object's status.
    pub fn for_status(mut self) -> Self {
        self.subresource = Some(Subresource::Status);
        self.target = Target::Status;
        self.manager.subresource = Subresource::Status.name().into();
        self
    }

    /// The same to another part of the object.
    pub fn to(self, target: Target) -> Self {
        WriteRequest { target, ..self }
    }

    /// The same for an object whose managed fields are set already.
    pub fn applied(self) -> Self {
        WriteRequest { is_applied: true, ..self }
    }

    /// The same for another object of the kind.
    pub fn at(self, namespace: &'a str, name: &'a str) -> Self {
        WriteRequest { namespace, name, ..self }
    }

    /// The same without asking policies and webhooks again.
    pub fn admitted(self) -> Self {
        WriteRequest { is_admitted: true, ..self }
    }

    /// What admission warns the client of, each text once however often the write was tried.
    pub fn warnings(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for warning in self.warnings.lock().iter().filter(|w| !w.is_empty()) {
            if !all.contains(warning) {
                all.push(warning.clone());
            }
        }
        all
    }

    fn warn(&self, warnings: Vec<String>) {
        self.warnings.lock().extend(warnings);
    }

    /// The object's key in its resource.
    fn key(&self) -> String {
        object_key(self.namespace, self.name)
    }
}
