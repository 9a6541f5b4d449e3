//! What a tool, the shell or the server can't do, in words for who called it.

use std::borrow::Cow;
use std::fmt;

type Words = Cow<'static, str>;

#[derive(Debug)]
pub enum Error {
    /// A word of the command line is wrong, or how the program is called.
    Arguments(Words),
    /// The shell's text isn't whole, or has what this shell doesn't know.
    Syntax(Words),
    /// A name server or a web server doesn't answer, or not with what can be used.
    Answer(Words),
    /// The kernel refuses an operation; on what, which is empty where that is plain.
    Io { what: Words, source: std::io::Error },
}

impl Error {
    pub fn arguments(words: impl Into<Words>) -> Self {
        Error::Arguments(words.into())
    }

    pub fn syntax(words: impl Into<Words>) -> Self {
        Error::Syntax(words.into())
    }

    pub fn answer(words: impl Into<Words>) -> Self {
        Error::Answer(words.into())
    }

    /// Says on what the kernel refuses an operation.
    pub fn on<E: Into<std::io::Error>>(what: impl Into<Words>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Error::Io { what, source: error.into() }
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Error::Io { what: Words::default(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Arguments(words) | Error::Syntax(words) | Error::Answer(words) => to.write_str(words),
            Error::Io { what, source } if what.is_empty() => source.fmt(to),
            Error::Io { what, source } => write!(to, "{what}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
