//! A small shell: commands with their redirections, pipes, `;`, `&&` and `||`, variables, `cd`, `export` and `exit`. No loops, no functions.

mod parse;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, IsTerminal as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};

use crate::error::Error;
use crate::input::{MAX_LINE_BYTES, line};
use parse::{Command, Piece, Pipeline, Redirect, When, Word, parse};

/// As all shells have it: what isn't found, what can't be run, and errors of their own.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;
const SYNTAX: u8 = 2;

pub fn run(arguments: &[String]) -> u8 {
    let mut shell = Shell::default();
    match arguments {
        [] => {}
        [flag, script, ..] if flag == "-c" => {
            shell.run(script);
            return shell.code;
        }
        [file] if !file.starts_with('-') => {
            return match File::open(file) {
                Ok(file) => shell.read(&mut std::io::BufReader::new(file), false),
                Err(error) => shell.failed(NOT_FOUND, &format!("{file}: {error}")),
            };
        }
        // Asked for by whoever brings a terminal.
        [flag] if matches!(flag.as_str(), "-i" | "-l") => {}
        _ => return shell.failed(SYNTAX, "usage: sh [-c SCRIPT | FILE]"),
    }
    let is_interactive = std::io::stdin().is_terminal();
    if is_interactive && let Err(error) = crate::signals::block_interrupt() {
        eprintln!("sh: {error}");
    }
    // Without a buffer of its own, so that commands may read what follows their line.
    shell.read(&mut Unbuffered { byte: None }, is_interactive)
}

/// The input, a byte at a time.
struct Unbuffered {
    byte: Option<[u8; 1]>,
}

impl std::io::Read for Unbuffered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.fill_buf()?;
        let (Some(byte), Some(place)) = (piece.first(), buffer.first_mut()) else { return Ok(0) };
        *place = *byte;
        self.consume(1);
        Ok(1)
    }
}

impl BufRead for Unbuffered {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.byte.is_none() {
            let mut byte = [0];
            if nix::unistd::read(std::io::stdin(), &mut byte)? == 0 {
                return Ok(&[]);
            }
            self.byte = Some(byte);
        }
        Ok(self.byte.as_ref().map_or(&[], |byte| byte))
    }

    fn consume(&mut self, count: usize) {
        if count > 0 {
            self.byte = None;
        }
    }
}

#[derive(Default)]
struct Shell {
    /// Those that were set here and that commands don't see.
    variables: BTreeMap<String, String>,
    /// Those that commands see, beside this process's own.
    exported: BTreeMap<String, String>,
    /// What the last command ended with.
    code: u8,
    exits: bool,
}

/// `NAME=value`
fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some((name, value))
}

impl Shell {
    fn failed(&mut self, code: u8, why: &str) -> u8 {
        eprintln!("sh: {why}");
        self.code = code;
        code
    }

    fn read(&mut self, input: &mut dyn BufRead, is_interactive: bool) -> u8 {
        while !self.exits {
            if is_interactive {
                let folder = std::env::current_dir().map(|folder| folder.display().to_string()).unwrap_or_default();
                eprint!("{folder} $ ");
                let _ = std::io::stderr().flush();
            }
            match line(input, MAX_LINE_BYTES) {
                Ok(Some(bytes)) => self.run(&String::from_utf8_lossy(&bytes)),
                Ok(None) => break,
                Err(error) => return self.failed(SYNTAX, &error.to_string()),
            }
        }
        self.code
    }

    fn run(&mut self, script: &str) {
        let pipelines = match parse(script) {
            Ok(pipelines) => pipelines,
            Err(error) => {
                self.failed(SYNTAX, &error.to_string());
                return;
            }
        };
        for Pipeline { when, commands } in pipelines {
            let is_due = match when {
                When::Always => true,
                When::Succeeded => self.code == 0,
                When::Failed => self.code != 0,
            };
            if !self.exits && is_due {
                self.pipeline(&commands);
            }
        }
    }

    fn value(&self, name: &str) -> String {
        match name {
            "?" => self.code.to_string(),
            "$" => std::process::id().to_string(),
            _ => {
                let own = self.variables.get(name).or_else(|| self.exported.get(name)).cloned();
                own.or_else(|| std::env::var(name).ok()).unwrap_or_default()
            }
        }
    }

