//! Flags as a table: what each command takes, made into clap's arguments and read back by name. Values are taken as upstream's flags take them:
//! a switch may say `--watch=false`, the last of a repeated flag counts, and a value may begin with a hyphen.

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};

use crate::error::{Error, Result};

/// How a flag takes its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Takes {
    /// None; `--flag=false` turns it off.
    Switch,
    /// A text.
    Text,
    /// One that may be left out, and what it is then.
    Optional(&'static str),
    /// Any number of times.
    Many,
    /// Any number of times, each a list with commas.
    List,
}

/// One flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    pub default: &'static str,
    pub help: &'static str,
}

impl Flag {
    const fn new(long: &'static str, takes: Takes, default: &'static str, help: &'static str) -> Self {
        Flag { long, short: None, takes, default, help }
    }

    /// The same with a letter.
    pub const fn short(self, letter: char) -> Self {
        Flag { short: Some(letter), ..self }
    }

    fn arg(&self) -> Arg {
        let mut arg = Arg::new(self.long).long(self.long).help(self.help).allow_hyphen_values(true);
        if let Some(letter) = self.short {
            arg = arg.short(letter);
        }
        match self.takes {
            Takes::Switch => optional(arg, "true").default_value(if self.default == "true" { "true" } else { "false" }),
            Takes::Text => arg.action(ArgAction::Set).default_value(self.default),
            Takes::Optional(bare) => optional(arg, bare).default_value(self.default),
            Takes::Many | Takes::List if self.default.is_empty() => arg.action(ArgAction::Append),
            Takes::Many | Takes::List => arg.action(ArgAction::Append).default_value(self.default),
        }
        .hide_default_value(self.default.is_empty() || self.takes == Takes::Switch)
    }
}

fn optional(arg: Arg, bare: &'static str) -> Arg {
    arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value(bare)
}

pub const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::Switch, "", help)
}

/// A switch that is on unless it is turned off.
pub const fn switched_on(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::Switch, "true", help)
}

pub const fn text(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::Text, "", help)
}

pub const fn text_or(long: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::Text, default, help)
}

pub const fn optional_text(long: &'static str, default: &'static str, bare: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::Optional(bare), default, help)
}

pub const fn many(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::Many, "", help)
}

pub const fn list(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::List, "", help)
}

pub const fn list_or(long: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Takes::List, default, help)
}

/// Flags that several commands have.
pub mod common {
    use super::{Flag, list, optional_text, switch, switched_on, text, text_or};

    pub const OUTPUT: Flag = text("output", "Output format: json, yaml, kyaml, name, wide, jsonpath=…, jsonpath-file=…, go-template=…, go-template-file=…, custom-columns=…, custom-columns-file=…").short('o');
    pub const TEMPLATE: Flag =
        text("template", "Template, or its file, for -o go-template, go-template-file, jsonpath and jsonpath-file");
    pub const SHOW_MANAGED_FIELDS: Flag = switch("show-managed-fields", "Keep the managedFields in JSON and YAML");
    pub const SELECTOR: Flag = text("selector", "Label query: =, ==, !=, in, notin").short('l');
    pub const FIELD_SELECTOR: Flag = text("field-selector", "Field query: =, ==, !=");
    pub const ALL_NAMESPACES: Flag = switch("all-namespaces", "In all namespaces").short('A');
    pub const FILENAME: Flag =
        list("filename", "Files, directories or URLs with the resources, - for standard input").short('f');
    pub const KUSTOMIZE: Flag = text("kustomize", "Directory with a kustomization").short('k');
    pub const RECURSIVE: Flag = switch("recursive", "Read the directories of -f with all below them").short('R');
    pub const DRY_RUN: Flag = optional_text("dry-run", "none", "unchanged", "none, server or client");
    pub const FIELD_MANAGER: Flag = text("field-manager", "Name of the manager of the fields that are set");
    pub const SAVE_CONFIG: Flag = switch("save-config", "Keep the configuration in the object's annotation");
    pub const VALIDATE: Flag = optional_text("validate", "strict", "strict", "strict (true), warn or ignore (false)");
    pub const ALLOW_MISSING: Flag =
        switched_on("allow-missing-template-keys", "Ignore what a template names and the object doesn't have");
    pub const OVERWRITE: Flag = switch("overwrite", "Replace values that are there");
    pub const RESOURCE_VERSION: Flag = text("resource-version", "Only if the object has this resource version");
    pub const SUBRESOURCE: Flag = text("subresource", "Act on this subresource: status, scale, resize");
    pub const ALL: Flag = switch("all", "All resources of the type in the namespace");
    pub const LOCAL: Flag = switch("local", "Don't ask the server; the objects come from -f");
    pub const TIMEOUT: Flag = text_or("timeout", "0s", "How long to wait; 0s is no limit");
    pub const CHUNK_SIZE: Flag = text_or("chunk-size", "500", "How many objects are asked for at once; 0 is all");
    pub const CONTAINER: Flag = text("container", "Container of the pod").short('c');
    pub const POD_RUNNING_TIMEOUT: Flag =
        text_or("pod-running-timeout", "1m0s", "How long to wait for a pod that runs");
}

