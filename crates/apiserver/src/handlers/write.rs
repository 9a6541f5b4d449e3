//! Create, update and patch.

use std::sync::Arc;

use apimachinery::names::SUFFIX_ALPHABET;
use apimachinery::{ObjectExt as _, Status, bounded, clock};
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::{Value, json};
use store::{Write, WriteError};

use api::{Kind, Subresource, kinds};

use super::body::{self, Content, FieldValidation, too_large};
use super::read::{one, resource};
use super::{Form, Patch};
use crate::ApiServer;
use crate::admission::{self, Operation};
use crate::auth::{self, User};
use crate::cache::{object_key, store_key};
use crate::catalog::is_definition;
use crate::convert;
use crate::external::{self, Attempt};
use crate::managed::{self, Writer};
use crate::object::{encode, splice};
use crate::quota;
use crate::request::Info;
use crate::response::{self, Body};
use crate::strategy::{self, Target};

/// How often a write without a precondition is tried again when another one was faster.
const RETRIES: usize = 20;

pub async fn create(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    let (object, warnings) = body::object(server, request, info.kind, &info.query).await?;
    let dry_run = body::dry_run(&info.query)?;
    if info.kind == kinds::PODS {
        admission::wait_for_account(server, &info.path.namespace, &object).await;
    }
    let creation = Creation { dry_run, ..Creation::of(info) };
    let bytes = create_object(server, user, &creation, object).await?;
    let warnings = [warnings, creation.warnings.into_inner()].concat();
    Ok(answer(server, info, form, 201, bytes, &warnings))
}

/// What an object that is to be created is, beside its content.
pub struct Creation {
    pub kind: &'static Kind,
    pub namespace: String,
    pub dry_run: bool,
    writer: Writer,
    /// The content was applied, and has its managed fields already.
    applied: bool,
    /// What webhooks want the client to know.
    warnings: Mutex<Vec<String>>,
}

impl Creation {
    fn of(info: &Info) -> Self {
        let namespace = info.path.namespace.clone();
        Creation {
            kind: info.kind,
            namespace,
            dry_run: false,
            writer: info.writer(),
            applied: false,
            warnings: Mutex::default(),
        }
    }

    /// For objects that the server makes itself.
    pub fn by_server(kind: &'static Kind, namespace: &str) -> Self {
        let writer = Writer { manager: "apiserver".into(), subresource: String::new() };
        Creation {
            kind,
            namespace: namespace.into(),
            dry_run: false,
            writer,
            applied: false,
            warnings: Mutex::default(),
        }
    }
}

/// The answer to a write: the object, with warnings about what was dropped.
fn answer(server: &ApiServer, info: &Info, form: Form, code: u16, bytes: Bytes, warnings: &[String]) -> Response<Body> {
    let mut response = one(server, info, form, code, bytes);
    response::warn(&mut response, warnings);
    response
}

/// Creates an object of `kind` and returns its bytes. The way for all, also for objects that the server makes itself.
pub async fn create_object(
    server: &Arc<ApiServer>,
    user: &User,
    creation: &Creation,
    mut object: Value,
) -> Result<Bytes, Status> {
    let kind = creation.kind;
    server.catalog.admit_new(kind)?;
    place(kind, &creation.namespace, &mut object)?;
    if !object.resource_version().is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let generate = object.name().is_empty().then(|| object.meta("generateName").to_string());
    // A generated name may be taken; then another is drawn.
    for attempt in 0.. {
        let mut object = object.clone();
        if let Some(prefix) = &generate {
            if prefix.is_empty() {
                let cause = apimachinery::Cause::required("metadata.name", "name or generateName is required");
                return Err(kind.invalid("", vec![cause]));
            }
            object.set_meta("name", generated_name(prefix));
        }
        match create_named(server, user, creation, object).await {
            Err(status) if status.reason == "AlreadyExists" && generate.is_some() && attempt < 8 => {}
            done => return done,
        }
    }
    Err(Status::internal("no free name was found"))
}

