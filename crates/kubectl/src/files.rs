//! Objects of `-f`: files, directories, URLs and standard input, read to a limit.

use std::path::{Path, PathBuf};

use apimachinery::yaml;
use bounded::Limits;
use kube::{Client, Config};
use serde_json::Value;

use crate::client;
use crate::context::Context;
use crate::error::{Error, Result, fail};

/// More files than these are not read, and directories no deeper.
const MAX_FILES: usize = 10_000;
const MAX_FOLDERS: usize = 1_000;

/// An object, and where it was read.
#[derive(Debug, Clone)]
pub struct Document {
    pub object: Value,
    pub source: String,
}

/// What `-f` and `-k` name.
pub struct Documents {
    pub all: Vec<Document>,
    /// Whether it was one file with one object.
    pub single: bool,
}

/// Reads what `-f` names.
///
/// # Errors
/// When something can't be read or isn't an object.
pub async fn read(cx: &Context) -> Result<Documents> {
    if !cx.args.text("kustomize").is_empty() {
        return fail(
            "kustomizations are not built by this kubectl: use 'kustomize build DIR | kubectl apply -f -' (https://kustomize.io), or the stock kubectl",
        );
    }
    let mut all = Vec::new();
    let files = cx.args.many("filename");
    let mut single = files.len() == 1;
    if files.iter().filter(|f| *f == "-").count() > 1 {
        return fail("standard input cannot be used for multiple arguments");
    }
    for file in files {
        if file == "-" {
            single = false;
            let text = bounded::bytes_of(std::io::stdin(), bounded::MAX_OWN_FILE_BYTES)?;
            parse(&text, "STDIN", &mut all)?;
        } else if file.starts_with("http://") || file.starts_with("https://") {
            parse(&download(file).await?, file, &mut all)?;
        } else {
            let path = Path::new(file);
            single &= path.is_file();
            for found in expand(path, cx.args.is("recursive"))? {
                let text = bounded::bytes(&found, bounded::MAX_OWN_FILE_BYTES);
                let source = found.display().to_string();
                let text = text.map_err(|error| Error::Message(format!("error reading [{source}]: {error}")))?;
                parse(&text, &source, &mut all)?;
            }
        }
    }
    single &= all.len() == 1;
    Ok(Documents { all, single })
}

/// The files of a path: of a directory those that are JSON or YAML by their names.
fn expand(path: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let shown = path.display().to_string();
    let Ok(found) = std::fs::metadata(path) else {
        return fail(format!("the path {shown:?} does not exist"));
    };
    if !found.is_dir() {
        return Ok(vec![path.into()]);
    }
    let (mut folders, mut files) = (vec![path.to_path_buf()], Vec::new());
    let mut seen = 0_usize;
    while let Some(folder) = folders.pop() {
        seen = seen.saturating_add(1);
        let mut entries: Vec<PathBuf> = std::fs::read_dir(&folder)?.filter_map(|e| Some(e.ok()?.path())).collect();
        entries.sort();
        for entry in entries {
            let extension = entry.extension().and_then(|e| e.to_str()).unwrap_or("");
            if entry.is_dir() && recursive && !entry.is_symlink() {
                folders.push(entry);
            } else if entry.is_file() && ["json", "yaml", "yml"].contains(&extension) {
                files.push(entry);
            }
        }
        if seen > MAX_FOLDERS || files.len() > MAX_FILES {
            return fail(format!("{shown:?} has more than {MAX_FILES} files or {MAX_FOLDERS} directories"));
        }
    }
    if files.is_empty() {
        return fail(format!("error reading [{shown}]: recognized file extensions are [.json .yaml .yml]"));
    }
    files.sort();
    Ok(files)
}

async fn download(address: &str) -> Result<Vec<u8>> {
    let wrong = |error: &dyn std::fmt::Display| Error::Message(format!("unable to read URL {address:?}, {error}"));
    let uri: http::Uri = address.parse().map_err(|error: http::uri::InvalidUri| wrong(&error))?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_string();
    let host = format!("{}://{}", uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |a| a.as_str()));
    let client = Client::try_from(Config::new(host.parse().map_err(|error: http::uri::InvalidUri| wrong(&error))?));
    let client = client.map_err(|error| wrong(&error))?;
    let request = http::Request::get(path).header("Accept", "*/*").body(kube::client::Body::empty())?;
    let answer = client.send(request).await.map_err(|error| wrong(&crate::context::chain(&error)))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(wrong(&format!("server reported {status}, status code={}", status.as_u16())));
    }
    client::read(answer).await
}

/// Takes the objects out of a text; lists are their items.
///
/// # Errors
/// When it is no YAML or JSON of objects.
pub fn parse(text: &[u8], source: &str, all: &mut Vec<Document>) -> Result<()> {
    let wrong = |error: &dyn std::fmt::Display| Error::Message(format!("error parsing {source}: {error}"));
    for document in yaml::all(text, Limits::FILE).map_err(|error| wrong(&error))? {
        let value = document.value;
        if value.is_null() {
            continue;
        }
        if !value.is_object() {
            return Err(wrong(&"json: cannot unmarshal the document into an object"));
        }
        let kind = value["kind"].as_str().unwrap_or("");
        if kind.is_empty() {
            return fail(format!(
                "error validating \"{source}\": error validating data: kind not set; if you choose to ignore these errors, turn validation off with --validate=false"
            ));
        }
        if value["apiVersion"].as_str().unwrap_or("").is_empty() {
            return fail(format!(
                "error validating \"{source}\": error validating data: apiVersion not set; if you choose to ignore these errors, turn validation off with --validate=false"
            ));
        }
        match value["items"].as_array() {
            Some(items) if kind.ends_with("List") => {
                all.extend(items.iter().map(|object| Document { object: object.clone(), source: source.into() }));
            }
            _ => all.push(Document { object: value, source: source.into() }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_their_items_and_what_has_no_kind_is_refused() {
        let mut all = Vec::new();
        let text = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: A}, {apiVersion: v1, kind: B}]\n---\napiVersion: v1\nkind: C\n";
        parse(text.as_bytes(), "f", &mut all).unwrap();
        assert_eq!(all.iter().map(|d| d.object["kind"].as_str().unwrap()).collect::<String>(), "ABC");
        for bad in ["a: 1", "[1]", "apiVersion: v1", "kind: X", "{"] {
            assert!(parse(bad.as_bytes(), "f", &mut all).is_err(), "{bad}");
        }
    }
}
