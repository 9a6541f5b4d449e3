//! Seccomp profiles of one's own (`Localhost`), as upstream's documentation and Docker write them: a default action, and
//! others for system calls by name and arguments (OCI runtime specification, "Seccomp").
//!
//! A program of the library knows two actions: one for what it names, one for the rest. So a profile becomes one program
//! that lets through all that isn't the default's, and one for each further action. The kernel asks all of them, and the
//! strictest answer counts.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, TargetArch};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// An action in the library's words.
fn action(name: &str, errno: Option<u32>) -> Result<Value, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => json!("allow"),
        "SCMP_ACT_ERRNO" => json!({"errno": errno.unwrap_or(libc::EPERM as u32)}),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => json!("kill_thread"),
        "SCMP_ACT_KILL_PROCESS" => json!("kill_process"),
        "SCMP_ACT_LOG" => json!("log"),
        "SCMP_ACT_TRACE" => json!({"trace": errno.unwrap_or_default()}),
        "SCMP_ACT_TRAP" => json!("trap"),
        other => return Err(format!("the action {other:?} isn't known")),
    })
}

fn condition(argument: &Argument) -> Result<Value, String> {
    let Argument { index, value, value_two, op } = argument;
    let (op, value) = match op.as_str() {
        "SCMP_CMP_EQ" => (json!("eq"), value),
        "SCMP_CMP_NE" => (json!("ne"), value),
        "SCMP_CMP_LT" => (json!("lt"), value),
        "SCMP_CMP_LE" => (json!("le"), value),
        "SCMP_CMP_GE" => (json!("ge"), value),
        "SCMP_CMP_GT" => (json!("gt"), value),
        "SCMP_CMP_MASKED_EQ" => (json!({ "masked_eq": value }), value_two),
        other => return Err(format!("the comparison {other:?} isn't known")),
    };
    Ok(json!({"index": index, "type": "qword", "op": op, "val": value}))
}

fn program(mismatch: &Value, matching: &Value, filter: &[Value]) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let text = json!({"one": {"mismatch_action": mismatch, "match_action": matching, "filter": filter}}).to_string();
    let mut programs = seccompiler::compile_from_json(text.as_bytes(), arch).map_err(|e| e.to_string())?;
    programs.remove("one").ok_or_else(|| "no program came of it".into())
}

/// Whether this machine has a system call of that name; profiles name those of others, too.
fn exists(name: &str) -> bool {
    program(&json!("allow"), &json!({"errno": 1}), &[json!({ "syscall": name })]).is_ok()
}

/// Whether a profile is one that containers can run under.
///
/// # Errors
/// Says what in it can't be understood.
pub fn check(text: &str) -> Result<(), String> {
    programs(text).map(|_| ())
}

/// The programs of a profile.
///
/// # Errors
/// Says what in it can't be understood.
pub fn programs(text: &str) -> Result<Vec<BpfProgram>, String> {
    let profile: Profile = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    // By action, as text; then by system call: its rules, none of which means in any case.
    let mut groups: BTreeMap<String, BTreeMap<&str, Vec<Value>>> = BTreeMap::new();
    for rule in &profile.syscalls {
        let wanted = action(&rule.action, rule.errno_ret)?;
        if wanted == default {
            continue;
        }
        let arguments = rule.args.as_deref().unwrap_or_default();
        let conditions = arguments.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        let group = groups.entry(wanted.to_string()).or_default();
        for name in rule.names.iter().filter(|name| exists(name)) {
            match (group.get_mut(name.as_str()), conditions.is_empty()) {
                (Some(rules), false) if !rules.is_empty() => rules.push(json!(conditions)),
                (Some(rules), true) => rules.clear(),
                (Some(_), false) => {}
                (None, true) => _ = group.insert(name, Vec::new()),
                (None, false) => _ = group.insert(name, vec![json!(conditions)]),
            }
        }
    }
    let filter = |group: &BTreeMap<&str, Vec<Value>>| -> Vec<Value> {
        let of = |(name, rules): (&&str, &Vec<Value>)| match rules.as_slice() {
            [] => vec![json!({ "syscall": name })],
            rules => rules.iter().map(|args| json!({"syscall": name, "args": args})).collect(),
        };
        group.iter().flat_map(of).collect()
    };
    let allow = json!("allow");
    let mut all = Vec::new();
    if default != allow {
        let through: Vec<Value> = groups.values().flat_map(filter).collect();
        // What is named twice, once without a condition, is let through here; its own program decides.
        let free: Vec<&Value> = through.iter().filter(|f| f.get("args").is_none()).collect();
        let names: Vec<&Value> = free.iter().map(|f| &f["syscall"]).collect();
        let kept: Vec<Value> =
            through.iter().filter(|f| f.get("args").is_none() || !names.contains(&&f["syscall"])).cloned().collect();
        all.push(program(&default, &allow, &kept)?);
    }
    for (wanted, group) in &groups {
        let wanted: Value = serde_json::from_str(wanted).map_err(|e| e.to_string())?;
        if wanted != allow {
            all.push(program(&allow, &wanted, &filter(group))?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_understood_or_say_why_not() {
        for (text, count) in [
            (r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, Ok(0)),
            (r#"{"defaultAction": "SCMP_ACT_LOG"}"#, Ok(1)),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "nonesuch"], "action": "SCMP_ACT_ERRNO"}]}"#,
                Ok(1),
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}, {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}, {"names": ["chdir"], "action": "SCMP_ACT_LOG"}]}"#,
                Ok(3),
            ),
            (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#, Err("SCMP_ACT_MAYBE")),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "LIKE"}]}]}"#,
                Err("LIKE"),
            ),
            ("{}", Err("defaultAction")),
        ] {
            match (programs(text), count) {
                (Ok(programs), Ok(count)) => assert_eq!(programs.len(), count, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn calls_are_refused_by_name_and_argument() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]}]}"#;
        let refused = std::thread::spawn(move || {
            for program in programs(text).unwrap() {
                seccompiler::apply_filter(&program).unwrap();
            }
            // Signals to nobody.
            let nobody = nix::unistd::Pid::from_raw(i32::MAX);
            let kill = |signal: nix::sys::signal::Signal| nix::sys::signal::kill(nobody, signal);
            use nix::sys::signal::Signal::{SIGUSR1, SIGUSR2};
            (nix::unistd::sethostname("x"), kill(SIGUSR2), kill(SIGUSR1))
        });
        let (named, barred, free) = refused.join().unwrap();
        use nix::errno::Errno;
        assert_eq!((named, barred, free), (Err(Errno::ENOSYS), Err(Errno::EPERM), Err(Errno::ESRCH)));
    }
}
