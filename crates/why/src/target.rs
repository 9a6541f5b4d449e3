//! What somebody asks about.

use anyhow::bail;

use crate::kinds::Kind;
use crate::object::{name, nearest};
use crate::snapshot::{ObjectRef, Snapshot};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The whole cluster, or a namespace where one was given.
    All,
    /// All objects of a kind.
    Kind(Kind),
    /// One object.
    Object(Kind, String),
    /// An object of a kind that wasn't said.
    Name(String),
    /// A code.
    Code(&'static crate::codes::Code),
}

impl Question {
    /// Reads `KIND/NAME`, `KIND NAME`, `KIND`, `NAME`, a code, or nothing.
    ///
    /// # Errors
    /// When a kind isn't known, with the nearest one.
    pub fn read(words: &[String]) -> anyhow::Result<Self> {
        let known = |word: &str| match Kind::asked(word) {
            Some(kind) => Ok(kind),
            None => {
                let near = nearest(&word.to_lowercase(), Kind::words())
                    .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                bail!("the kind `{word}` isn't one that can be asked about{near} (`timonel why --help` lists them)")
            }
        };
        Ok(match words {
            [] => Question::All,
            [word] if word.to_uppercase().starts_with("W-") => match crate::codes::find(word) {
                Some(code) => Question::Code(code),
                None => {
                    let near = nearest(&word.to_uppercase(), crate::codes::ALL.iter().map(|c| c.id));
                    bail!(
                        "there is no code `{word}`{}",
                        near.map_or(String::new(), |near| format!("; did you mean `{near}`?"))
                    )
                }
            },
            [word] => match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => Question::Object(known(kind)?, name.into()),
                Some((kind, _)) => Question::Kind(known(kind)?),
                None => Kind::asked(word).map_or_else(|| Question::Name(word.clone()), Question::Kind),
            },
            [kind, name] => Question::Object(known(kind)?, name.clone()),
            _ => bail!("one thing at a time: KIND/NAME, as in `timonel why deployment/web`"),
        })
    }

    /// Whether only a namespace must be read for it.
    pub fn is_in_a_namespace(&self) -> bool {
        match self {
            Question::All | Question::Code(_) => false,
            Question::Kind(kind) | Question::Object(kind, _) => kind.resource().namespaced,
            Question::Name(_) => true,
        }
    }
}

/// Finds what was asked about.
///
/// # Errors
/// When it isn't there, with the nearest name; when it may not be seen.
pub fn find(s: &Snapshot, question: &Question, space: &str) -> anyhow::Result<Vec<ObjectRef>> {
    match question {
        Question::All | Question::Code(_) => Ok(Vec::new()),
        Question::Kind(kind) => {
            let all: Vec<ObjectRef> = objects(s, *kind, space).map(|object| ObjectRef::of(*kind, object)).collect();
            if all.is_empty() {
                bail!("there are no {}{}", kind.resource().plural, place(*kind, space));
            }
            Ok(all)
        }
        Question::Object(kind, wanted) => {
            let reference = ObjectRef::new(*kind, space, wanted);
            if s.find(&reference).is_some() {
                return Ok(vec![reference]);
            }
            if !s.knows(*kind, space) {
                bail!(
                    "you may not list {}{}, so nothing can be said of {wanted:?}",
                    kind.resource().plural,
                    place(*kind, space)
                );
            }
            let elsewhere = s.all(*kind).find(|o| name(o) == wanted).map(|o| crate::object::namespace(o).to_string());
            let near = nearest(wanted, objects(s, *kind, space).map(name)).map(str::to_string);
            let hint = match (elsewhere, near) {
                (Some(other), _) => format!("; there is one in namespace {other} (-n {other})"),
                (None, Some(near)) => format!("; did you mean `{near}`?"),
                _ => String::new(),
            };
            bail!("there is no {} {wanted:?}{}{hint}", kind.resource().name, place(*kind, space))
        }
        Question::Name(wanted) => by_name(s, wanted, space),
    }
}

fn objects<'a>(s: &'a Snapshot, kind: Kind, space: &'a str) -> Box<dyn Iterator<Item = &'a serde_json::Value> + 'a> {
    if kind.resource().namespaced { Box::new(s.within(kind, space)) } else { Box::new(s.all(kind)) }
}

fn place(kind: Kind, space: &str) -> String {
    if kind.resource().namespaced { format!(" in namespace {space}") } else { String::new() }
}

fn by_name(s: &Snapshot, wanted: &str, space: &str) -> anyhow::Result<Vec<ObjectRef>> {
    let asked = crate::kinds::RESOURCES.iter().filter(|r| !r.asked.is_empty());
    let found: Vec<ObjectRef> =
        asked.clone().map(|r| ObjectRef::new(r.kind, space, wanted)).filter(|r| s.find(r).is_some()).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    if let Some(kind) = nearest(&wanted.to_lowercase(), Kind::words()) {
        bail!("`{wanted}` is neither a kind nor the name of something in namespace {space}; did you mean `{kind}`?");
    }
    let names: Vec<&str> = asked.flat_map(|r| objects(s, r.kind, space).map(name).collect::<Vec<_>>()).collect();
    let near = nearest(wanted, names).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    bail!("nothing in namespace {space} is called {wanted:?}{near}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> anyhow::Result<Question> {
        Question::read(&words.iter().map(|w| (*w).to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn questions_are_read_and_unknown_kinds_get_the_nearest() {
        assert_eq!(read(&[]).unwrap(), Question::All);
        assert_eq!(read(&["deploy/web"]).unwrap(), Question::Object(Kind::Deployment, "web".into()));
        assert_eq!(read(&["pod", "web"]).unwrap(), Question::Object(Kind::Pod, "web".into()));
        assert_eq!(read(&["pods"]).unwrap(), Question::Kind(Kind::Pod));
        assert_eq!(read(&["web"]).unwrap(), Question::Name("web".into()));
        assert!(matches!(read(&["w-exit-oom"]).unwrap(), Question::Code(code) if code.id == "W-EXIT-OOM"));
        let error = read(&["deploymnt/web"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `deployment`?"), "{error}");
        let error = read(&["W-EXIT-OON"]).unwrap_err().to_string();
        assert!(error.contains("W-EXIT-OOM"), "{error}");
    }
}
