//! The steps of a write, in their order.

use std::mem::take;

use api::Subresource;
use api::kinds::Target;
use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use super::allocator::Lease;
use super::scale::{scale_of, scale_paths, with_replicas};
use super::{WriteRequest, managed, strategy};
use crate::admission::Operation::{self, Create, Delete, Update};
use crate::admission::{AdmissionAttributes, Options, builtin, dynamic};
use crate::registry::is_definition;
use crate::request::DeleteOptions;

/// What is done with an object before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Sets what the server decides, and takes from the stored object what this write can't change (upstream's `PrepareForCreate` and
    /// `PrepareForUpdate`).
    Prepare,
    /// Sets the defaults of fields that the client left out.
    ApplyDefaults,
    /// Records which fields the writer set; before anything is added to what the client sent, which has no manager (as upstream).
    TrackFields,
    /// Sets what the kind generates, such as the selector of a Job.
    Generate,
    /// Asks the built-in admission plugins that change objects.
    MutatingPlugins,
    /// Asks MutatingAdmissionPolicies and mutating webhooks.
    MutatingAdmission,
    /// Brings what admission made of the object into the form of its kind again.
    Conform,
    /// Settles the names of a CustomResourceDefinition.
    Establish,
    /// Gives a Service its addresses and ports.
    Allocate,
    /// Raises `metadata.generation` when something other than metadata and status changed.
    CountGeneration,
    /// Checks the object against its schema and the rules of its kind.
    Validate,
    /// Asks the built-in admission plugins that refuse objects.
    ValidatingPlugins,
    /// Asks ValidatingAdmissionPolicies and validating webhooks.
    ValidatingAdmission,
    /// Reserves what the object uses of its namespace's quotas.
    ReserveQuota,
    /// Sets `deletionTimestamp`, grace period and finalizers (upstream's `BeforeDelete`).
    MarkDeleted,
}

/// All writes go through these steps in this order; a step is left out for operations that don't stand beside it.
const STEPS: &[(Step, &[Operation])] = &[
    (Step::Prepare, &[Create, Update]),
    (Step::ApplyDefaults, &[Create, Update]),
    (Step::TrackFields, &[Create, Update]),
    (Step::Generate, &[Create]),
    (Step::MutatingPlugins, &[Create, Update]),
    (Step::MutatingAdmission, &[Create, Update, Delete]),
    (Step::Conform, &[Create, Update]),
    (Step::Establish, &[Create, Update]),
    (Step::Allocate, &[Create, Update]),
    (Step::CountGeneration, &[Update]),
    (Step::Validate, &[Create, Update]),
    (Step::ValidatingPlugins, &[Create, Update]),
    (Step::ValidatingAdmission, &[Create, Update, Delete]),
    (Step::ReserveQuota, &[Create, Update]),
    (Step::MarkDeleted, &[Delete]),
];

/// One try of a write: the object on its way to the store.
pub struct Draft<'a> {
    pub request: &'a WriteRequest<'a>,
    pub operation: Operation,
    pub name: String,
    /// The object as it is stored, in the version of the request; null for a create.
    pub old: Value,
    /// The object as it will be stored.
    pub object: Value,
    /// Options of a delete.
    pub options: Option<&'a DeleteOptions>,
    /// Whether policies or webhooks changed the object.
    is_mutated: bool,
    /// Addresses and ports that the object took; given back when it isn't stored.
    pub lease: Option<Lease>,
    /// Held until the object is stored.
    pub quota: builtin::Admitted,
}

impl<'a> Draft<'a> {
    /// A write of `object`; `old` is null for a create.
    pub fn new(request: &'a WriteRequest<'a>, operation: Operation, object: Value, old: Value) -> Self {
        Draft {
            request,
            operation,
            name: object.name().to_string(),
            old,
            object,
            options: None,
            is_mutated: false,
            lease: None,
            quota: None,
        }
    }

    /// Goes through all steps of the operation.
    ///
    /// # Errors
    /// The Status of the step that refuses the write.
    pub async fn run(&mut self) -> Result<(), Status> {
        for (step, operations) in STEPS {
            if operations.contains(&self.operation) {
                self.perform(*step).await?;
            }
        }
        Ok(())
    }

