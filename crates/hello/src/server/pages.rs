//! What is answered.

use std::fmt::Write as _;
use std::path::Path;

use super::request::Request;
use super::visits::Visits;
use crate::dns::Resolver;

/// Pods that `/peers` lists.
const MAX_PEERS: usize = 50;

/// An HTTP answer.
pub struct Answer {
    code: u16,
    is_html: bool,
    body: String,
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

impl Answer {
    fn text(code: u16, body: impl Into<String>) -> Self {
        Answer { code, is_html: false, body: body.into() }
    }

    pub fn error(code: u16, why: &str) -> Self {
        Self::text(code, format!("{why}\n"))
    }

    pub fn bytes(&self, has_body: bool) -> Vec<u8> {
        let kind = if self.is_html { "text/html" } else { "text/plain" };
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\nConnection: close\r\n\r\n",
            self.code,
            reason(self.code),
            self.body.len()
        );
        if has_body {
            bytes.push_str(&self.body);
        }
        bytes.into_bytes()
    }
}

/// The pages of one pod.
pub struct Pages {
    pod: String,
    namespace: String,
    node: String,
    peers: Option<String>,
    visits: Visits,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Pages {
    pub fn of_pod() -> Self {
        let folder = variable("HELLO_DATA").unwrap_or_else(|| "/data".into());
        Pages {
            pod: variable("POD_NAME").or_else(|| crate::tools::host_name().ok()).unwrap_or_else(|| "unknown".into()),
            namespace: variable("POD_NAMESPACE").or_else(namespace).unwrap_or_else(|| "unknown".into()),
            node: variable("NODE_NAME").unwrap_or_else(|| "unknown".into()),
            peers: variable("HELLO_PEERS"),
            visits: Visits::open(Path::new(&folder)),
        }
    }

    #[cfg(test)]
    pub fn for_tests(folder: &Path) -> Self {
        let [pod, namespace, node] = ["pod-<0>", "default", "server-1"].map(String::from);
        Pages { pod, namespace, node, peers: None, visits: Visits::open(folder) }
    }

    pub fn answer(&self, request: &Request, is_ready: bool) -> Answer {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Answer::error(405, "only GET and HEAD are answered");
        }
        match request.path.as_str() {
            "/" => self.front(request.wants_html),
            "/healthz" => Answer::text(200, "ok\n"),
            "/readyz" if is_ready => Answer::text(200, "ok\n"),
            "/readyz" => Answer::error(503, "ending"),
            "/peers" => self.list_peers(),
            _ => Answer::error(404, "there are /, /peers, /healthz and /readyz"),
        }
    }

    fn front(&self, wants_html: bool) -> Answer {
        let (count, kept) = match (self.visits.count(), self.visits.folder()) {
            (Ok(count), Some(folder)) => (count.to_string(), format!("kept in {}", folder.display())),
            (Ok(count), None) => (count.to_string(), "in memory".into()),
            (Err(why), _) => ("unknown".into(), why.to_string()),
        };
        let version = env!("CARGO_PKG_VERSION");
        let Pages { pod, namespace, node, .. } = self;
        if !wants_html {
            return Answer::text(
                200,
                format!(
                    "Hello from {pod}\nnamespace: {namespace}\nnode: {node}\nversion: {version}\nvisits: {count} ({kept})\n"
                ),
            );
        }
        let [pod, namespace, node, kept] = [pod, namespace, node, &kept].map(|text| escaped(text));
        let body = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{pod}</title>\
             <style>body{{font:1.2rem/1.6 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1rem;color-scheme:light dark}}</style>\
             <h1>Hello from {pod}</h1><p>A pod in the namespace <b>{namespace}</b> on the node <b>{node}</b>.</p>\
             <p>This is visit <b>{count}</b> ({kept}).</p><p><a href=/peers>Its peers</a></p><small>version {version}</small></html>\n"
        );
        Answer { code: 200, is_html: true, body }
    }

    /// The pods of the headless service, by their names (the address of each, and the name that leads to it).
    fn list_peers(&self) -> Answer {
        let Some(service) = &self.peers else {
            return Answer::text(200, "no peers: HELLO_PEERS names no headless Service\n");
        };
        let found = Resolver::of_pod().and_then(|resolver| {
            let (full, mut addresses) = resolver.addresses(service)?;
            addresses.sort();
            addresses.truncate(MAX_PEERS);
            let mut text = String::new();
            for address in addresses {
                // An address may have the names of several services.
                let names = resolver.names(address)?;
                let own = names.iter().find(|name| name.ends_with(&format!(".{full}"))).or(names.first());
                let _ = writeln!(text, "{address} {}", own.map_or("", |name| name.as_str()));
            }
            Ok(text)
        });
        found.map_or_else(|why| Answer::error(503, &why.to_string()), |text| Answer::text(200, text))
    }
}

/// The namespace, as the pod's names are searched in it.
fn namespace() -> Option<String> {
    let resolver = Resolver::of_pod().ok()?;
    resolver.search.iter().find_map(|domain| domain.split_once(".svc.").map(|(namespace, _)| namespace.to_string()))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
