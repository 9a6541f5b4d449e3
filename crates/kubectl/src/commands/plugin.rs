//! Plugins: programs `kubectl-foo-bar` on the path, which are run as `kubectl foo bar`.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{COMMANDS, Command, run};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::switch;
use crate::print::line;

pub const COMMAND: Command = Command {
    name: "plugin",
    about: "Provides utilities for interacting with plugins",
    commands: &[&LIST],
    ..Command::NONE
};
const LIST: Command = Command {
    name: "list",
    about: "List all visible plugin executables on a user's PATH",
    flags: &[&[switch("name-only", "Names without their directories")]],
    run: run!(list),
    ..Command::NONE
};

/// No more words are taken for parts of a plugin's name.
const MAX_PARTS: usize = 32;

/// Whether a word is a command of this program.
fn is_command(word: &str) -> bool {
    word == "help" || COMMANDS.iter().any(|c| c.name == word || c.aliases.contains(&word))
}

fn path() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        if !folder.as_os_str().is_empty() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The program of the longest name that the words make, and the words that are left for it.
fn find<'a>(words: &'a [String], folders: &[PathBuf]) -> Option<(PathBuf, &'a [String])> {
    let count = words.iter().take(MAX_PARTS).take_while(|w| !w.starts_with('-')).count();
    for used in (1..=count).rev() {
        let parts: Vec<String> = words[..used].iter().map(|w| w.replace('-', "_")).collect();
        let name = format!("kubectl-{}", parts.join("-"));
        // A word is no path.
        if name.contains('/') {
            continue;
        }
        if let Some(found) = folders.iter().map(|f| f.join(&name)).find(|p| is_executable(p)) {
            return Some((found, &words[used..]));
        }
    }
    None
}

/// Becomes the plugin that the words name, if they name no command of this program.
///
/// # Errors
/// When the plugin can't be run.
pub fn become_plugin(words: &[String]) -> Result<()> {
    let Some(first) = words.first().filter(|w| !w.starts_with('-') && !w.is_empty()) else { return Ok(()) };
    if is_command(first) {
        return Ok(());
    }
    let Some((program, rest)) = find(words, &path()) else { return Ok(()) };
    let error = std::process::Command::new(&program).args(rest).exec();
    fail(format!("failed to run the plugin {}: {error}", program.display()))
}

async fn list(cx: Arc<Context>) -> Result<()> {
    let (mut found, mut problems) = (Vec::new(), String::new());
    for folder in path() {
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                let files = entries.flatten().filter(|e| !e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
                let mut files: Vec<PathBuf> = files
                    .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl-")))
                    .collect();
                files.sort();
                found.extend(files);
            }
            Err(error) => {
                let shown = folder.display().to_string();
                let reason = match error.kind() {
                    std::io::ErrorKind::NotFound => "no such file or directory".into(),
                    _ => error.to_string(),
                };
                eprintln!("Unable to read directory {shown:?} from your PATH: open {shown}: {reason}. Skipping...");
            }
        }
    }
    if found.is_empty() {
        problems += "error: unable to find any kubectl plugins in your PATH\n";
    } else {
        line("The following compatible plugins are available:\n")?;
    }
    let (mut seen, mut warnings) = (HashMap::new(), 0_usize);
    for plugin in &found {
        let name = plugin.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        line(&if cx.args.is("name-only") { name.clone() } else { plugin.display().to_string() })?;
        for warning in doubts(plugin, &name, &mut seen) {
            eprintln!("  - {warning}");
            warnings = warnings.saturating_add(1);
        }
    }
    match warnings {
        0 => {}
        1 => problems += "error: one plugin warning was found\n",
        several => problems += &format!("error: {several} plugin warnings were found\n"),
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Message(problems)) }
}

/// Why a plugin won't be run.
fn doubts(plugin: &Path, name: &str, seen: &mut HashMap<String, PathBuf>) -> Vec<String> {
    let (mut doubts, shown) = (Vec::new(), plugin.display());
    if !is_executable(plugin) {
        doubts.push(format!("warning: {shown} identified as a kubectl plugin, but it is not executable"));
    }
    match seen.get(name) {
        Some(first) => {
            doubts.push(format!("warning: {shown} is overshadowed by a similarly named plugin: {}", first.display()));
        }
        None => drop(seen.insert(name.into(), plugin.into())),
    }
    let first = name.split('-').nth(1).unwrap_or("");
    if let Some(command) = COMMANDS.iter().find(|c| c.name == first || c.aliases.contains(&first)) {
        doubts.push(format!("warning: {name} overwrites existing command: {:?}", format!("kubectl {}", command.name)));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_longest_name_that_can_be_run_counts() {
        let folder = tempfile::tempdir().unwrap();
        let short = place(folder.path(), "kubectl-foo", 0o755);
        let long = place(folder.path(), "kubectl-foo-bar_baz", 0o755);
        place(folder.path(), "kubectl-off", 0o644);
        let folders = [folder.path().to_path_buf()];
        let look = |text: &str| {
            let words: Vec<String> = text.split(' ').map(String::from).collect();
            find(&words, &folders).map(|(path, rest)| (path, rest.join(" ")))
        };
        assert_eq!(look("foo bar-baz x --y"), Some((long, "x --y".into())));
        assert_eq!(look("foo --flag bar-baz"), Some((short.clone(), "--flag bar-baz".into())));
        assert_eq!(look("foo other"), Some((short, "other".into())));
        assert_eq!(look("off"), None);
        assert_eq!(look("../foo"), None);
    }

    #[test]
    fn what_keeps_a_plugin_from_being_run_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = place(folder.path(), "kubectl-get", 0o644);
        let mut seen = HashMap::new();
        let told = doubts(&plugin, "kubectl-get", &mut seen);
        assert!(told[0].ends_with("identified as a kubectl plugin, but it is not executable"));
        assert_eq!(told[1], "warning: kubectl-get overwrites existing command: \"kubectl get\"");
        assert!(doubts(&plugin, "kubectl-get", &mut seen)[1].contains("is overshadowed by"));
    }

    #[test]
    fn commands_come_before_plugins() {
        for word in ["get", "help", "port-forward"] {
            assert!(is_command(word));
        }
        assert!(become_plugin(&["get".into()]).is_ok());
        assert!(become_plugin(&["-n".into()]).is_ok());
    }
}