    async fn perform(&mut self, step: Step) -> Result<(), Status> {
        let request = self.request;
        let (server, kind) = (request.server, request.kind);
        match step {
            Step::Prepare => self.prepare(),
            Step::ApplyDefaults => server.catalog.apply_defaults(kind, &mut self.object),
            Step::TrackFields => self.track_fields(),
            Step::Generate => (kind.strategy.generate)(&mut self.object),
            Step::MutatingPlugins if request.target == Target::Main => {
                builtin::mutate(server, request.user, kind, self.operation, &mut self.object)?;
            }
            Step::MutatingPlugins => {}
            Step::MutatingAdmission => self.mutating_admission().await?,
            Step::Conform => self.conform()?,
            Step::Establish if is_definition(kind) && request.target == Target::Main => {
                server.catalog.establish(&mut self.object);
                request.warn(api::custom::warnings(&self.object));
            }
            Step::Establish => {}
            Step::Allocate => {
                let old = (self.operation == Update).then_some(&self.old);
                self.lease = Some(server.services.assign(kind, &mut self.object, old)?);
            }
            Step::CountGeneration => strategy::count_generation(kind, &mut self.object, &self.old),
            Step::Validate => self.validate()?,
            Step::ValidatingPlugins => self.validating_plugins()?,
            Step::ValidatingAdmission => self.validating_admission().await?,
            Step::ReserveQuota => self.reserve_quota().await?,
            Step::MarkDeleted => {
                if let Some(options) = self.options {
                    super::delete::mark(kind, &mut self.object, options);
                }
            }
        }
        Ok(())
    }

    fn is_update(&self) -> bool {
        self.operation == Update
    }

