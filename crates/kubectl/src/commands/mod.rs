//! The commands, as a table: name, flags, and what it does. clap reads the command line by it.

mod apply;
mod auth;
mod certificate;
mod common;
mod completion;
mod config;
mod cp;
mod create;
mod delete;
mod describe;
mod dump;
mod edit;
mod events;
mod exec;
mod explain;
mod expose;
mod get;
mod info;
mod label;
mod logs;
mod nodes;
mod patch;
mod plugin;
mod port_forward;
mod proxy;
mod reconcile;
mod replace;
mod rollout;
mod scale;
mod set;
mod top;
mod wait;

use std::ffi::OsString;
use std::pin::Pin;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::context::{self, Context};
use crate::error::{Error, Result, fail};
use crate::flags::{self, Args, Flag};

/// What a command does.
type Run = fn(Arc<Context>) -> Pin<Box<dyn Future<Output = Result<()>>>>;

/// A command, or a group of them.
#[derive(Clone, Copy)]
pub struct Command {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub about: &'static str,
    pub flags: &'static [&'static [Flag]],
    pub commands: &'static [&'static Command],
    /// None of a group: it prints its help.
    pub run: Option<Run>,
}

impl Command {
    /// A command without anything.
    pub const NONE: Command = Command { name: "", aliases: &[], about: "", flags: &[], commands: &[], run: None };

    fn clap(&self) -> clap::Command {
        let mut made =
            clap::Command::new(self.name).about(self.about).visible_aliases(self.aliases).args_override_self(true);
        for flags in self.flags {
            made = flags::add(made, flags, false);
        }
        for command in self.commands {
            made = made.subcommand(command.clap());
        }
        if self.run.is_some() {
            made = made.arg(clap::Arg::new("words").num_args(0..).hide(true));
        }
        made
    }
}

/// Makes a command's `run` of an async function.
macro_rules! run {
    ($function:path) => {
        Some(|cx| Box::pin($function(cx)))
    };
}
pub(crate) use run;

/// All commands, in the order in which help lists them.
const COMMANDS: &[&Command] = &[
    &create::COMMAND,
    &expose::EXPOSE,
    &expose::RUN,
    &set::COMMAND,
    &get::COMMAND,
    &explain::COMMAND,
    &edit::EDIT,
    &delete::COMMAND,
    &rollout::COMMAND,
    &scale::SCALE,
    &scale::AUTOSCALE,
    &certificate::COMMAND,
    &info::CLUSTER_INFO,
    &top::COMMAND,
    &nodes::CORDON,
    &nodes::UNCORDON,
    &nodes::DRAIN,
    &nodes::TAINT,
    &describe::COMMAND,
    &logs::COMMAND,
    &exec::ATTACH,
    &exec::EXEC,
    &port_forward::COMMAND,
    &proxy::COMMAND,
    &cp::COMMAND,
    &auth::COMMAND,
    &events::COMMAND,
    &edit::DIFF,
    &apply::COMMAND,
    &patch::COMMAND,
    &replace::COMMAND,
    &wait::COMMAND,
    &label::LABEL,
    &label::ANNOTATE,
    &info::API_RESOURCES,
    &info::API_VERSIONS,
    &completion::COMMAND,
    &config::COMMAND,
    &plugin::COMMAND,
    &info::VERSION,
];

fn root() -> clap::Command {
    let root =
        clap::Command::new("kubectl").about("Controls the Kubernetes cluster manager").arg_required_else_help(false);
    let root = flags::add(root, context::FLAGS, true);
    COMMANDS.iter().fold(root, |root, command| root.subcommand(command.clap())).args_override_self(true)
}

