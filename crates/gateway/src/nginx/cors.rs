//! Cross-origin resource sharing, with the defaults of ingress-nginx.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderMap, HeaderValue};

/// Who may read responses from pages of other origins (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Debug, Clone)]
pub struct Cors {
    /// Origins that may; all if it is empty.
    pub origins: Vec<Origin>,
    /// `Access-Control-Allow-Methods`.
    pub methods: HeaderValue,
    /// `Access-Control-Allow-Headers`.
    pub headers: HeaderValue,
    /// `Access-Control-Expose-Headers`.
    pub exposed: Option<HeaderValue>,
    /// `Access-Control-Allow-Credentials`.
    pub credentials: bool,
    /// `Access-Control-Max-Age`, in seconds.
    pub max_age: u64,
}

/// An origin, without regard to capital letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `https://example.com:8443`.
    Exact(String),
    /// `https://*.example.com`: one more label.
    Wildcard {
        /// Up to the asterisk.
        before: String,
        /// From the dot after it.
        after: String,
    },
}

impl Origin {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Origin::Exact(exact) => *exact == origin,
            Origin::Wildcard { before, after } => origin
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(after.as_str()))
                .is_some_and(|label| !label.is_empty() && !label.contains(['.', ':', '/'])),
        }
    }
}

impl Cors {
    /// What `Access-Control-Allow-Origin` is for a request; none if its origin isn't allowed.
    pub fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        if self.origins.is_empty() {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = request.get(http::header::ORIGIN)?;
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        self.origins.iter().any(|allowed| allowed.matches(&text)).then(|| origin.clone())
    }

    /// Sets the headers of a response to a request whose origin is allowed.
    pub fn apply(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        response.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        response.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
        response.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        if self.credentials {
            response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(exposed) = &self.exposed {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
        if !self.origins.is_empty() {
            response.append(http::header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}