    /// What admission is asked about.
    fn admission_attributes(&self) -> AdmissionAttributes<'_> {
        let request = self.request;
        AdmissionAttributes {
            user: request.user,
            kind: request.kind,
            subresource: if self.operation == Update { request.subresource } else { None },
            operation: self.operation,
            name: &self.name,
            namespace: if request.kind.namespaced { request.namespace } else { "" },
            old: Some(&self.old).filter(|old| !old.is_null()),
            dry_run: self.is_dry_run(),
            options: Options {
                field_manager: &request.options.0,
                field_validation: &request.options.1,
                delete: self.options,
            },
        }
    }

    /// Whether nothing is stored.
    pub fn is_dry_run(&self) -> bool {
        self.request.dry_run || self.options.is_some_and(|options| options.dry_run)
    }

    fn prepare(&mut self) {
        let kind = self.request.kind;
        if self.operation == Create {
            super::create::set_identity(&mut self.object);
            strategy::prepare_create(kind, &mut self.object);
        } else {
            strategy::prepare_update(kind, self.request.target, &mut self.object, &self.old);
        }
    }

    fn track_fields(&mut self) {
        let request = self.request;
        if request.is_applied {
            return;
        }
        let typed = request.server.catalog.typed(request.kind);
        managed::inherit(&mut self.object, &self.old, &request.manager);
        let empty = managed::empty(request.kind);
        let old = if self.is_update() { &self.old } else { &empty };
        managed::track(&typed, request.kind, request.target, &request.manager, old, &mut self.object);
    }

    async fn mutating_admission(&mut self) -> Result<(), Status> {
        let request = self.request;
        if request.is_admitted {
            return Ok(());
        }
        let server = request.server;
        if request.subresource == Some(Subresource::Scale) {
            return self.mutate_scale().await;
        }
        let mut object = take(&mut self.object);
        let mutation = dynamic::mutate(server, &self.admission_attributes(), &mut object).await?;
        self.request.warn(mutation.warnings);
        self.is_mutated = mutation.is_changed;
        // A deletion can be refused, and not changed.
        self.object = if self.operation == Delete && self.is_mutated { self.old.clone() } else { object };
        Ok(())
    }

    /// Who writes the `scale` of a workload is judged by the Scale; what admission makes of it is what the workload gets.
    async fn mutate_scale(&mut self) -> Result<(), Status> {
        let WriteRequest { server, kind, .. } = *self.request;
        let paths = scale_paths(server, kind);
        let (shown, old) = (scale_of(&paths, &self.object), scale_of(&paths, &self.old));
        let attributes = AdmissionAttributes { old: Some(&old), ..self.admission_attributes() };
        let mut scale = shown.clone();
        let mutation = dynamic::mutate(server, &attributes, &mut scale).await?;
        if scale["spec"] != shown["spec"] {
            self.object = with_replicas(&paths, &self.object, &scale)?;
            self.is_mutated = true;
        }
        self.request.warn(mutation.warnings);
        Ok(())
    }

    fn conform(&mut self) -> Result<(), Status> {
        let request = self.request;
        let (catalog, kind) = (&request.server.catalog, request.kind);
        if self.operation == Create {
            strategy::set_scheduling_gated(kind, &mut self.object);
        }
        let namespace = if kind.namespaced { request.namespace } else { "" };
        if self.object.name() != self.name || self.object.namespace() != namespace {
            return Err(Status::internal("a webhook changed the object's name or namespace"));
        }
        if self.is_mutated || kind.custom {
            let findings = catalog.prune(kind, &mut self.object);
            // What is wrong with custom objects is found by the validation.
            if !kind.custom && !findings.mismatched.is_empty() {
                let text = findings.mismatched.join("; ");
                return Err(Status::internal(format!("admission made no {} of the object: {text}", kind.kind)));
            }
        }
        if self.operation == Create || self.is_mutated || kind.custom {
            catalog.apply_defaults(kind, &mut self.object);
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), Status> {
        let request = self.request;
        let old = self.is_update().then_some(&self.old);
        let causes = match request.target {
            Target::Binding => Vec::new(),
            Target::Resize => api::check_resize(&self.object, &self.old),
            Target::Status => request.server.catalog.check_status(request.kind, &self.object, &self.old),
            _ => request.server.catalog.check(request.kind, &self.object, old),
        };
        if request.kind.custom {
            request.warn(api::validate::finalizer_warnings(&self.object, old));
        }
        if causes.is_empty() { Ok(()) } else { Err(request.kind.invalid(self.object.name(), causes)) }
    }

    fn validating_plugins(&self) -> Result<(), Status> {
        let (server, attributes) = (self.request.server, self.admission_attributes());
        builtin::validate(server, &attributes, &self.object)?;
        self.request.warn(builtin::pod_security(server, &attributes, &self.object)?);
        Ok(())
    }

    async fn validating_admission(&self) -> Result<(), Status> {
        if !self.request.is_admitted {
            let WriteRequest { server, kind, .. } = *self.request;
            let warnings = if self.request.subresource == Some(Subresource::Scale) {
                let paths = scale_paths(server, kind);
                let (shown, old) = (scale_of(&paths, &self.object), scale_of(&paths, &self.old));
                let attributes = AdmissionAttributes { old: Some(&old), ..self.admission_attributes() };
                dynamic::validate(server, &attributes, &shown).await?
            } else {
                dynamic::validate(server, &self.admission_attributes(), &self.object).await?
            };
            self.request.warn(warnings);
        }
        Ok(())
    }

    async fn reserve_quota(&mut self) -> Result<(), Status> {
        let WriteRequest { server, kind, target, .. } = *self.request;
        if matches!(target, Target::Main | Target::Resize) {
            let old = self.is_update().then_some(&self.old);
            self.quota = builtin::resource_quota(server, kind, &self.object, old).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What upstream promises of the order of admission (docs: "Dynamic Admission Control"), and what our steps need of each other.
    #[test]
    fn steps_stand_in_the_order_that_they_rely_on() {
        let place = |step: Step| STEPS.iter().position(|(of, _)| *of == step).unwrap();
        for (first, second) in [
            (Step::ApplyDefaults, Step::TrackFields),
            (Step::TrackFields, Step::MutatingPlugins),
            (Step::MutatingPlugins, Step::MutatingAdmission),
            (Step::MutatingAdmission, Step::Conform),
            (Step::Conform, Step::Validate),
            (Step::Allocate, Step::Validate),
            (Step::Validate, Step::ValidatingPlugins),
            (Step::ValidatingPlugins, Step::ValidatingAdmission),
            (Step::ValidatingAdmission, Step::ReserveQuota),
            (Step::ValidatingAdmission, Step::MarkDeleted),
        ] {
            assert!(place(first) < place(second), "{first:?} {second:?}");
        }
    }
}
