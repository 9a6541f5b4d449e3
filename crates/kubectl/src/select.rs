//! Which objects a command is about: `TYPE NAME…`, `TYPE/NAME…`, `TYPE,TYPE -l …`, `all`, and what `-f` names.

use std::sync::Arc;

use serde_json::Value;

use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::files;
use crate::resources::Resource;

/// One object, and what is known of it.
#[derive(Debug, Clone)]
pub struct Target {
    pub resource: Arc<Resource>,
    pub namespace: String,
    pub name: String,
    /// The object: of a file as it stands there, else as the server has it once it was asked.
    pub object: Value,
    /// The file.
    pub source: String,
}

impl Target {
    pub fn path(&self) -> String {
        self.resource.path(&self.namespace, &self.name)
    }

    /// `deployment.apps/web`
    pub fn shown(&self) -> String {
        format!("{}/{}", self.resource.qualified(), self.name)
    }
}

/// What a command line selects.
#[derive(Debug, Default)]
pub struct Selection {
    pub targets: Vec<Target>,
    pub lists: Vec<Arc<Resource>>,
    /// One object was named, and no list.
    pub single: bool,
    pub from_files: bool,
    pub selector: String,
    pub field_selector: String,
    /// Empty for all of them.
    pub namespace: String,
}

const MISSING: &str = "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   \
     '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'";

/// Reads what the words and `-f` select.
///
/// # Errors
/// When they don't fit together, or the server has no such type.
pub async fn select(cx: &Context, words: &[String]) -> Result<Selection> {
    let all_namespaces = cx.args.is("all-namespaces");
    let namespace = if all_namespaces { String::new() } else { cx.namespace()? };
    let mut selection = Selection {
        selector: cx.args.text("selector").into(),
        field_selector: cx.args.text("field-selector").into(),
        namespace,
        ..Selection::default()
    };
    let every = cx.args.is("all");
    if every && !selection.selector.is_empty() {
        return fail("setting 'all' parameter but found a non empty selector. ");
    }
    if !cx.args.many("filename").is_empty() || !cx.args.text("kustomize").is_empty() {
        if !words.is_empty() {
            return fail(
                "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well",
            );
        }
        from_files(cx, &mut selection).await?;
        return Ok(selection);
    }
    if words.is_empty() {
        return fail(MISSING);
    }
    if words.iter().any(|w| w.contains('/')) {
        by_pairs(cx, words, &mut selection, every).await?;
        return Ok(selection);
    }
    let resources = cx.resources().await?.find_all(&words[0])?;
    let names = &words[1..];
    let selects = every || !selection.selector.is_empty() || !selection.field_selector.is_empty();
    if names.is_empty() {
        selection.lists = resources;
        return Ok(selection);
    }
    if selects {
        return fail("name cannot be provided when a selector is specified");
    }
    for resource in resources {
        for name in names {
            selection.targets.push(named(&selection.namespace, resource.clone(), name)?);
        }
    }
    selection.single = selection.targets.len() == 1;
    Ok(selection)
}

fn named(namespace: &str, resource: Arc<Resource>, name: &str) -> Result<Target> {
    if resource.namespaced && namespace.is_empty() {
        return fail("a resource cannot be retrieved by name across all namespaces");
    }
    let namespace = if resource.namespaced { namespace.to_string() } else { String::new() };
    Ok(Target { resource, namespace, name: name.into(), object: Value::Null, source: String::new() })
}

async fn by_pairs(cx: &Context, words: &[String], selection: &mut Selection, every: bool) -> Result<()> {
    if every || !selection.selector.is_empty() {
        return fail("selectors and the all flag cannot be used when passing resource/name arguments");
    }
    for word in words {
        let Some((kind, name)) = word.split_once('/') else {
            return fail(
                "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'",
            );
        };
        if name.contains('/') {
            return fail("arguments in resource/name form may not have more than one slash");
        }
        if name.is_empty() || kind.is_empty() || kind.contains(',') {
            return fail("arguments in resource/name form must have a single resource and name");
        }
        let resource = cx.resources().await?.find(kind)?;
        selection.targets.push(named(&selection.namespace, resource, name)?);
    }
    selection.single = selection.targets.len() == 1;
    Ok(())
}

async fn from_files(cx: &Context, selection: &mut Selection) -> Result<()> {
    selection.from_files = true;
    let documents = files::read(cx).await?;
    selection.single = documents.single;
    for document in documents.all {
        let target = target_of(cx, document).await?;
        selection.targets.push(target);
    }
    if !selection.selector.is_empty() {
        let wanted = apimachinery::selector::LabelSelector::parse(&selection.selector)
            .map_err(|error| Error::Message(format!("unable to parse requirement: {error}")))?;
        selection.targets.retain(|t| wanted.matches(|key| t.object["metadata"]["labels"][key].as_str()));
    }
    Ok(())
}

