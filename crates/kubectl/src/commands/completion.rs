//! `completion`: a script for a shell that completes commands and flags. Names of objects are not completed.

use std::sync::Arc;

use clap_complete::Shell;

use super::{Command, root, run, usage};
use crate::context::Context;
use crate::error::Result;
use crate::print::say;

pub const COMMAND: Command = Command {
    name: "completion",
    about: "Output shell completion code for the specified shell (bash, zsh, fish, or powershell)",
    run: run!(completion),
    ..Command::NONE
};

async fn completion(cx: Arc<Context>) -> Result<()> {
    let shell = match &cx.args.words[..] {
        [] => return usage(&cx, "Shell not specified."),
        [shell] => shell,
        _ => return usage(&cx, "Too many arguments. Expected only the shell type."),
    };
    match script(shell) {
        Some(script) => say(&script),
        None => usage(&cx, &format!("Unsupported shell type {shell:?}.")),
    }
}

/// The script of a shell.
fn script(shell: &str) -> Option<String> {
    let shell = match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        "powershell" => Shell::PowerShell,
        _ => return None,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut root(), "kubectl", &mut script);
    String::from_utf8(script).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_commands_and_flags() {
        for shell in ["bash", "zsh", "fish", "powershell"] {
            let script = script(shell).unwrap();
            for word in ["port-forward", "rollout", "pod-running-timeout"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        assert!(script("csh").is_none());
    }

    #[test]
    fn bash_reads_its_script() {
        use std::process::{Command, Stdio};
        let child = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: there is no bash");
            return;
        };
        use std::io::Write as _;
        child.stdin.take().unwrap().write_all(script("bash").unwrap().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