/// What a command line said.
#[derive(Debug, Default, Clone)]
pub struct Args {
    /// The command's path, as `create configmap`.
    pub command: String,
    /// What is no flag, before `--`.
    pub words: Vec<String>,
    /// What stands after `--`, if there is one.
    pub after_dash: Option<Vec<String>>,
    values: std::collections::HashMap<&'static str, Vec<String>>,
    given: std::collections::HashSet<&'static str>,
    shadowed: std::collections::HashSet<&'static str>,
}

impl Args {
    /// Takes the flags of a command out of clap's matches.
    pub fn read(&mut self, flags: impl Iterator<Item = &'static Flag>, matches: &ArgMatches) {
        for flag in flags {
            if let Ok(Some(values)) = matches.try_get_many::<String>(flag.long) {
                let values = values.cloned();
                let values = match flag.takes {
                    Takes::List => values.flat_map(|v| v.split(',').map(String::from).collect::<Vec<_>>()).collect(),
                    _ => values.collect(),
                };
                self.values.insert(flag.long, values);
            }
            if matches.value_source(flag.long) == Some(ValueSource::CommandLine) {
                self.given.insert(flag.long);
            }
        }
    }

    /// Notes the flags of a command that have the name of a flag of all commands: they mean something else there.
    pub fn shadow(&mut self, own: impl Iterator<Item = &'static Flag>, common: &'static [Flag]) {
        self.shadowed = own.map(|f| f.long).filter(|long| common.iter().any(|f| f.long == *long)).collect();
    }

    /// A flag of all commands: empty where the command has one of its own with this name.
    pub fn common(&self, flag: &str) -> &str {
        if self.shadowed.contains(flag) { "" } else { self.text(flag) }
    }

    pub fn given(&self, flag: &str) -> bool {
        self.given.contains(flag)
    }

    /// A flag's text; of several the last.
    pub fn text(&self, flag: &str) -> &str {
        self.values.get(flag).and_then(|v| v.last()).map_or("", String::as_str)
    }

    pub fn many(&self, flag: &str) -> &[String] {
        self.values.get(flag).map_or(&[], Vec::as_slice)
    }

    pub fn is(&self, flag: &str) -> bool {
        is_true(self.text(flag))
    }

    /// A flag's number.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, flag: &str) -> Result<i64> {
        let text = self.text(flag);
        text.parse().map_err(|_| {
            Error::Message(format!(
                "invalid argument {text:?} for \"--{flag}\" flag: strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        })
    }

    /// A flag's duration in nanoseconds.
    ///
    /// # Errors
    /// When it is none.
    pub fn duration(&self, flag: &str) -> Result<i64> {
        let text = self.text(flag);
        let seconds =
            text.parse::<i64>().ok().filter(|_| flag == "request-timeout").map(|s| s.saturating_mul(1_000_000_000));
        seconds.or_else(|| apimachinery::duration::parse(text)).ok_or_else(|| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let problem = if is_number { "missing unit in" } else { "invalid" };
            Error::Message(format!(
                "invalid argument {text:?} for \"--{flag}\" flag: time: {problem} duration {text:?}\nSee 'kubectl {} --help' for usage.",
                self.command
            ))
        })
    }

    /// Checks that switches are switches.
    ///
    /// # Errors
    /// For one with another value than true or false.
    pub fn check(&self, flags: impl Iterator<Item = &'static Flag>) -> Result<()> {
        for flag in flags.filter(|f| f.takes == Takes::Switch) {
            let text = self.text(flag.long);
            if !is_true(text) && !["", "false", "0", "f", "F", "FALSE", "False"].contains(&text) {
                let short = flag.short.map_or(String::new(), |s| format!("-{s}, "));
                return Err(Error::Message(format!(
                    "invalid argument {text:?} for \"{short}--{}\" flag: strconv.ParseBool: parsing {text:?}: invalid syntax\nSee 'kubectl {} --help' for usage.",
                    flag.long, self.command
                )));
            }
        }
        Ok(())
    }
}

fn is_true(text: &str) -> bool {
    ["true", "1", "t", "T", "TRUE", "True"].contains(&text)
}

/// Adds flags to a command of clap's.
pub fn add(command: clap::Command, flags: &'static [Flag], global: bool) -> clap::Command {
    flags.iter().fold(command, |command, flag| command.arg(flag.arg().global(global)))
}
