//! What goes wrong, and how it is told: in upstream's words, as scripts look for them.

use serde_json::Value;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    /// The server's answer (a `Status`), and what stands before its message.
    Status(Box<Value>, String),
    /// Told after `error: `.
    Message(String),
    /// Told as it is.
    Plain(String),
    /// No resource of this type: the resource, its version and group.
    NoResource(String, String, String),
    /// Several.
    Many(Vec<Error>),
    /// Nothing is told; the process ends with this code.
    Exit(u8),
}

impl Error {
    pub fn reason(&self) -> &str {
        match self {
            Error::Status(status, _) => status["reason"].as_str().unwrap_or(""),
            _ => "",
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound"
    }

    /// The same with words before the message, as `error when creating "file"`.
    pub fn with_prefix(self, prefix: &str) -> Self {
        match self {
            Error::Status(status, before) => Error::Status(status, format!("{prefix}: {before}")),
            Error::Message(text) => Error::Message(format!("{prefix}: {text}")),
            Error::NoResource(..) => Error::Message(format!("{prefix}: {}", self.text())),
            other => other,
        }
    }

    /// The message alone.
    pub fn text(&self) -> String {
        match self {
            Error::Status(status, before) => format!("{before}{}", status["message"].as_str().unwrap_or("unknown")),
            Error::Message(text) | Error::Plain(text) => text.clone(),
            Error::NoResource(resource, version, group) => {
                let place = match (version.is_empty(), group.is_empty()) {
                    (true, true) => String::new(),
                    (true, false) => format!(" in group {group:?}"),
                    (false, true) => format!(" in version {version:?}"),
                    (false, false) => format!(" in group {group:?} and version {version:?}"),
                };
                format!("the server doesn't have a resource type {resource:?}{place}")
            }
            Error::Many(all) => all.iter().map(|e| format!("{}\n", e.told())).collect(),
            Error::Exit(_) => String::new(),
        }
    }

    /// As one of several it is told this way.
    fn told(&self) -> String {
        match self {
            Error::Status(status, _) => match status["reason"].as_str().unwrap_or("") {
                "Unauthorized" => format!("error: You must be logged in to the server ({})", self.text()),
                "" => format!("Error from server: {}", self.text()),
                reason => format!("Error from server ({reason}): {}", self.text()),
            },
            other => other.text(),
        }
    }

    /// What is printed, and the exit code.
    pub fn report(&self) -> (String, u8) {
        let text = match self {
            Error::Exit(code) => return (String::new(), *code),
            Error::Many(all) if all.len() == 1 => return all[0].report(),
            Error::Status(status, before) if status["reason"] == "Invalid" && before.is_empty() => invalid(status),
            Error::Message(text) if text.starts_with("error: ") => text.clone(),
            Error::Message(text) => format!("error: {text}"),
            Error::NoResource(..) => format!("error: {}", self.text()),
            other => other.told(),
        };
        (if text.ends_with('\n') || text.is_empty() { text } else { text + "\n" }, 1)
    }
}

/// An object that the server refuses, with what is wrong in it.
fn invalid(status: &Value) -> String {
    let details = &status["details"];
    let text = |at: &str| details[at].as_str().unwrap_or("");
    let message = status["message"].as_str().unwrap_or("");
    if details.is_null() {
        return format!("The request is invalid: {message}");
    }
    let mut causes: Vec<String> = Vec::new();
    for cause in details["causes"].as_array().into_iter().flatten() {
        let line = format!("{}: {}", cause["field"].as_str().unwrap_or(""), cause["message"].as_str().unwrap_or(""));
        if !causes.contains(&line) {
            causes.push(line);
        }
    }
    let head = if !text("kind").is_empty() || !text("name").is_empty() {
        format!("The {} {:?} is invalid", text("kind"), text("name"))
    } else if !message.is_empty() && causes.is_empty() {
        format!("The request is invalid: {message}")
    } else {
        "The request is invalid".into()
    };
    match causes.as_slice() {
        [] => head,
        [one] => format!("{head}: {one}"),
        several => format!("{head}: \n{}", several.iter().map(|c| format!("* {c}\n")).collect::<String>()),
    }
}

/// An error of several, if there are any.
pub fn all(errors: Vec<Error>) -> Result<()> {
    if errors.is_empty() { Ok(()) } else { Err(Error::Many(errors)) }
}

pub fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Message(text.into()))
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Error::Message(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        // Who reads the output has gone: nobody is there to be told.
        if error.kind() == std::io::ErrorKind::BrokenPipe { Error::Exit(1) } else { Error::Message(error.to_string()) }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Message(error.to_string())
    }
}

impl From<http::Error> for Error {
    fn from(error: http::Error) -> Self {
        Error::Message(error.to_string())
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Error::Message(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_answers_are_told_in_upstreams_words() {
        let status = |v: Value| Error::Status(Box::new(v), String::new());
        let not_found = status(json!({"reason": "NotFound", "message": "pods \"x\" not found"}));
        assert_eq!(not_found.report(), ("Error from server (NotFound): pods \"x\" not found\n".into(), 1));
        let invalid = status(json!({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "x",
            "causes": [{"field": "a", "message": "b"}, {"field": "c", "message": "d"}, {"field": "a", "message": "b"}]}}));
        assert_eq!(invalid.report().0, "The Pod \"x\" is invalid: \n* a: b\n* c: d\n");
        let prefixed = status(json!({"reason": "Conflict", "message": "m"})).with_prefix("error when replacing \"f\"");
        assert_eq!(prefixed.report().0, "Error from server (Conflict): error when replacing \"f\": m\n");
        assert_eq!(Error::Many(vec![Error::Message("a".into())]).report().0, "error: a\n");
        let missing = Error::NoResource("x".into(), String::new(), String::new());
        assert_eq!(missing.report().0, "error: the server doesn't have a resource type \"x\"\n");
    }
}
