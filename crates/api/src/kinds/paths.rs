//! Paths into objects stand in the modules as text, and one that is misspelt would read as empty. So here all of them are read out of
//! the modules' sources and looked for in the types that the module's kinds are made of.
//!
//! A path may begin at any object within a kind, as functions are handed parts of one; what isn't literal in it fits any field.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

use super::{Kind, find};
use crate::schema::{Type, types};

/// What isn't literal in a path.
const ANY: &str = "*";

/// Keys of maps, which no type has, and names of parameters and headers.
const KEYS: [&str; 13] = [
    "cpu",
    "memory",
    "stdout",
    "stderr",
    "fieldManager",
    "fieldValidation",
    "resourceVersionMatch",
    "force",
    "x-forwarded-uri",
    "kubeconfig",
    "expiration",
    "ca.crt",
    "key encipherment",
];

/// What works on objects beside the kinds' modules.
const OTHER_SOURCES: [&str; 4] = ["apiserver/src", "controllers/src", "kubelet/src/pod", "kubelet/src/spec"];

/// In it, what reads documents that are of no built-in kind: queries, discovery, OpenAPI, audit events, reviews of webhooks, metrics,
/// patches, sets of fields, custom kinds; and folders of a pod.
const OTHER_DOCUMENTS: [&str; 19] = [
    "apiserver/src/admission/dynamic/conditions.rs",
    "apiserver/src/admission/dynamic/webhooks.rs",
    "apiserver/src/aggregator/metrics.rs",
    "apiserver/src/audit/",
    "apiserver/src/conversion.rs",
    "apiserver/src/discovery.rs",
    "apiserver/src/openapi/",
    "apiserver/src/pipeline/decode.rs",
    "apiserver/src/pipeline/managed.rs",
    "apiserver/src/render.rs",
    "apiserver/src/request/",
    "apiserver/src/rest/",
    "controllers/src/workloads/autoscaler/metrics.rs",
    "controllers/src/toolkit/discovery.rs",
    "controllers/src/network/gateway/",
    "controllers/src/cluster/namespace.rs",
    "controllers/src/workloads/revisions.rs",
    "controllers/src/storage/snapshots/",
    "kubelet/src/pod/sandbox.rs",
];

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

/// `"a", b, "c"` as steps.
fn steps(list: &str) -> Vec<String> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.strip_prefix('"').and_then(|p| p.strip_suffix('"')).unwrap_or(ANY).to_string()).collect()
}

