//! The tools of the image: what of each a look into a pod needs, and no more.

mod files;
mod network;
mod processes;

use std::io::{BufRead, Write};

use crate::error::Error;

/// All of them; the image has a link for each.
pub const NAMES: [&str; 26] = [
    "[", "cat", "echo", "env", "false", "get", "grep", "head", "help", "hostname", "id", "kill", "ls", "mkdir",
    "nslookup", "ps", "pwd", "rm", "sh", "sleep", "stat", "sync", "test", "touch", "true", "wc",
];

pub use processes::host_name;

/// What a tool ends with: its exit code, or what went wrong, which is code 1.
pub type Done = Result<u8, Error>;

/// Runs a tool.
pub fn run(name: &str, arguments: &[String], input: &mut dyn BufRead, output: &mut dyn Write) -> Done {
    match name {
        "true" => Ok(0),
        "false" => Ok(1),
        "echo" => echo(arguments, output),
        "help" => writeln!(output, "{}", NAMES.join(" ")).map(|()| 0).map_err(Error::from),
        "sleep" => sleep(arguments),
        "test" => test(arguments),
        "[" => match arguments.split_last() {
            Some((end, rest)) if end == "]" => test(rest),
            _ => Err(Error::arguments("the closing ] is missing")),
        },
        "cat" => files::cat(arguments, input, output),
        "grep" => files::grep(arguments, input, output),
        "head" => files::head(arguments, input, output),
        "ls" => files::ls(arguments, output),
        "mkdir" => files::mkdir(arguments),
        "rm" => files::rm(arguments),
        "stat" => files::stat(arguments, output),
        "touch" => files::touch(arguments),
        "wc" => files::wc(arguments, input, output),
        "env" => processes::env(arguments, output),
        "hostname" => processes::hostname(output),
        "id" => processes::id(output),
        "kill" => processes::kill(arguments),
        "ps" => processes::ps(output),
        "pwd" => processes::pwd(output),
        "sync" => {
            nix::unistd::sync();
            Ok(0)
        }
        "get" => network::get(arguments, output),
        "nslookup" => network::nslookup(arguments, output),
        _ => Err(Error::arguments(format!("there is no such tool; there are: {}", NAMES.join(" ")))),
    }
}

fn echo(arguments: &[String], output: &mut dyn Write) -> Done {
    let (end, words) = match arguments.split_first() {
        Some((flag, rest)) if flag == "-n" => ("", rest),
        _ => ("\n", arguments),
    };
    write!(output, "{}{end}", words.join(" ")).map(|()| 0).map_err(Error::from)
}

fn sleep(arguments: &[String]) -> Done {
    let [word] = arguments else { return Err(Error::arguments("usage: sleep SECONDS")) };
    if word == "infinity" {
        loop {
            std::thread::park();
        }
    }
    let (number, factor) = match word.as_bytes().last() {
        Some(b's') => (&word[..word.len() - 1], 1.0),
        Some(b'm') => (&word[..word.len() - 1], 60.0),
        Some(b'h') => (&word[..word.len() - 1], 3600.0),
        Some(b'd') => (&word[..word.len() - 1], 86400.0),
        _ => (word.as_str(), 1.0),
    };
    let wrong = || Error::arguments(format!("{word:?} is no time"));
    let seconds: f64 = number.parse().map_err(|_| wrong())?;
    let time = std::time::Duration::try_from_secs_f64(seconds * factor).map_err(|_| wrong())?;
    std::thread::sleep(time);
    Ok(0)
}

/// `test`: files, texts, numbers, and `!` before it.
fn test(arguments: &[String]) -> Done {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (is_negated, words) = match words.split_first() {
        Some((&"!", rest)) => (true, rest),
        _ => (false, &words[..]),
    };
    let number = |word: &str| word.parse::<i64>().map_err(|_| Error::arguments(format!("{word:?} is no number")));
    let meta = |path: &str| std::fs::metadata(path).ok();
    let holds = match *words {
        [] => false,
        [word] => !word.is_empty(),
        ["-z", word] => word.is_empty(),
        ["-n", word] => !word.is_empty(),
        ["-e", path] => meta(path).is_some(),
        ["-f", path] => meta(path).is_some_and(|meta| meta.is_file()),
        ["-d", path] => meta(path).is_some_and(|meta| meta.is_dir()),
        ["-s", path] => meta(path).is_some_and(|meta| meta.len() > 0),
        [left, "=" | "==", right] => left == right,
        [left, "!=", right] => left != right,
        [left, "-eq", right] => number(left)? == number(right)?,
        [left, "-ne", right] => number(left)? != number(right)?,
        [left, "-lt", right] => number(left)? < number(right)?,
        [left, "-le", right] => number(left)? <= number(right)?,
        [left, "-gt", right] => number(left)? > number(right)?,
        [left, "-ge", right] => number(left)? >= number(right)?,
        _ => return Err(Error::arguments(format!("this test isn't known: {}", words.join(" ")))),
    };
    Ok(u8::from(holds == is_negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a tool on an input: exit code and output, or the error.
    pub fn told(line: &[&str], mut input: &[u8]) -> Result<(u8, String), Error> {
        let words: Vec<String> = line[1..].iter().map(|word| word.to_string()).collect();
        let mut output = Vec::new();
        run(line[0], &words, &mut input, &mut output).map(|code| (code, String::from_utf8(output).unwrap()))
    }

    #[test]
    fn tests_and_words() {
        for (words, code) in [
            (&["a", "=", "a"][..], 0),
            (&["a", "=", "b"], 1),
            (&["!", "a", "=", "b"], 0),
            (&["2", "-lt", "10"], 0),
            (&["-d", "/"], 0),
            (&["-f", "/"], 1),
            (&["-z", ""], 0),
            (&[""], 1),
        ] {
            assert_eq!(told(&[&["test"], words].concat(), b"").unwrap().0, code, "{words:?}");
        }
        assert!(told(&["[", "a"], b"").is_err() && told(&["[", "a", "]"], b"").is_ok());
        assert!(told(&["test", "a", "-eq", "1"], b"").is_err());
        assert_eq!(told(&["echo", "-n", "a", "b"], b"").unwrap().1, "a b");
        assert!(told(&["vi"], b"").unwrap_err().to_string().contains("there are:"));
        assert!(told(&["sleep", "-1"], b"").is_err() && told(&["sleep", "0"], b"").is_ok());
        assert!(NAMES.is_sorted());
        for name in NAMES.iter().filter(|name| !matches!(**name, "sh" | "sync")) {
            let known = told(&[name, "--no-such-thing"], b"");
            assert!(!known.is_err_and(|why| why.to_string().contains("no such tool")), "{name}");
        }
    }
}
