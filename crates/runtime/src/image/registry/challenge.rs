//! How a registry asks for credentials (RFC 9110, section 11.6.1; distribution-spec's token authentication).

/// How a registry wants to be signed in to (RFC 9110, section 11.6.1; distribution-spec's token authentication).
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token, which another server gives.
    Bearer {
        /// The URL of that server.
        realm: String,
        /// What the token is for.
        service: Option<String>,
        /// The rights that it gives.
        scope: Option<String>,
    },
}

/// Reads the header in which a registry asks for credentials; nothing, if it wants something else.
pub fn read_challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "realm" => Some(&mut realm),
            "service" => Some(&mut service),
            "scope" => Some(&mut scope),
            _ => None,
        };
        if let Some(place) = place {
            *place = Some(value.trim().to_string());
        }
        rest = after.trim_start_matches([',', ' ', '\t']);
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}