/// The resource, namespace and name of an object of a file.
///
/// # Errors
/// When the server doesn't have its kind, or it is of another namespace than the one that was asked for.
pub async fn target_of(cx: &Context, document: files::Document) -> Result<Target> {
    let files::Document { mut object, source } = document;
    let (version, kind) = (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
    let own = object["metadata"]["name"].as_str().unwrap_or("").to_string();
    let resource = if cx.args.is("local") {
        local_resource(version, kind)
    } else {
        cx.resources().await?.of_kind(version, kind).map_err(|error| {
            let place = object["metadata"]["namespace"].as_str().unwrap_or("");
            Error::Message(format!(
                "resource mapping not found for name: {own:?} namespace: {place:?} from {source:?}: {}",
                error.text()
            ))
        })?
    };
    let mut namespace = String::new();
    if resource.namespaced {
        let asked = cx.namespace()?;
        let own = object["metadata"]["namespace"].as_str().unwrap_or("").to_string();
        if own.is_empty() {
            if !cx.args.is("local") {
                object["metadata"]["namespace"] = asked.clone().into();
            }
            namespace = asked;
        } else if cx.has_explicit_namespace() && own != asked {
            return fail(format!(
                "the namespace from the provided object {own:?} does not match the namespace {asked:?}. You must pass '--namespace={own}' to perform this operation."
            ));
        } else {
            namespace = own;
        }
    }
    Ok(Target { resource, namespace, name: own, object, source })
}

/// A resource of which the server isn't asked.
fn local_resource(version: &str, kind: &str) -> Arc<Resource> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let lower = kind.to_ascii_lowercase();
    Arc::new(Resource {
        group: group.into(),
        version: version.into(),
        plural: format!("{lower}s"),
        singular: lower,
        kind: kind.into(),
        namespaced: true,
        preferred: true,
        ..Resource::default()
    })
}

/// The objects of a list, chunk by chunk.
///
/// # Errors
/// When the server says no.
pub async fn list(cx: &Context, resource: &Resource, selection: &Selection, accept: &str) -> Result<Value> {
    let mut whole = Value::Null;
    let mut next = String::new();
    let chunk = if cx.args.given("chunk-size") { cx.args.number("chunk-size")? } else { 500 };
    loop {
        let path = resource.path(&selection.namespace, "");
        let limit = if chunk > 0 { chunk.to_string() } else { String::new() };
        let call = Call::new("GET", &path)
            .accept(accept)
            .maybe("labelSelector", &selection.selector)
            .maybe("fieldSelector", &selection.field_selector)
            .maybe("limit", &limit)
            .maybe("continue", &next);
        let mut part = cx.json(call).await.map_err(|error| selected_by(error, resource, selection))?;
        next = part["metadata"]["continue"].as_str().unwrap_or("").into();
        if whole.is_null() {
            whole = part;
        } else if let (Some(items), Some(more)) = (whole["items"].as_array_mut(), part["items"].as_array_mut()) {
            items.append(more);
        }
        if next.is_empty() {
            return Ok(whole);
        }
    }
}

/// A refusal of a selector says which it was.
pub fn selected_by(error: Error, resource: &Resource, selection: &Selection) -> Error {
    let selects = !selection.selector.is_empty() || !selection.field_selector.is_empty();
    if !selects || !["BadRequest", "NotFound"].contains(&error.reason()) {
        return error;
    }
    let words = format!(
        "Unable to find \"{}/{}, Resource={}\" that match label selector {:?}, field selector {:?}",
        resource.group, resource.version, resource.plural, selection.selector, selection.field_selector
    );
    error.with_prefix(&words)
}

/// All objects of a selection as the server has them. What isn't there is an error beside the others.
///
/// # Errors
/// When the selection isn't one.
pub async fn load(cx: &Context, selection: &Selection) -> (Vec<Target>, Vec<Error>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for target in &selection.targets {
        match cx.get(&target.path()).await {
            Ok(object) => found.push(Target { object, ..target.clone() }),
            Err(error) => errors.push(error),
        }
    }
    for resource in &selection.lists {
        match list(cx, resource, selection, crate::client::JSON).await {
            Ok(mut objects) => {
                let kind = resource.kind.clone();
                for mut object in objects["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                    // Items of a list don't say what they are.
                    object["kind"] = kind.clone().into();
                    object["apiVersion"] = resource.api_version().into();
                    let text = |at: &str| object["metadata"][at].as_str().unwrap_or("").to_string();
                    let (namespace, name) = (text("namespace"), text("name"));
                    found.push(Target { resource: resource.clone(), namespace, name, object, source: String::new() });
                }
            }
            Err(error) => errors.push(error),
        }
    }
    (found, errors)
}
