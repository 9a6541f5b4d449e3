//! `-o custom-columns`: a table of paths.

use apimachinery::jsonpath::Path;
use serde_json::Value;

use super::{escape, go_text, tabwriter};
use crate::error::{Error, Result, fail};

pub struct Columns {
    columns: Vec<(String, Path)>,
    without_head: bool,
}

impl Columns {
    /// `NAME:.metadata.name,…`
    ///
    /// # Errors
    /// When a column isn't a name and a path.
    pub fn parse(spec: &str, without_head: bool) -> Result<Self> {
        if spec.is_empty() {
            return fail("custom-columns format specified but no custom columns given");
        }
        let mut columns = Vec::new();
        for part in spec.split(',') {
            let Some((head, path)) = part.split_once(':') else {
                return fail(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"));
            };
            columns.push((head.to_string(), relaxed(path)?));
        }
        Ok(Columns { columns, without_head })
    }

    /// A file with a line of names and one of paths.
    ///
    /// # Errors
    /// When the lines don't fit.
    pub fn of_file(text: &str) -> Result<Self> {
        let mut lines = text.split('\n').map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (heads, paths) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if heads.is_empty() || paths.is_empty() {
            return fail(
                "invalid template, missing header or spec line. Expected format is one line of space separated headers, one line of space separated column specs.",
            );
        }
        if heads.len() != paths.len() {
            return fail(format!(
                "number of headers ({}) and field specifications ({}) don't match",
                heads.len(),
                paths.len()
            ));
        }
        let columns = heads.into_iter().zip(paths).map(|(head, path)| Ok((head.to_string(), relaxed(path)?)));
        Ok(Columns { columns: columns.collect::<Result<_>>()?, without_head: false })
    }

    /// # Errors
    /// When a path can't be taken.
    pub fn text(&self, object: &Value, first: bool) -> Result<String> {
        let mut out = String::new();
        if first && !self.without_head {
            let heads: Vec<&str> = self.columns.iter().map(|(head, _)| head.as_str()).collect();
            out = heads.join("\t") + "\n";
        }
        let one = [object.clone()];
        let items = object["items"].as_array().filter(|_| object["kind"].as_str().is_some_and(|k| k.ends_with("List")));
        for item in items.map_or(&one[..], Vec::as_slice) {
            let cells = self.columns.iter().map(|(_, path)| -> Result<String> {
                let found = path.find(item, true).map_err(Error::Message)?;
                let texts: Vec<String> = found.into_iter().map(|v| escape(&go_text(v))).collect();
                Ok(if texts.is_empty() { "<none>".into() } else { texts.join(",") })
            });
            out += &(cells.collect::<Result<Vec<_>>>()?.join("\t") + "\n");
        }
        Ok(tabwriter::format(&out, tabwriter::TABLE, None))
    }
}

/// A path with or without braces and a dot in front.
///
/// # Errors
/// When it isn't one.
pub fn relaxed(path: &str) -> Result<Path> {
    let inner = path.strip_prefix('{').and_then(|p| p.strip_suffix('}')).unwrap_or(path);
    if inner.is_empty() || inner.contains(['{', '}']) && !inner.contains("[?") {
        return fail(
            "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'",
        );
    }
    let inner = inner.strip_prefix('.').unwrap_or(inner);
    let dotted = if inner.starts_with('[') { inner.to_string() } else { format!(".{inner}") };
    Path::parse(&dotted).map_err(Error::Message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_paths() {
        let list = json!({"kind": "List", "items": [{"a": {"b": 1}, "l": ["x", "y"]}, {"a": {}}]});
        let columns = Columns::parse("A:.a.b,L:{.l[*]},M:a", false).unwrap();
        assert_eq!(
            columns.text(&list, true).unwrap(),
            "A        L        M\n1        x,y      map[b:1]\n<none>   <none>   map[]\n"
        );
        let file = Columns::of_file("X Y\n.a.b .l\n").unwrap();
        assert_eq!(file.text(&list["items"][0], true).unwrap(), "X     Y\n1     [x y]\n");
        for bad in ["", "A", "A:"] {
            assert!(Columns::parse(bad, false).is_err(), "{bad}");
        }
    }
}
