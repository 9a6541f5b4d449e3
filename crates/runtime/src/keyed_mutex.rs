//! A mutex for each key, like k8s.io/utils/keymutex.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Mutexes by key; unused ones are removed.
#[derive(Debug, Default)]
pub struct KeyedMutex {
    mutexes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl KeyedMutex {
    /// Locks the mutex of a key.
    pub async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.mutex(name).lock_owned().await
    }

    /// [`lock`](Self::lock) for a thread that may block.
    pub fn lock_blocking(&self, name: &str) -> OwnedMutexGuard<()> {
        self.mutex(name).blocking_lock_owned()
    }

    fn mutex(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut mutexes = self.mutexes.lock();
        mutexes.retain(|_, mutex| Arc::strong_count(mutex) > 1);
        mutexes.entry(name.into()).or_default().clone()
    }
}