    /// The words that a word stands for: variables outside of quotes are split at spaces.
    fn expand(&self, word: &Word) -> Vec<String> {
        let (mut words, mut current) = (Vec::new(), None::<String>);
        for piece in word {
            match piece {
                Piece::Text(text) => current.get_or_insert_default().push_str(text),
                Piece::Variable { name, is_quoted: true } => {
                    current.get_or_insert_default().push_str(&self.value(name))
                }
                Piece::Variable { name, is_quoted: false } => {
                    let value = self.value(name);
                    if value.starts_with(char::is_whitespace) {
                        words.extend(current.take());
                    }
                    for (number, part) in value.split_whitespace().enumerate() {
                        if number > 0 {
                            words.extend(current.take());
                        }
                        current.get_or_insert_default().push_str(part);
                    }
                    if value.ends_with(char::is_whitespace) {
                        words.extend(current.take());
                    }
                }
            }
        }
        words.extend(current);
        words
    }

    fn pipeline(&mut self, commands: &[Command]) {
        if let [command] = commands
            && self.built_in(command)
        {
            return;
        }
        let (mut children, mut input) = (Vec::new(), None);
        for (number, command) in commands.iter().enumerate() {
            let is_last = number + 1 == commands.len();
            match self.spawn(command, input.take(), is_last) {
                Ok(mut child) => {
                    input = child.stdout.take().map(Stdio::from);
                    children.push(child);
                }
                Err((code, why)) => {
                    self.failed(code, &why.to_string());
                    input = Some(Stdio::null());
                    if is_last {
                        children.into_iter().for_each(|mut child| drop(child.wait()));
                        return;
                    }
                }
            }
        }
        for mut child in children {
            // The last one's code is the pipeline's.
            self.code = match child.wait() {
                Ok(status) => {
                    let signal = status.signal().and_then(|signal| u8::try_from(signal).ok());
                    let code = status.code().and_then(|code| u8::try_from(code).ok());
                    code.or(signal.map(|signal| signal.saturating_add(128))).unwrap_or(1)
                }
                Err(_) => 1,
            };
        }
    }

    /// Runs what is no program; false if it is one.
    fn built_in(&mut self, command: &Command) -> bool {
        let words: Vec<String> = command.words.iter().flat_map(|word| self.expand(word)).collect();
        let (name, rest) = match words.split_first() {
            Some((name, rest)) => (name.as_str(), rest),
            None => {
                // `> FILE` alone makes the file.
                self.code = 0;
                if let Err(error) = self.streams(command, None) {
                    self.failed(1, &error.to_string());
                }
                return true;
            }
        };
        let outcome = match name {
            "cd" => {
                let folder = rest.first().cloned().unwrap_or_else(|| self.value("HOME"));
                std::env::set_current_dir(&folder).map_err(Error::on(format!("cd: {folder}")))
            }
            "exit" => {
                self.exits = true;
                let code = rest.first().map_or(Ok(self.code), |code| code.parse());
                self.code = code.unwrap_or(SYNTAX);
                return true;
            }
            ":" => Ok(()),
            "export" => {
                for word in rest {
                    let (name, value) = match assignment(word) {
                        Some((name, value)) => (name.to_string(), value.to_string()),
                        None => (word.clone(), self.value(word)),
                    };
                    self.variables.remove(&name);
                    self.exported.insert(name, value);
                }
                Ok(())
            }
            _ if words.iter().all(|word| assignment(word).is_some()) => {
                for (name, value) in words.iter().filter_map(|word| assignment(word)) {
                    let place = if self.exported.contains_key(name) || std::env::var_os(name).is_some() {
                        &mut self.exported
                    } else {
                        &mut self.variables
                    };
                    place.insert(name.into(), value.into());
                }
                Ok(())
            }
            _ => return false,
        };
        self.code = 0;
        if let Err(error) = outcome {
            self.failed(1, &error.to_string());
        }
        true
    }

