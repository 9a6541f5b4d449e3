//! SELinux, where the kernel has it: the labels of containers that ask for some, and of the files that are theirs.
//!
//! What isn't asked for comes from the policy's word on containers (`lxc_contexts`, selabel_lxc(5)), as for other runtimes.

use std::io;
use std::path::Path;

use crate::inside;

const FILE_SYSTEM: &str = "/sys/fs/selinux/enforce";
/// Takes a label that the policy knows, and no other.
const CHECK: &str = "/sys/fs/selinux/context";
const CONFIGURATION: &str = "/etc/selinux";
/// The extended attribute with a file's label.
const ATTRIBUTE: &str = "security.selinux";

/// What a container asks for (`seLinuxOptions`); what is empty is the policy's to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The SELinux user.
    pub user: String,
    /// The role.
    pub role: String,
    /// The type (a word of Rust's, too).
    pub kind: String,
    /// The level: sensitivity and categories.
    pub level: String,
}

/// The labels of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// What its processes run as.
    pub process: String,
    /// What its files have.
    pub file: String,
}

/// Whether the kernel has it, with a policy.
pub fn is_enabled() -> bool {
    Path::new(FILE_SYSTEM).exists()
}

/// The labels of a container that asks for these.
///
/// # Errors
/// When the policy says nothing of containers, or doesn't know the labels.
pub fn labels(options: &Options) -> io::Result<Labels> {
    let folder = Path::new(CONFIGURATION);
    let name =
        value(&bounded::text(folder.join("config"), bounded::MAX_OWN_FILE_BYTES).unwrap_or_default(), "SELINUXTYPE");
    let path = folder.join(name.as_deref().unwrap_or("targeted")).join("contexts/lxc_contexts");
    let contexts = bounded::text(&path, bounded::MAX_OWN_FILE_BYTES).map_err(|e| {
        io::Error::new(e.kind(), format!("the policy says nothing of containers: {}: {e}", path.display()))
    })?;
    let labels = of_policy(&contexts, options).ok_or_else(|| {
        io::Error::other(format!("{} names no labels for processes and files of containers", path.display()))
    })?;
    for label in [&labels.process, &labels.file] {
        let unknown =
            |e| io::Error::other(format!("the SELinux policy takes no {label:?} (has it container-selinux?): {e}"));
        std::fs::write(CHECK, format!("{label}\0")).map_err(unknown)?;
    }
    Ok(labels)
}

/// The value of `key = "value"` in a file of such lines.
fn value(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let mut found = lines.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().trim_matches('"'));
    found.next_back().map(String::from)
}

fn of_policy(contexts: &str, options: &Options) -> Option<Labels> {
    let label = |key: &str, asked: [&str; 4]| {
        let usual = value(contexts, key)?;
        let mut parts = usual.splitn(4, ':');
        let parts = asked.map(|part| {
            let usual = parts.next().unwrap_or("");
            if part.is_empty() { usual } else { part }.to_string()
        });
        // Policies without levels have three parts.
        Some(parts.join(":").trim_end_matches(':').to_string())
    };
    let Options { user, role, kind, level } = options;
    Some(Labels { process: label("process", [user, role, kind, level])?, file: label("file", ["", "", "", level])? })
}

/// Gives everything at and below a path a label. Links are labelled, not followed; file systems without labels are left alone.
///
/// # Errors
/// Those of the file system.
pub fn relabel(path: &Path, label: &str) -> io::Result<()> {
    inside::walk(path, |found| match xattr::set_deref(found.name(), ATTRIBUTE, label.as_bytes()) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        other => other,
    })
}

/// The next program that this thread becomes runs under the label (proc_pid_attr(5), exec).
///
/// # Errors
/// When the policy doesn't allow it, or knows no such label.
pub fn at_exec(label: &str) -> io::Result<()> {
    // What a container has put in the way isn't written to.
    let attribute = Path::new("/proc/thread-self/attr/exec");
    let folder = attribute.parent().unwrap_or(attribute);
    if nix::sys::statfs::statfs(folder)?.filesystem_type() != nix::sys::statfs::PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc isn't the kernel's"));
    }
    std::fs::write(attribute, label)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\ncontent = \"system_u:object_r:virt_var_lib_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n";

    #[test]
    fn what_is_not_asked_for_is_the_policys() {
        let options =
            |kind: &str, level: &str| Options { kind: kind.into(), level: level.into(), ..Options::default() };
        let labels = |options| of_policy(CONTEXTS, &options).unwrap();
        assert_eq!(labels(options("", "")).process, "system_u:system_r:container_t:s0");
        let own = labels(options("spc_t", "s0:c1,c2"));
        assert_eq!(own.process, "system_u:system_r:spc_t:s0:c1,c2");
        assert_eq!(own.file, "system_u:object_r:container_file_t:s0:c1,c2");
        assert!(of_policy("process = \"a:b:c\"\n", &Options::default()).is_none());
        let old = of_policy("process = \"a:b:c\"\nfile = \"d:e:f\"\n", &Options::default()).unwrap();
        assert_eq!((old.process.as_str(), old.file.as_str()), ("a:b:c", "d:e:f"));
    }
}