async fn create_named(
    server: &Arc<ApiServer>,
    user: &User,
    creation: &Creation,
    mut object: Value,
) -> Result<Bytes, Status> {
    let kind = creation.kind;
    object.set_meta("uid", uuid::Uuid::new_v4().to_string());
    object.set_meta("creationTimestamp", clock::now_rfc3339());
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        object.meta_mut().remove(field);
    }
    strategy::prepare_create(kind, &mut object);
    server.catalog.apply_defaults(kind, &mut object);
    // Noted before anything is added to what the client sent: that belongs to nobody, as upstream.
    if !creation.applied {
        managed::inherit(&mut object, &Value::Null);
        let of = server.catalog.typed(kind);
        managed::track(&of, kind, Target::Main, &creation.writer, &json!({}), &mut object);
    }
    (kind.strategy.generate)(&mut object);
    admission::mutate(server, user, kind, Operation::Create, &mut object)?;
    let (name, namespace) = (object.name().to_string(), object.namespace().to_string());
    let attempt = Attempt {
        user,
        kind,
        subresource: None,
        operation: "CREATE",
        name: &name,
        namespace: &namespace,
        old: None,
        dry_run: creation.dry_run,
    };
    let told = external::mutate(server, &attempt, &mut object).await?;
    admission::tell_gates(kind, &mut object);
    creation.warnings.lock().extend(told);
    keep_identity(&mut object, &name, &namespace)?;
    server.catalog.conform_again(kind, &mut object);
    server.catalog.apply_defaults(kind, &mut object);
    if is_definition(kind) {
        server.catalog.establish(&mut object);
    }
    let lease = server.services.assign(kind, &mut object, None)?;
    refuse(kind, &object, server.catalog.check(kind, &object, None))?;
    admission::validate(server, &attempt, &object)?;
    creation.warnings.lock().extend(admission::pod_security(server, &attempt, &object)?);
    let told = external::validate(server, &attempt, &object).await?;
    creation.warnings.lock().extend(told);
    quota::check_limits(server, kind, &object)?;
    let _admitted = quota::admit(server, kind, &object, None).await?;
    let key = object_key(object.namespace(), object.name());
    let (canonical, answer) = convert::kept(server, kind, &mut object).await?;
    if creation.dry_run {
        if resource(server, kind)?.get(&key).is_some() {
            return Err(kind.already_exists(object.name()));
        }
        return Ok(splice(&answer, server.cache.revision()));
    }
    let write = Write::Create { key: store_key(kind, &key).into(), value: canonical };
    let revision = commit(server, kind, object.name(), write).await?;
    lease.keep();
    Ok(splice(&answer, revision))
}

/// What a webhook must not change.
fn keep_identity(object: &mut Value, name: &str, namespace: &str) -> Result<(), Status> {
    if object.name() != name || object.namespace() != namespace {
        return Err(Status::internal("a webhook changed the object's name or namespace"));
    }
    Ok(())
}

/// Checks name and namespace in the body against those of the path.
fn put_at(info: &Info, object: &mut Value) -> Result<(), Status> {
    if object.name().is_empty() {
        object.set_meta("name", info.path.name.as_str());
    }
    if object.name() != info.path.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            info.path.name
        )));
    }
    place(info.kind, &info.path.namespace, object)
}

/// Checks the namespace in the body against that of the path.
fn place(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), Status> {
    let said = object.namespace().to_string();
    if !kind.namespaced {
        object.meta_mut().remove("namespace");
        return Ok(());
    }
    if namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    if !said.is_empty() && said != namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({said} != {namespace})"
        )));
    }
    object.set_meta("namespace", namespace);
    Ok(())
}

/// `prefix` and five characters by chance, as `generateName` makes names.
pub fn generated_name(prefix: &str) -> String {
    let mut rng = rand::rng();
    let suffix: String = (0..5).map(|_| SUFFIX_ALPHABET[rng.random_range(0..SUFFIX_ALPHABET.len())] as char).collect();
    let kept: String = prefix.chars().take(apimachinery::names::GENERATED_PREFIX).collect();
    format!("{kept}{suffix}")
}

fn refuse(kind: &Kind, object: &Value, causes: Vec<apimachinery::Cause>) -> Result<(), Status> {
    if causes.is_empty() { Ok(()) } else { Err(kind.invalid(object.name(), causes)) }
}

/// Hands a write to the store and waits until the cache shows it.
pub async fn commit(server: &ApiServer, kind: &Kind, name: &str, write: Write) -> Result<u64, Status> {
    let written = server.store.write(write).await;
    let fails = matches!(written, Err(WriteError::Full | WriteError::Failed(_)));
    if server.store_fails.swap(fails, std::sync::atomic::Ordering::Relaxed) != fails {
        tracing::warn!(fails, "the readiness of the data store changed");
    }
    let revision = written.map_err(|error| match error {
        WriteError::Exists => kind.already_exists(name),
        WriteError::NotFound => kind.not_found(name),
        WriteError::Conflict { .. } => kind.modified(name),
        other => Status::internal(other),
    })?;
    server.cache.reached(revision).await;
    Ok(revision)
}

