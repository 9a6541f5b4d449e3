//! What `proxy` lets through, and where it leads.

use regex::Regex;

use crate::commands::cp::spec::clean;
use crate::context::Context;
use crate::error::{Error, Result};

/// Which requests to the API are passed on.
pub struct Filter {
    accept_paths: Vec<Regex>,
    reject_paths: Vec<Regex>,
    accept_hosts: Vec<Regex>,
    reject_methods: Vec<Regex>,
}

impl Filter {
    /// # Errors
    /// For a flag that is no regular expression.
    pub fn of(cx: &Context) -> Result<Self> {
        let read = |flag: &str| -> Result<Vec<Regex>> {
            let parts = cx.args.text(flag).split(',').filter(|p| !p.is_empty());
            parts
                .map(|p| Regex::new(p).map_err(|e| Error::Message(format!("Error compiling re: --{flag}: {e}"))))
                .collect()
        };
        Ok(Filter {
            accept_paths: read("accept-paths")?,
            reject_paths: read("reject-paths")?,
            accept_hosts: read("accept-hosts")?,
            reject_methods: read("reject-methods")?,
        })
    }

    /// Whether a request passes; its path is decoded.
    pub fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        let any = |of: &[Regex], text: &str| of.iter().any(|r| r.is_match(text));
        !any(&self.reject_paths, path)
            && !any(&self.reject_methods, method)
            && any(&self.accept_paths, path)
            && any(&self.accept_hosts, host)
    }
}

/// A host without its port.
pub fn host_of(header: &str) -> &str {
    match header.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => header,
    }
}

/// Where a request leads.
#[derive(Debug, PartialEq)]
pub enum Way {
    /// To the API, with this path.
    Api(String),
    /// To a file, by its path below the folder.
    File(String),
    /// To another path here.
    Elsewhere(String),
    Nowhere,
}

/// The prefixes of paths that lead somewhere.
pub struct Prefixes {
    pub api: String,
    /// None where no files are served.
    pub files: Option<String>,
}

impl Prefixes {
    pub fn of(cx: &Context) -> Self {
        let whole = |text: &str| {
            format!("/{}", text.trim_start_matches('/').trim_end_matches('/').to_string() + "/").replace("//", "/")
        };
        Prefixes {
            api: whole(cx.args.text("api-prefix")),
            files: Some(whole(cx.args.text("www-prefix"))).filter(|_| !cx.args.text("www").is_empty()),
        }
    }

    /// The way of a path as it stands in the request. The longer prefix counts.
    pub fn way(&self, path: &str) -> Way {
        let Some(decoded) = decode(path) else { return Way::Nowhere };
        // What a server would take for another path than the filter does isn't passed on.
        let mut plain = clean(&decoded);
        if decoded.ends_with('/') && plain != "/" {
            plain.push('/');
        }
        if plain != decoded {
            return Way::Elsewhere(encode(&plain));
        }
        let files = self.files.as_deref().and_then(|prefix| Some((prefix, decoded.strip_prefix(prefix)?)));
        let api = decoded.starts_with(&self.api);
        match files {
            Some((prefix, rest)) if !api || prefix.len() >= self.api.len() => Way::File(rest.into()),
            // Prefixes of the API's own paths stay.
            _ if api && self.api.starts_with("/api") => Way::Api(path.into()),
            _ if api => match path.strip_prefix(self.api.as_str()) {
                Some(rest) => Way::Api(format!("/{}", rest.trim_start_matches('/'))),
                None => Way::Nowhere,
            },
            _ if [Some(&self.api), self.files.as_ref()].into_iter().flatten().any(|p| *p == format!("{decoded}/")) => {
                Way::Elsewhere(format!("{path}/"))
            }
            _ => Way::Nowhere,
        }
    }
}

/// A path without its percent signs; `None` when it is no text.
pub fn decode(path: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8().ok()?;
    (!decoded.contains('\0')).then(|| decoded.into_owned())
}

fn encode(path: &str) -> String {
    path.split('/').map(crate::client::encode).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_by_the_longer_prefix() {
        let all = Prefixes { api: "/".into(), files: Some("/static/".into()) };
        let api = |path: &str| Way::Api(path.into());
        for (path, way) in [
            ("/", api("/")),
            ("/api/v1/pods", api("/api/v1/pods")),
            ("/static/a/b.js", Way::File("a/b.js".into())),
            ("/static/", Way::File(String::new())),
            ("/static", api("/static")),
            ("/api/../static/x", Way::Elsewhere("/static/x".into())),
            ("/api//v1", Way::Elsewhere("/api/v1".into())),
            ("/static/%2e%2e/x", Way::Elsewhere("/x".into())),
            ("/api/%zz", api("/api/%zz")),
            ("/%00", Way::Nowhere),
            ("/%ff", Way::Nowhere),
        ] {
            assert_eq!(all.way(path), way, "{path}");
        }
        let own = Prefixes { api: "/custom/".into(), files: None };
        assert_eq!(own.way("/custom/api/v1"), api("/api/v1"));
        assert_eq!(own.way("/custom"), Way::Elsewhere("/custom/".into()));
        assert_eq!(own.way("/api/v1"), Way::Nowhere);
        let kept = Prefixes { api: "/api/".into(), files: None };
        assert_eq!(kept.way("/api/v1"), api("/api/v1"));
        assert_eq!(kept.way("/apis/apps"), Way::Nowhere);
    }

    #[test]
    fn hosts_are_told_without_their_ports() {
        for (header, host) in [
            ("localhost:8001", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]:8001", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a:b", "a:b"),
        ] {
            assert_eq!(host_of(header), host);
        }
    }
}
