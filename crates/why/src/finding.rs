//! What a rule found.

use crate::codes::Code;
use crate::snapshot::ObjectRef;

/// Something that is wrong, or worth knowing, about an object.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What kind of thing it is.
    pub code: &'static Code,
    /// The object that it is about.
    pub object: ObjectRef,
    /// What is wrong, in one sentence without the object's name at its start.
    pub says: String,
    /// Further lines: what was asked, what was answered, figures, last lines of a log.
    pub details: Vec<String>,
    /// What follows from it.
    pub follows: Option<String>,
    /// The next commands to type.
    pub next: Vec<String>,
    /// Objects whose findings explain this one, besides those that the object depends on anyway.
    pub because: Vec<ObjectRef>,
}

impl Finding {
    /// One with a sentence alone.
    pub fn new(code: &'static Code, object: ObjectRef, says: impl Into<String>) -> Self {
        Finding {
            code,
            object,
            says: says.into(),
            details: Vec::new(),
            follows: None,
            next: Vec::new(),
            because: Vec::new(),
        }
    }

    /// With a further line, unless that is empty.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        let line = line.into();
        if !line.is_empty() {
            self.details.push(line);
        }
        self
    }

    /// With further lines.
    #[must_use]
    pub fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// With what follows.
    #[must_use]
    pub fn follows(mut self, sentence: impl Into<String>) -> Self {
        self.follows = Some(sentence.into());
        self
    }

    /// With a command to type next.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }

    /// With an object that explains it.
    #[must_use]
    pub fn because(mut self, object: ObjectRef) -> Self {
        self.because.push(object);
        self
    }
}
