//! The one program of the built-in image `timonel.local/hello:1`. Called `hello` it is a small web server, whose pages say which pod answers; by
//! the name of a tool (`sh`, `ls`, `get` …) it is that tool, for `kubectl exec`.

mod dns;
mod error;
mod input;
mod server;
mod shell;
mod signals;
mod tools;

use std::io::Write as _;
use std::process::ExitCode;

/// The name that a program was called by, without its folder.
fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    // `hello TOOL …` is that tool, too.
    if words.len() > 1 && base_name(&words[0]) == "hello" && !words[1].starts_with('-') {
        words.remove(0);
    }
    let name = words.first().map_or("hello", |word| base_name(word)).to_string();
    let arguments = words.get(1..).unwrap_or_default();
    let mut output = std::io::stdout().lock();
    let done = match name.as_str() {
        "hello" => {
            drop(output);
            return server::run(arguments);
        }
        "sh" => {
            drop(output);
            return ExitCode::from(shell::run(arguments));
        }
        tool => tools::run(tool, arguments, &mut std::io::stdin().lock(), &mut output),
    };
    let done = done.and_then(|code| output.flush().map(|()| code).map_err(error::Error::from));
    ExitCode::from(done.unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        1
    }))
}