    /// Opens the files that a command's streams lead to: input, output, errors.
    fn streams(&self, command: &Command, input: Option<Stdio>) -> Result<[Option<Stdio>; 3], Error> {
        let (mut output, mut errors) = (None::<File>, None::<File>);
        let mut input = input;
        let mut joined = false;
        for redirect in &command.redirects {
            let name = |word: &Word| match &self.expand(word)[..] {
                [name] => Ok(name.clone()),
                _ => Err(Error::syntax("the name of a file isn't one word")),
            };
            match redirect {
                Redirect::Input(word) => {
                    let name = name(word)?;
                    input = Some(File::open(&name).map_err(Error::on(name))?.into());
                }
                Redirect::Output { stream, file, appends } => {
                    let name = name(file)?;
                    let mut options = OpenOptions::new();
                    options.create(true).write(true).append(*appends).truncate(!appends);
                    let file = options.open(&name).map_err(Error::on(name))?;
                    *(if *stream == 2 { &mut errors } else { &mut output }) = Some(file);
                }
                Redirect::ErrorsToOutput => joined = true,
            }
        }
        if joined {
            // Where output leads; a pipe's end isn't known here, so errors go with this shell's output then.
            errors = match &output {
                Some(file) => Some(file.try_clone()?),
                None => {
                    let own = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned();
                    Some(File::from(own?))
                }
            };
        }
        Ok([input, output.map(Stdio::from), errors.map(Stdio::from)])
    }

    fn spawn(&self, command: &Command, input: Option<Stdio>, is_last: bool) -> Result<Child, (u8, Error)> {
        let words: Vec<String> = command.words.iter().flat_map(|word| self.expand(word)).collect();
        let assigned: Vec<_> = words.iter().map_while(|word| assignment(word)).collect();
        let Some((name, rest)) = words[assigned.len()..].split_first() else {
            return Err((SYNTAX, Error::syntax("a command of a pipe has no program")));
        };
        let [input, output, errors] = self.streams(command, input).map_err(|error| (1, error))?;
        let mut program = std::process::Command::new(name);
        program.args(rest).envs(&self.exported).envs(assigned);
        if let Some(input) = input {
            program.stdin(input);
        }
        match output {
            Some(output) => drop(program.stdout(output)),
            None if !is_last => drop(program.stdout(Stdio::piped())),
            None => {}
        }
        if let Some(errors) = errors {
            program.stderr(errors);
        }
        program.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => (NOT_FOUND, Error::arguments(format!("{name}: there is no such program"))),
            _ => (NOT_RUNNABLE, Error::on(name.clone())(error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit code of a script, and what it wrote into a file.
    fn wrote(script: &str) -> (u8, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out");
        let mut shell = Shell::default();
        shell.exported.insert("OUT".into(), file.display().to_string());
        shell.run(script);
        (shell.code, std::fs::read_to_string(file).unwrap_or_default())
    }

    #[test]
    fn scripts_run() {
        // By this machine's own programs.
        for (script, code, text) in [
            ("echo a > $OUT; echo b >> $OUT", 0, "a\nb\n"),
            ("echo one two | wc -w > $OUT", 0, "2\n"),
            ("false && echo a > $OUT || echo b > $OUT", 0, "b\n"),
            ("A='x  y'; echo $A \"$A\" > $OUT", 0, "x y x  y\n"),
            ("A=1; export B=2; env | grep -x [AB]=. > $OUT", 0, "B=2\n"),
            ("A=3 env | grep -x A=3 > $OUT", 0, "A=3\n"),
            ("false; echo $? ${?}", 2, ""),
            ("false; echo $? > $OUT", 0, "1\n"),
            ("exit 7; echo a > $OUT", 7, ""),
            ("no-such-program-here", 127, ""),
            ("echo a > $OUT; cat < $OUT | cat > /dev/null", 0, "a\n"),
            ("ls /no/such/place > $OUT 2>&1 || echo b >> /dev/null", 0, ""),
            ("cd / && pwd > $OUT", 0, "/\n"),
            ("if true", 2, ""),
            ("> $OUT", 0, ""),
        ] {
            let (actual, found) = wrote(script);
            assert_eq!(actual, code, "{script}");
            if !script.contains("2>&1") {
                assert_eq!(found, text, "{script}");
            } else {
                assert!(found.contains("/no/such/place"), "{found}");
            }
        }
    }

    #[test]
    fn lines_are_read_until_an_exit() {
        let mut shell = Shell::default();
        assert_eq!(shell.read(&mut &b"true\nexit 3\nexit 4\n"[..], false), 3);
        assert_eq!(Shell::default().read(&mut &b"false"[..], false), 1);
    }
}
