//! Tools for processes, and for who and where one is.

use std::io::Write;
use std::os::unix::process::CommandExt as _;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Done;
use crate::error::Error;
use crate::input::small_file;

pub fn env(arguments: &[String], output: &mut dyn Write) -> Done {
    let is_assignment = |word: &&String| word.split_once('=').is_some_and(|(name, _)| !name.is_empty());
    let assigned: Vec<(&str, &str)> =
        arguments.iter().take_while(is_assignment).filter_map(|word| word.split_once('=')).collect();
    if let Some((program, rest)) = arguments[assigned.len()..].split_first() {
        // Comes back only when it fails.
        let error = std::process::Command::new(program).args(rest).envs(assigned).exec();
        return Err(Error::on(program.clone())(error));
    }
    for (name, value) in std::env::vars_os() {
        writeln!(output, "{}={}", name.to_string_lossy(), value.to_string_lossy())?;
    }
    for (name, value) in assigned {
        writeln!(output, "{name}={value}")?;
    }
    Ok(0)
}

/// The name of this machine, which is the pod's.
pub fn host_name() -> Result<String, Error> {
    small_file("/proc/sys/kernel/hostname").map(|name| name.trim().to_string()).map_err(Error::from)
}

pub fn hostname(output: &mut dyn Write) -> Done {
    writeln!(output, "{}", host_name()?).map(|()| 0).map_err(Error::from)
}

pub fn pwd(output: &mut dyn Write) -> Done {
    let folder = std::env::current_dir()?;
    writeln!(output, "{}", folder.display()).map(|()| 0).map_err(Error::from)
}

/// The words of a line of `/proc/PID/status` (proc_pid_status(5)).
fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect()
}

pub fn id(output: &mut dyn Write) -> Done {
    let status = small_file("/proc/self/status")?;
    // Real, effective, saved, file system.
    let own = |name| field(&status, name).get(1).copied().unwrap_or("?");
    let groups = field(&status, "Groups").join(",");
    writeln!(output, "uid={} gid={} groups={groups}", own("Uid"), own("Gid")).map(|()| 0).map_err(Error::from)
}

pub fn ps(output: &mut dyn Write) -> Done {
    let entries = std::fs::read_dir("/proc")?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    writeln!(output, "{:>7} {:>6} {:5} COMMAND", "PID", "UID", "STATE")?;
    for number in numbers {
        // One that has ended meanwhile.
        let Ok(status) = small_file(format!("/proc/{number}/status")) else { continue };
        let words = small_file(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let words = words.trim_end_matches('\0').replace('\0', " ");
        let words = if words.is_empty() { format!("[{}]", field(&status, "Name").join(" ")) } else { words };
        let shown: String = words.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let first = |name| field(&status, name).first().copied().unwrap_or("?");
        writeln!(output, "{number:>7} {:>6} {:5} {shown}", first("Uid"), first("State"))?;
    }
    Ok(0)
}

pub fn kill(arguments: &[String]) -> Done {
    let (signal, numbers) = match arguments.split_first() {
        Some((flag, rest)) if flag.starts_with('-') && !rest.is_empty() => (signal(&flag[1..])?, rest),
        _ => (Some(Signal::SIGTERM), arguments),
    };
    if numbers.is_empty() {
        return Err(Error::arguments("usage: kill [-SIGNAL] PID…"));
    }
    for number in numbers {
        let pid = number.parse().map_err(|_| Error::arguments(format!("{number:?} is no process number")))?;
        nix::sys::signal::kill(Pid::from_raw(pid), signal).map_err(Error::on(number.clone()))?;
    }
    Ok(0)
}

/// By number or name; 0 only looks whether there is such a process.
fn signal(word: &str) -> Result<Option<Signal>, Error> {
    let unknown = || Error::arguments(format!("{word:?} is no signal"));
    if word == "0" {
        return Ok(None);
    }
    if let Ok(number) = word.parse::<i32>() {
        return Signal::try_from(number).map(Some).map_err(|_| unknown());
    }
    let name = word.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().map(Some).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;
    use super::*;

    #[test]
    fn processes_are_listed_and_signalled() {
        let own = std::process::id().to_string();
        let (_, list) = told(&["ps"], b"").unwrap();
        assert!(list.lines().any(|line| line.split_whitespace().next() == Some(&own)), "{list}");
        assert_eq!(told(&["kill", "-0", &own], b"").unwrap().0, 0);
        assert!(told(&["kill"], b"").is_err() && told(&["kill", "-NONE", &own], b"").is_err());
        assert_eq!(
            [signal("9"), signal("term"), signal("SIGHUP")].map(|s| s.unwrap()),
            [Some(Signal::SIGKILL), Some(Signal::SIGTERM), Some(Signal::SIGHUP)]
        );
        let (_, id) = told(&["id"], b"").unwrap();
        assert!(id.starts_with(&format!("uid={} ", nix::unistd::geteuid())), "{id}");
        assert!(told(&["env", "A=b"], b"").unwrap().1.ends_with("A=b\n"));
    }
}
