//! Credentials of pull secrets, and which images they are for (upstream's `credentialprovider`).

use k8s_openapi::api::core::v1::Secret;
use runtime::image::Credentials;
use serde_json::{Map, Value};

/// The key of Docker's own registry in files that Docker writes.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// The entries of a pull secret of either type, by what they say that they are for.
fn entries(secret: &Secret) -> Option<Map<String, Value>> {
    let data = secret.data.as_ref()?;
    let read = |key: &str| serde_json::from_slice::<Value>(&data.get(key)?.0).ok();
    let entries = match secret.type_.as_deref() {
        Some("kubernetes.io/dockercfg") => read(".dockercfg")?,
        _ => read(".dockerconfigjson")?["auths"].take(),
    };
    match entries {
        Value::Object(entries) => Some(entries),
        _ => None,
    }
}

/// The user and the password of an entry.
fn credentials_of(entry: &Value) -> Option<Credentials> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    let text = |field: &str| entry[field].as_str().filter(|text| !text.is_empty());
    if let Some(auth) = text("auth") {
        let decoded = if auth.ends_with('=') { STANDARD.decode(auth) } else { STANDARD_NO_PAD.decode(auth) };
        let decoded = String::from_utf8(decoded.ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        return Some(Credentials::Basic(user.into(), password.into()));
    }
    Some(Credentials::Basic(text("username")?.into(), text("password")?.into()))
}

/// What an entry is for: a registry, perhaps with a path. A scheme says nothing, and neither do the versions of Docker's API.
fn place(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = ["v1", "v2"].iter().find_map(|version| path.strip_prefix(version)?.strip_prefix('/')).unwrap_or(path);
    if path.is_empty() { host.into() } else { format!("{host}/{path}") }
}

/// Whether a text is of a pattern, in which `*` stands for any and `?` for one character.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            // What the last star stands for becomes longer.
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether an entry's place is that of an image: the same port, each part of the host like its pattern, and the path a beginning of the image's.
fn is_for(place: &str, image: &str) -> bool {
    let parts = |text: &str| {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        (host.split('.').map(String::from).collect::<Vec<_>>(), port.to_string(), path.to_string())
    };
    let ((hosts, port, path), (of_image, image_port, image_path)) = (parts(place), parts(image));
    port == image_port
        && hosts.len() == of_image.len()
        && image_path.starts_with(&path)
        && hosts.iter().zip(&of_image).all(|(pattern, part)| is_like(pattern, part))
}

/// The credentials of a secret for an image, by its full name: those with the longest places first. Docker's own registry has another name in Docker's files.
pub fn credentials(secret: &Secret, image: &str) -> Vec<Credentials> {
    let entries = entries(secret).unwrap_or_default();
    let mut all: Vec<(String, Credentials)> =
        entries.iter().filter_map(|(key, entry)| Some((place(key), credentials_of(entry)?))).collect();
    all.sort_by(|(a, _), (b, _)| b.cmp(a));
    let those = |of: &dyn Fn(&str) -> bool| -> Vec<Credentials> {
        all.iter().filter(|(place, _)| of(place)).map(|(_, credentials)| credentials.clone()).collect()
    };
    let found = those(&|place| is_for(place, image));
    if found.is_empty() && image.starts_with("docker.io/") { those(&|place| place == DEFAULT_REGISTRY) } else { found }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;

    fn users(kind: &str, content: &Value, image: &str) -> Vec<String> {
        let key = if kind == "kubernetes.io/dockercfg" { ".dockercfg" } else { ".dockerconfigjson" };
        let data = base64::engine::general_purpose::STANDARD.encode(content.to_string());
        let secret = serde_json::from_value(json!({"type": kind, "data": {key: data}})).unwrap();
        let user = |credentials: Credentials| match credentials {
            Credentials::Basic(user, password) => format!("{user}:{password}"),
            _ => "?".into(),
        };
        credentials(&secret, image).into_iter().map(user).collect()
    }

    #[test]
    fn credentials_are_for_places() {
        let entry = |user: &str| json!({"username": user, "password": "p"});
        let auths = json!({"auths": {
            "https://r.io": entry("host"), "r.io/team": entry("team"), "r.io/team/app": entry("app"), "r.io:5000": entry("port"),
            "*.example.com": entry("any"), "a?.example.org/v2/": entry("one"), "https://index.docker.io/v1/": entry("docker"),
            "ghcr.io": {"auth": "dTpw"}, "quay.io": {"auth": "dTpwcA=="}, "bad.io": {"auth": "!"}}});
        for (image, wanted) in [
            ("r.io/other:1", &["host:p"][..]),
            ("r.io/team/app:1", &["app:p", "team:p", "host:p"]),
            ("r.io:5000/x:1", &["port:p"]),
            ("eu.example.com/x:1", &["any:p"]),
            ("example.com/x:1", &[]),
            ("a.b.example.com/x:1", &[]),
            ("ab.example.org/x:1", &["one:p"]),
            ("abc.example.org/x:1", &[]),
            ("docker.io/library/nginx:latest", &["docker:p"]),
            ("ghcr.io/x:1", &["u:p"]),
            ("quay.io/x:1", &["u:pp"]),
            ("bad.io/x:1", &[]),
        ] {
            assert_eq!(users("kubernetes.io/dockerconfigjson", &auths, image), wanted, "{image}");
        }
        // The older type has no outer object.
        assert_eq!(users("kubernetes.io/dockercfg", &json!({"r.io": entry("old")}), "r.io/x:1"), ["old:p"]);
        assert!(users("kubernetes.io/dockerconfigjson", &json!({"auths": null}), "r.io/x:1").is_empty());
    }

    #[test]
    fn patterns_are_bounded_in_time() {
        let pattern = "*a".repeat(2000);
        assert!(!is_like(&pattern, &"a".repeat(1999)) && is_like(&pattern, &"a".repeat(2000)));
    }
}