/// All paths in a source.
fn paths(code: &str) -> Vec<Vec<String>> {
    static COMMENT: LazyLock<Regex> = LazyLock::new(|| regex("//.*"));
    /// `object.str_at(&["spec", "nodeName"])`, `int(o, &["status", "replicas"])`
    static LISTS: LazyLock<[Regex; 2]> = LazyLock::new(|| {
        [
            regex(r"\b(?:at|str_at|i64_at|array_at|strings_at)\(\s*&\[([^\[\]]*)\]"),
            regex(r#"[^.\w](?:int|immutable|one_of|not_negative)\(\s*[^;{}\[\]"]*?&\[([^\[\]]*)\]"#),
        ]
    });
    /// `let path = &["spec", "nodeName"];`, and no values, which begin with a capital
    static NAMED: LazyLock<Regex> = LazyLock::new(|| regex(r#"let \w+(?:: [^=;]+)? = &\[("[a-z][^\[\]]*)\];"#));
    /// `object["spec"]["nodeName"]`
    static INDEX: LazyLock<Regex> = LazyLock::new(|| regex(r#"[\w)\]?]((?:\[(?:"[^"]*"|\*?\w+)\])+)"#));
    static INDEX_STEP: LazyLock<Regex> = LazyLock::new(|| regex(r#"\[("[^"]*"|\*?\w+)\]"#));
    /// `field.at("spec").at("nodeName")`
    static CHAIN: LazyLock<Regex> = LazyLock::new(|| regex(r#"(?:\.at\(\s*(?:"[^"]*"|\w+)\s*\)\s*)+"#));
    static CHAIN_STEP: LazyLock<Regex> = LazyLock::new(|| regex(r#"\.at\(\s*("[^"]*"|\w+)\s*\)"#));
    /// `default(spec, "replicas", …)`, `map.remove("status")`
    static SINGLE: LazyLock<[Regex; 2]> = LazyLock::new(|| {
        [
            regex(
                r#"\b(?:default|default_text|default_number|default_list|child|items|set)\(\s*[\w.()?]+,\s*("[^"]*")"#,
            ),
            regex(r#"\.(?:get|get_mut|remove|child_mut|contains_key|entry|insert)\(\s*("[^"]*")"#),
        ]
    });
    /// `for field in ["hostname", "subdomain"]`
    static LOOP: LazyLock<Regex> = LazyLock::new(|| regex(r#"\bin \[((?:\s*"[^"]*",?)+)\s*\]"#));
    let code = COMMENT.replace_all(code, "");
    let mut found: Vec<Vec<String>> = Vec::new();
    for pattern in LISTS.iter() {
        found.extend(pattern.captures_iter(&code).map(|c| steps(&c[1])));
    }
    found.extend(NAMED.captures_iter(&code).map(|c| steps(&c[1])));
    for (whole, step) in [(&*INDEX, &*INDEX_STEP), (&*CHAIN, &*CHAIN_STEP)] {
        for chain in whole.find_iter(&code) {
            found.push(step.captures_iter(chain.as_str()).flat_map(|c| steps(&c[1])).collect());
        }
    }
    for pattern in SINGLE.iter() {
        found.extend(pattern.captures_iter(&code).map(|c| steps(&c[1])));
    }
    for list in LOOP.captures_iter(&code) {
        let words = steps(&list[1]).into_iter().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        found.extend(words.map(|word| vec![word]));
    }
    // Keys of labels and annotations have a domain.
    found.retain(|path| path.iter().any(|step| step != ANY) && !path.iter().any(|step| step.contains('/')));
    found.into_iter().map(|path| path.into_iter().skip_while(|step| step == ANY).collect()).collect()
}

/// All objects within a type.
fn objects(root: &'static Type, found: &mut Vec<&'static Type>) {
    let of = types().resolve(root);
    match of {
        Type::Object { fields, .. } if !found.iter().any(|known| std::ptr::eq(*known, of)) => {
            found.push(of);
            fields.iter().for_each(|(_, field)| objects(field, found));
        }
        Type::Map { values, .. } => objects(values, found),
        Type::List { items, .. } => objects(items, found),
        _ => {}
    }
}

/// Whether a path that begins at a type leads to a field.
fn leads(of: &'static Type, path: &[String]) -> bool {
    let Some((step, rest)) = path.split_first() else { return true };
    match types().resolve(of) {
        Type::Object { fields, .. } => {
            fields.iter().filter(|(name, _)| step == ANY || name == step).any(|(_, field)| leads(field, rest))
        }
        Type::Map { values, .. } => leads(values, rest),
        Type::List { items, .. } => leads(items, path) || (step == ANY && leads(items, rest)),
        Type::Any => true,
        _ => false,
    }
}

/// All objects within kinds, and within what they are kept as.
fn objects_of<'a>(kinds: impl IntoIterator<Item = &'a Kind>) -> Vec<&'static Type> {
    let mut known = Vec::new();
    for kind in kinds.into_iter().flat_map(|kind| [Some(kind), kind.kept_as()]).flatten() {
        objects(types().get(&kind.schema()).unwrap(), &mut known);
    }
    known
}

/// What is misspelt in a source about some objects, and how many paths there are.
fn misspelt(code: &str, known: &[&'static Type]) -> (Vec<String>, usize) {
    let paths = paths(code);
    let is_wrong = |path: &&Vec<String>| {
        let is_key = path.len() == 1 && KEYS.contains(&path[0].as_str());
        !is_key && !known.iter().any(|of| leads(of, path))
    };
    (paths.iter().filter(is_wrong).map(|path| path.join(".")).collect(), paths.len())
}

fn read(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]").next().unwrap().to_string()
}

/// The files of a folder and of those in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    all.retain(|path| path.file_name().is_some_and(|name| name != "tests.rs"));
    all
}

/// The kinds whose constants are in a source.
fn kinds_in(code: &str, group: &str) -> Vec<&'static Kind> {
    static KIND: LazyLock<Regex> =
        LazyLock::new(|| regex(r#"Kind::(?:namespaced|cluster)\(\s*GROUP,\s*"([^"]+)",\s*"[^"]+",\s*"([^"]+)""#));
    KIND.captures_iter(code).map(|c| find(group, &c[1], &c[2]).unwrap()).collect()
}

#[test]
fn every_path_in_a_module_leads_to_a_field() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kinds");
    let group = regex(r#"const GROUP: &str = "([^"]*)""#);
    let (mut wrong, mut count, mut seen) = (Vec::new(), 0, 0);
    for folder in std::fs::read_dir(&modules).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let hall = read(&folder.join("mod.rs"));
        let group = &group.captures(&hall).unwrap()[1];
        let all: Vec<&Kind> = files(&folder).iter().flat_map(|file| kinds_in(&read(file), group)).collect();
        seen += all.len();
        for file in files(&folder) {
            let code = read(&file);
            let own = kinds_in(&code, group);
            // What stands beside a kind in a folder of its own is about it, and what stands beside all is about all.
            let beside = file.with_file_name("mod.rs");
            let near = if file.parent() == Some(&folder) { Vec::new() } else { kinds_in(&read(&beside), group) };
            let kinds = [own, near, all.clone()].into_iter().find(|kinds| !kinds.is_empty()).unwrap();
            let (found, paths) = misspelt(&code, &objects_of(kinds));
            count += paths;
            wrong.extend(found.into_iter().map(|path| format!("{}: {path}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(seen, super::KINDS.iter().chain(super::OLDER).count(), "a kind is in no module");
    assert!(count > 1400, "of the paths only {count} were found");
}

#[test]
fn every_path_in_the_servers_and_controllers_leads_to_a_field_of_some_kind() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf();
    let mut known = objects_of(super::KINDS.iter().chain(super::OLDER));
    // What is sent to subresources, and what is answered.
    for name in [
        "api.autoscaling.v1.Scale",
        "api.policy.v1.Eviction",
        "api.authentication.v1.TokenRequest",
        "apimachinery.pkg.apis.meta.v1.DeleteOptions",
        "apimachinery.pkg.apis.meta.v1.Status",
    ] {
        objects(types().get(&format!("io.k8s.{name}")).unwrap(), &mut known);
    }
    let (mut wrong, mut count) = (Vec::new(), 0);
    for file in OTHER_SOURCES.iter().flat_map(|source| files(&crates.join(source))) {
        let name = file.strip_prefix(&crates).unwrap().display().to_string();
        if OTHER_DOCUMENTS.iter().any(|other| name.starts_with(other)) {
            continue;
        }
        let (found, paths) = misspelt(&read(&file), &known);
        count += paths;
        wrong.extend(found.into_iter().map(|path| format!("{name}: {path}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 500, "of the paths only {count} were found");
}

#[test]
fn misspelt_paths_are_found_however_they_are_written() {
    let pods = objects_of([super::PODS]);
    for (code, want) in [
        (r#"o.str_at(&["spec", "nodeName"])"#, None),
        (r#"o.str_at(&["spec", "nodName"])"#, Some("spec.nodName")),
        (r#"o.at(&["spec", "containers", index, "image"])"#, None),
        (r#"o.at(&["spec", "containers", index, "imege"])"#, Some("spec.containers.*.imege")),
        (r#" int(o, &["status", "podIp"])"#, Some("status.podIp")),
        (r#" one_of(o, path, "spec.x", &["Never", "Always"], causes)"#, None),
        (r#"let path = &["spec", "nodName"];"#, Some("spec.nodName")),
        (r#"let values = &["Never", "Always"];"#, None),
        (r#"o["spec"]["volumes"]"#, None),
        (r#"o["spec"][list]["image"]"#, None),
        (r#"o["spec"]["volume"]"#, Some("spec.volume")),
        (r#"spec.at("securityContext").at("runAsUser")"#, None),
        (r#"spec.at("securityContext").at("runAs")"#, Some("securityContext.runAs")),
        (r#"default(spec, "dnsPolicie", || x)"#, Some("dnsPolicie")),
        (r#"spec.remove("serviceAcount")"#, Some("serviceAcount")),
        (r#"for field in ["hostname", "subdomian"] {}"#, Some("subdomian")),
        (r#"kind.one_of(&["Never", "Always"], causes)"#, None),
        (r#"labels["kubernetes.io/metadata.name"]"#, None),
        (r#"// o["nothing"]"#, None),
    ] {
        let (found, _) = misspelt(code, &pods);
        assert_eq!(found, want.into_iter().collect::<Vec<_>>(), "{code}");
    }
}
