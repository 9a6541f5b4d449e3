//! What `cp` is asked for: a path here, or one in a pod.

use crate::error::{Result, fail};

/// One side of a copy.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    Local(String),
    Remote {
        /// Empty for the namespace of the command line.
        namespace: String,
        pod: String,
        path: String,
    },
}

impl Spec {
    /// # Errors
    /// For what isn't `[[namespace/]pod:]path`.
    pub fn parse(text: &str) -> Result<Self> {
        const WRONG: &str = "filespec must match the canonical format: [[namespace/]pod:]file/path";
        let spec = match text.split_once(':') {
            None => Spec::Local(trim(text).into()),
            Some(("", _)) => return fail(WRONG),
            Some((place, path)) => {
                let path = trim(path).replace('\\', "/");
                match place.split('/').collect::<Vec<_>>()[..] {
                    [pod] => Spec::Remote { namespace: String::new(), pod: pod.into(), path },
                    [namespace, pod] => Spec::Remote { namespace: namespace.into(), pod: pod.into(), path },
                    _ => return fail(WRONG),
                }
            }
        };
        Ok(spec)
    }

    pub fn path(&self) -> &str {
        match self {
            Spec::Local(path) | Spec::Remote { path, .. } => path,
        }
    }
}

fn trim(path: &str) -> &str {
    if path == "/" { path } else { path.strip_suffix('/').unwrap_or(path) }
}

/// A path without `.`, doubled slashes, and `..` where there is something before it.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        match (part, parts.last()) {
            ("..", Some(&last)) if last != ".." => {
                parts.pop();
            }
            ("..", None) if absolute => {}
            _ => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// The last part of a path.
pub fn base(path: &str) -> String {
    let cleaned = clean(path);
    if cleaned == "/" { cleaned } else { cleaned.rsplit('/').next().unwrap_or(".").into() }
}

/// What stands before the last part.
pub fn folder(path: &str) -> String {
    match clean(path).rsplit_once('/') {
        None => ".".into(),
        Some(("", _)) => "/".into(),
        Some((before, _)) => before.into(),
    }
}

/// What names in the archive of a remote path begin with: tar leaves out leading slashes and `../`.
pub fn prefix(path: &str) -> String {
    let cleaned = clean(path.trim_start_matches('/'));
    let mut rest = cleaned.as_str();
    while let Some(shorter) = rest.strip_prefix("../") {
        rest = shorter;
    }
    if rest == "." || rest == ".." { String::new() } else { rest.into() }
}

/// The command that unpacks what is copied into a pod.
pub fn unpack(path: &str, preserve: bool) -> Vec<String> {
    let kept: &[&str] = if preserve { &[] } else { &["--no-same-permissions", "--no-same-owner"] };
    let place = folder(path);
    ["tar"].iter().chain(kept).chain(&["-xmf", "-", "-C", &place]).map(ToString::to_string).collect()
}

/// The command that packs what is copied out of a pod, from this byte on.
pub fn pack(path: &str, resumable: bool, from: u64) -> Vec<String> {
    if !resumable {
        return ["tar", "cf", "-", path].map(String::from).to_vec();
    }
    let quoted = path.replace('\'', "'\\''");
    vec!["sh".into(), "-c".into(), format!("tar cf - '{quoted}' | tail -c+{from}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_as_upstream_reads_them() {
        assert_eq!(Spec::parse("a/b/").unwrap(), Spec::Local("a/b".into()));
        let remote = |namespace: &str, pod: &str, path: &str| Spec::Remote {
            namespace: namespace.into(),
            pod: pod.into(),
            path: path.into(),
        };
        assert_eq!(Spec::parse("p:/x").unwrap(), remote("", "p", "/x"));
        assert_eq!(Spec::parse("n/p:x:y/").unwrap(), remote("n", "p", "x:y"));
        assert_eq!(Spec::parse("p:").unwrap(), remote("", "p", ""));
        for bad in [":x", "a/b/c:x"] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_cleaned_and_prefixes_are_what_tar_leaves() {
        for (path, cleaned, prefixed) in [
            ("/tmp//foo/./", "/tmp/foo", "tmp/foo"),
            ("../../a/b", "../../a/b", "a/b"),
            (".", ".", ""),
            ("..", "..", ""),
            ("/", "/", ""),
            ("/a/../../b", "/b", "b"),
            ("a/..", ".", ""),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
            assert_eq!(prefix(path), prefixed, "{path}");
        }
        assert_eq!((folder("/x"), folder("x"), folder("a/b")), ("/".into(), ".".into(), "a".into()));
        assert_eq!((base("/x/"), base("."), base("/")), ("x".into(), ".".into(), "/".into()));
    }

    #[test]
    fn commands_are_upstreams() {
        assert_eq!(unpack("/tmp/x", true).join(" "), "tar -xmf - -C /tmp");
        assert_eq!(unpack("x", false).join(" "), "tar --no-same-permissions --no-same-owner -xmf - -C .");
        assert_eq!(pack("/tmp/x", false, 1).join(" "), "tar cf - /tmp/x");
        assert_eq!(pack("/it's", true, 7)[2], "tar cf - '/it'\\''s' | tail -c+7");
    }
}