pub async fn update(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    let (mut object, warnings) = body::object(server, request, info.kind, &info.query).await?;
    put_at(info, &mut object)?;
    let change = Change::read(info)?;
    let bytes = change.carry_out(server, user, info, |_| Ok(object.clone())).await?;
    let warnings = [warnings, change.warnings()].concat();
    Ok(answer(server, info, form, 200, bytes, &warnings))
}

pub async fn patch(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    let patch = Patch::read(request).await?;
    let validation = FieldValidation::read(&info.query)?;
    if let Patch::Apply(config, duplicates) = patch {
        let mut config = config;
        let warnings = body::conform(server, &mut config, info.kind, validation, duplicates, Content::Applied)?;
        let (code, bytes, told) = apply(server, user, info, config).await?;
        return Ok(answer(server, info, form, code, bytes, &[warnings, told].concat()));
    }
    if !info.query.get("force").is_empty() {
        let cause = apimachinery::Cause::forbidden("force", "may not be specified for non-apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let warnings = Mutex::new(Vec::new());
    let change = Change::read(info)?;
    let bytes = change
        .carry_out(server, user, info, |current| {
            let mut patched = patch.apply(info.kind, current)?;
            *warnings.lock() = body::conform(server, &mut patched, info.kind, validation, Vec::new(), Content::Whole)?;
            server.catalog.drop_nulls(info.kind, &mut patched);
            Ok(patched)
        })
        .await?;
    let warnings = [warnings.into_inner(), change.warnings()].concat();
    Ok(answer(server, info, form, 200, bytes, &warnings))
}

/// Who applies must say who he is.
pub fn demand_manager(info: &Info) -> Result<(), Status> {
    if info.query.get("fieldManager").is_empty() {
        let cause = apimachinery::Cause::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    Ok(())
}

/// Server-side apply: changes the object, or creates it. Returns the code of the answer, the object and warnings.
async fn apply(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    mut config: Value,
) -> Result<(u16, Bytes, Vec<String>), Status> {
    demand_manager(info)?;
    if !config.at(&["metadata", "managedFields"]).is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    put_at(info, &mut config)?;
    let change = Change::read(info)?.applying();
    let (force, writer) = (info.query.flag("force"), info.writer());
    let make = |live: &Value| {
        let mut new =
            managed::apply(&server.catalog.typed(info.kind), info.kind, change.target, &writer, live, &config, force)?;
        bounded::result(&new).map_err(|why| too_large(&why))?;
        if !info.kind.custom {
            server.catalog.prune(info.kind, &mut new);
        }
        new.set_meta("resourceVersion", config.resource_version());
        Ok(new)
    };
    for attempt in 0.. {
        let exists = resource(server, info.kind)?.get(&info.key()).is_some();
        if exists || change.target != Target::Main {
            let bytes = change.carry_out(server, user, info, make).await?;
            return Ok((200, bytes, change.warnings()));
        }
        if !config.uid().is_empty() {
            let uid = config.uid();
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(info.kind.conflict(&info.path.name, &why));
        }
        auth::authorize(server, user, &Info { verb: "create", ..info.clone() })?;
        let mut object = make(&json!({}))?;
        // As upstream, which makes an object that is exported from elsewhere by applying it.
        object.meta_mut().remove("resourceVersion");
        let creation = Creation { dry_run: change.dry_run, applied: true, ..Creation::of(info) };
        match create_object(server, user, &creation, object).await {
            // Somebody was faster: apply to what he made.
            Err(status) if status.reason == "AlreadyExists" && attempt < RETRIES => {}
            done => return Ok((201, done?, creation.warnings.into_inner())),
        }
    }
    Err(info.kind.modified(&info.path.name))
}

/// A change of an existing object.
pub struct Change {
    pub target: Target,
    pub dry_run: bool,
    /// `make` also says who manages which field.
    applies: bool,
    /// Policies and webhooks were asked about what brought the change, and needn't be about the change.
    pub admitted: bool,
    /// What webhooks want the client to know.
    warnings: Mutex<Vec<String>>,
}

impl Change {
    pub fn read(info: &Info) -> Result<Self, Status> {
        let target = if info.subresource == Some(Subresource::Status) { Target::Status } else { Target::Main };
        Self::to(target, info)
    }

    pub fn to(target: Target, info: &Info) -> Result<Self, Status> {
        Ok(Change {
            target,
            dry_run: body::dry_run(&info.query)?,
            applies: false,
            admitted: false,
            warnings: Mutex::default(),
        })
    }

    /// What admission wants the client to know, each thing once however often the change was tried.
    pub fn warnings(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for warning in self.warnings.lock().iter().filter(|w| !w.is_empty()) {
            if !all.contains(warning) {
                all.push(warning.clone());
            }
        }
        all
    }

    /// The same, for a `make` that says who manages which field.
    pub fn applying(self) -> Self {
        Change { applies: true, ..self }
    }

    /// Makes the new object from the current one with `make`, and writes it. If `make`'s result carries a resource
    /// version, it must be the current one; else the change is made again when another one came first.
    pub async fn carry_out(
        &self,
        server: &Arc<ApiServer>,
        user: &User,
        info: &Info,
        make: impl Fn(&Value) -> Result<Value, Status>,
    ) -> Result<Bytes, Status> {
        let kind = info.kind;
        let resource = resource(server, kind)?;
        for round in 0.. {
            let entry = resource.get(&info.key()).ok_or_else(|| info.not_found())?;
            let old = convert::object(server, kind, entry.parse()).await?;
            let mut new = make(&old)?;
            if new.name() != old.name() {
                return Err(Status::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    new.name(),
                    old.name()
                )));
            }
            let pinned = new.resource_version() != old.resource_version() && !new.resource_version().is_empty();
            if pinned {
                return Err(kind.modified(&info.path.name));
            }
            if !new.uid().is_empty() && new.uid() != old.uid() {
                let why = format!(
                    "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                    new.uid(),
                    old.uid()
                );
                return Err(kind.conflict(&info.path.name, &why));
            }
            strategy::prepare_update(kind, self.target, &mut new, &old);
            server.catalog.apply_defaults(kind, &mut new);
            // Noted before anything is added to what the client wants: that belongs to nobody, as upstream.
            if !self.applies {
                managed::inherit(&mut new, &old);
                managed::track(&server.catalog.typed(kind), kind, self.target, &info.writer(), &old, &mut new);
            }
            if is_definition(kind) && self.target == Target::Main {
                server.catalog.establish(&mut new);
            }
            if self.target == Target::Main {
                admission::mutate(server, user, kind, Operation::Update, &mut new)?;
            }
            let attempt = Attempt {
                user,
                kind,
                subresource: info.subresource,
                operation: "UPDATE",
                name: &info.path.name,
                namespace: &info.path.namespace,
                old: Some(&old),
                dry_run: self.dry_run,
            };
            if !self.admitted {
                let told = external::mutate(server, &attempt, &mut new).await?;
                self.warnings.lock().extend(told);
            }
            keep_identity(&mut new, old.name(), old.namespace())?;
            if kind.custom {
                server.catalog.conform_again(kind, &mut new);
                server.catalog.apply_defaults(kind, &mut new);
            }
            let lease = server.services.assign(kind, &mut new, Some(&old))?;
            strategy::count_generation(kind, &mut new, &old);
            let causes = match self.target {
                Target::Binding => Vec::new(),
                Target::Resize => api::check_resize(&new, &old),
                _ => server.catalog.check(kind, &new, Some(&old)),
            };
            refuse(kind, &new, causes)?;
            admission::validate(server, &attempt, &new)?;
            self.warnings.lock().extend(admission::pod_security(server, &attempt, &new)?);
            if !self.admitted {
                let told = external::validate(server, &attempt, &new).await?;
                self.warnings.lock().extend(told);
            }
            let admitted = match self.target {
                Target::Main | Target::Resize => quota::admit(server, kind, &new, Some(&old)).await?,
                _ => None,
            };
            // The version is the store's to write; made equal, what is left is what the change changed.
            new.set_meta("resourceVersion", old.resource_version());
            if managed::same_but_times(&new, &old) {
                return Ok(splice(&encode(&old), entry.revision));
            }
            let (canonical, answer) = convert::kept(server, kind, &mut new).await?;
            if self.dry_run {
                return Ok(splice(&answer, entry.revision));
            }
            let key: Arc<str> = store_key(kind, &info.key()).into();
            let write = if strategy::is_finished(kind, &new) {
                Write::Delete { key, expected: entry.revision }
            } else {
                Write::Update { key, value: canonical, expected: entry.revision }
            };
            match commit(server, kind, &info.path.name, write).await {
                Ok(revision) => {
                    drop(admitted);
                    lease.keep();
                    return Ok(splice(&answer, revision));
                }
                // Whoever named a revision hears of the conflict; it was the current one when we looked.
                Err(status) if status.reason == "Conflict" && round < RETRIES => {}
                Err(status) => return Err(status),
            }
        }
        Err(kind.modified(&info.path.name))
    }
}

/// The `Status` of success that deletions answer with.
pub fn success(kind: &Kind, object: &Value) -> Value {
    let mut details = json!({"name": object.name(), "kind": kind.plural(), "uid": object.uid()});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