/// Reads a command line and does what it says.
///
/// # Errors
/// When it isn't one, or what it says fails.
pub async fn dispatch(arguments: Vec<OsString>) -> Result<()> {
    let words: Vec<String> = arguments.into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
    plugin::become_plugin(&words)?;
    // Clap would lose where `--` stood, on which the meaning of words depends.
    let dash = words.iter().position(|w| w == "--");
    let (before, after) = match dash {
        Some(at) => (words[..at].to_vec(), Some(words[at.saturating_add(1)..].to_vec())),
        None => (words, None),
    };
    let matches =
        match root().try_get_matches_from(std::iter::once("kubectl".to_string()).chain(before.iter().cloned())) {
            Ok(matches) => matches,
            Err(error) => return misread(&error, &before, after),
        };
    let Some((command, args)) = chosen(&matches, after)? else {
        // A group, or nothing at all.
        let mut help = root();
        let mut at = Some(&matches);
        while let Some((name, inner)) = at.and_then(|m| m.subcommand()) {
            let Some(found) = help.find_subcommand(name).cloned() else { break };
            (help, at) = (found, Some(inner));
        }
        help.print_help()?;
        // A group by itself does nothing, which is an error; no words at all ask for help.
        return if before.iter().any(|w| !w.starts_with('-')) { Err(Error::Exit(1)) } else { Ok(()) };
    };
    let Some(run) = command.run else { return Ok(()) };
    let context = Context::new(args);
    run(context.clone()).await?;
    if context.args.is("warnings-as-errors") && crate::client::WARNED.load(std::sync::atomic::Ordering::Relaxed) {
        return fail("1 warning received");
    }
    Ok(())
}

/// The command that the words name, and its flags.
fn chosen(matches: &clap::ArgMatches, after_dash: Option<Vec<String>>) -> Result<Option<(&'static Command, Args)>> {
    let mut args = Args::default();
    args.after_dash = after_dash;
    let (mut level, mut at) = (COMMANDS, matches);
    let mut found: Option<&'static Command> = None;
    while let Some((name, inner)) = at.subcommand() {
        let Some(command) = level.iter().copied().find(|c| c.name == name) else { break };
        args.command = if args.command.is_empty() { name.into() } else { format!("{} {name}", args.command) };
        (found, level, at) = (Some(command), command.commands, inner);
    }
    let Some(command) = found.filter(|c| c.run.is_some()) else { return Ok(None) };
    let all = || command.flags.iter().copied().flatten().chain(context::FLAGS);
    args.read(all(), at);
    args.shadow(command.flags.iter().copied().flatten(), context::FLAGS);
    args.words = at.get_many::<String>("words").into_iter().flatten().cloned().collect();
    args.check(all())?;
    Ok(Some((command, args)))
}

/// What clap can't read, in upstream's words.
fn misread(error: &clap::Error, words: &[String], _after: Option<Vec<String>>) -> Result<()> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(all)) => all.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    // As far as the words are commands.
    let mut level = COMMANDS;
    let mut path = vec!["kubectl"];
    for word in words.iter().filter(|w| !w.starts_with('-')) {
        let Some(command) = level.iter().find(|c| c.name == word || c.aliases.contains(&word.as_str())) else {
            continue;
        };
        path.push(command.name);
        level = command.commands;
    }
    let path = path.join(" ");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(error.print()?),
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand);
            let near = context(ContextKind::SuggestedSubcommand);
            let hint = if near.is_empty() { String::new() } else { format!("\n\nDid you mean this?\n\t{near}") };
            fail(format!("unknown command {word:?} for {path:?}{hint}"))
        }
        ErrorKind::UnknownArgument => {
            let word = context(ContextKind::InvalidArg);
            let hint = format!("\nSee '{path} --help' for usage.");
            if word.starts_with("--") {
                let name = word.trim_start_matches('-');
                return fail(format!("unknown flag: --{}{hint}", name.split('=').next().unwrap_or(name)));
            }
            if let Some(letter) = word.strip_prefix('-') {
                let whole =
                    words.iter().find(|w| w.starts_with('-') && !w.starts_with("--") && w.contains(letter)).cloned();
                return fail(format!("unknown shorthand flag: '{letter}' in {}{hint}", whole.unwrap_or(word.clone())));
            }
            fail(format!("unknown command {word:?} for {path:?}"))
        }
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            let flag = context(ContextKind::InvalidArg);
            let flag = flag.split([' ', '[']).next().unwrap_or("").trim_end_matches('=').to_string();
            fail(format!("flag needs an argument: {flag}\nSee '{path} --help' for usage."))
        }
        _ => Err(Error::Message(error.to_string().trim_start_matches("error: ").trim_end().to_string())),
    }
}

/// An error about how a command was called.
pub fn usage<T>(cx: &Context, text: &str) -> Result<T> {
    fail(format!("{text}\nSee 'kubectl {} -h' for help and examples", cx.args.command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_consistent() {
        root().debug_assert();
    }
}
