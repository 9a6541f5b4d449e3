//! Which tokens of Secrets are used (KEP-2799): those that nobody has used for long are taken away by a controller.

use std::collections::BTreeSet;

use apimachinery::{ObjectExt as _, clock};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

/// On a Secret: the day on which its token was last used.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// On a Secret: the day since which its token is refused.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Secrets that wait to be marked; more are marked when their tokens are used again.
const MAX_WAITING: usize = 10_000;

/// Secrets whose tokens were used today, and that don't say so yet.
#[derive(Default)]
pub struct UsedTokens {
    waiting: Mutex<BTreeSet<(String, String)>>,
    more: Notify,
}

/// Today, as the labels write it.
pub fn today() -> String {
    clock::now().strftime("%Y-%m-%d").to_string()
}

impl UsedTokens {
    /// The token of a Secret was used.
    pub(super) fn note(&self, secret: &Value) {
        if secret["metadata"]["labels"][LAST_USED] == today().as_str() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING && waiting.insert((secret.namespace().into(), secret.name().into())) {
            self.more.notify_one();
        }
    }

    /// Namespaces and names of those that wait.
    pub fn take(&self) -> BTreeSet<(String, String)> {
        std::mem::take(&mut self.waiting.lock())
    }

    /// Waits until there are some.
    pub async fn some(&self) {
        self.more.notified().await;
    }
}
