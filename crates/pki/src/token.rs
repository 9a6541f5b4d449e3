//! The token that lets a machine join: `K10<sha256 of the CA certificate>::server:<secret>`.

use std::fmt;
use std::str::FromStr;

use rand::RngExt as _;
use subtle::ConstantTimeEq as _;

/// A parsed join token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Hex SHA-256 of the CA certificate's PEM text.
    pub ca_hash: String,
    /// The secret after `server:`.
    pub secret: String,
}

/// Why a text isn't a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token is malformed ({0}): it must read K10<hash of the CA>::server:<secret>; \
     the server's is in its data folder, file server/node-token"
)]
pub struct TokenError(&'static str);

impl JoinToken {
    /// The token for an authority's certificate (PEM) and a secret.
    pub fn new(ca_pem: &str, secret: &str) -> Self {
        JoinToken { ca_hash: crate::sha256_hex(ca_pem.as_bytes()), secret: secret.into() }
    }

    /// Whether the token's hash is that of the authority's certificate `ca_pem`. Compares in constant time.
    pub fn trusts(&self, ca_pem: &str) -> bool {
        let actual = crate::sha256_hex(ca_pem.as_bytes());
        actual.as_bytes().ct_eq(self.ca_hash.as_bytes()).into()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.trim().strip_prefix("K10").ok_or(TokenError("it doesn't begin with K10"))?;
        let (hash, credentials) = rest.split_once("::").ok_or(TokenError("there is no ::"))?;
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TokenError("the hash isn't 64 hexadecimal digits"));
        }
        let secret = credentials.strip_prefix("server:").ok_or(TokenError("there is no server: after the ::"))?;
        if secret.is_empty() {
            return Err(TokenError("the secret is empty"));
        }
        Ok(JoinToken { ca_hash: hash.to_ascii_lowercase(), secret: secret.into() })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "K10{}::server:{}", self.ca_hash, self.secret)
    }
}

/// Hides the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}…)", &self.ca_hash[..8.min(self.ca_hash.len())])
    }
}

/// A random secret of 128 bits, as 32 hexadecimal digits.
pub fn random_secret() -> String {
    let bytes: [u8; 16] = rand::rng().random();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_reads_what_it_wrote() {
        let token = JoinToken::new("ca", "s3cret");
        assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
        assert!(token.trusts("ca") && !token.trusts("other"));
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn malformed_tokens_say_what_is_wrong() {
        let hash = "a".repeat(64);
        for (text, want) in [
            ("abc", "begin with K10"),
            ("K10abc", "no ::"),
            ("K10abc::server:x", "64 hexadecimal"),
            (&format!("K10{hash}::x"), "server:"),
            (&format!("K10{hash}::server:"), "empty"),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
