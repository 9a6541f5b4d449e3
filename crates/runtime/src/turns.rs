//! One at a time for each name.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Those that are at something, by its name.
#[derive(Debug, Default)]
pub struct Turns {
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits until nobody else is at it.
    pub async fn of(&self, name: &str) -> OwnedMutexGuard<()> {
        self.mutex(name).lock_owned().await
    }

    /// The same for a thread that may block.
    pub fn of_blocking(&self, name: &str) -> OwnedMutexGuard<()> {
        self.mutex(name).blocking_lock_owned()
    }

    fn mutex(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock();
        busy.retain(|_, mutex| Arc::strong_count(mutex) > 1);
        busy.entry(name.into()).or_default().clone()
    }
}
