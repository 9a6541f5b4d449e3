//! `-o go-template`: Go's `text/template` as far as templates of objects use it: fields, variables, pipelines, `if`, `with`, `range` with `else`,
//! and the functions of the table below. What isn't there (`define`, `template`, `block`, `break`, `continue`, methods) is refused when the template is read.

mod eval;
mod parse;

use serde_json::Value;

use crate::error::{Error, Result};

/// Blocks in blocks, and parentheses in parentheses, beyond this depth are refused.
const MAX_DEPTH: usize = 32;
/// What a template makes has no more bytes.
const MAX_OUTPUT: usize = 256 << 20;

/// Functions that are known.
const FUNCTIONS: &[&str] = &[
    "and",
    "or",
    "not",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "len",
    "index",
    "print",
    "printf",
    "println",
    "exists",
    "base64decode",
    "html",
    "js",
    "urlquery",
    "slice",
];

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    /// A pipeline whose value is printed, unless it sets a variable.
    Action(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
}

#[derive(Debug, Clone, Default)]
struct Pipeline {
    /// `$x :=`, `$i, $x :=`
    variables: Vec<String>,
    commands: Vec<Vec<Operand>>,
}

#[derive(Debug, Clone)]
enum Operand {
    Literal(Value),
    /// `.a.b`
    Field(Vec<String>),
    /// `$x.a`
    Variable(String, Vec<String>),
    Function(String),
    Nested(Pipeline, Vec<String>),
}

pub struct Template {
    nodes: Vec<Node>,
    may_miss: bool,
    source: String,
}

impl Template {
    /// # Errors
    /// When it isn't one, or has what isn't served.
    pub fn parse(source: &str, may_miss: bool) -> Result<Self> {
        let nodes = parse::template(source)
            .map_err(|error| Error::Message(format!("error parsing template {source}, template: output:1: {error}")))?;
        Ok(Template { nodes, may_miss, source: source.into() })
    }

    /// # Errors
    /// When an action can't be done.
    pub fn fill(&self, object: &Value) -> Result<String> {
        let mut run =
            eval::Run { out: String::new(), variables: vec![("$".into(), object.clone())], may_miss: self.may_miss };
        run.nodes(&self.nodes, object).map_err(|error| {
            Error::Message(format!("error executing template {:?}: template: output:1: {error}", self.source))
        })?;
        Ok(run.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled_in() {
        let object = json!({"items": [{"n": "a", "v": 1}, {"n": "b", "v": 2}], "m": {"k": "v"}, "d": "aGk=", "e": []});
        for (template, want) in [
            ("{{.m.k}}", "v"),
            ("{{range .items}}{{.n}}={{.v}} {{end}}", "a=1 b=2 "),
            ("{{range $i, $x := .items}}{{$i}}{{$x.n}}{{end}}", "0a1b"),
            ("{{range $k, $v := .m}}{{$k}}:{{$v}}{{end}}", "k:v"),
            ("{{if .e}}x{{else}}y{{end}}", "y"),
            ("{{if eq .m.k \"w\"}}x{{else if eq .m.k \"v\"}}z{{end}}", "z"),
            ("{{with .m}}{{.k}}{{end}}", "v"),
            ("{{len .items}} {{(index .items 1).n}}", "2 b"),
            ("{{.d | base64decode}}", "hi"),
            ("{{printf \"%s-%v\" .m.k 3}}", "v-3"),
            ("{{.missing}}", "<no value>"),
            ("a {{- \" b \" -}} c", "a b c"),
            ("{{/* nothing */}}x", "x"),
            ("{{index .m \"k\"}}{{\"\\n\"}}", "v\n"),
            ("{{if and (eq .m.k \"v\") (not .e)}}t{{end}}", "t"),
            ("{{range .e}}x{{else}}none{{end}}", "none"),
            ("{{.m}}", "map[k:v]"),
        ] {
            assert_eq!(Template::parse(template, true).unwrap().fill(&object).unwrap(), want, "{template}");
        }
        for bad in ["{{", "{{end}}", "{{range .a}}", "{{define \"x\"}}{{end}}", "{{nofunction 1}}", "{{break}}"] {
            assert!(Template::parse(bad, true).is_err(), "{bad}");
        }
        assert!(Template::parse(&"{{if .a}}".repeat(100), true).is_err());
        assert!(Template::parse("{{.missing.x}}", false).unwrap().fill(&object).is_err());
    }
}
