//! What clients may have at once of something that all share, as memory: nobody has more than is still free.
//!
//! So it is that switches share the room of their queues (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
//! 1998). Whoever takes all that he can get has half of it, two such have a third each, and there is always something left for those who come after
//! them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apimachinery::Status;
use parking_lot::Mutex;

use crate::authentication::User;

/// Something that users share.
pub struct Shares {
    budget: usize,
    accounts: Mutex<Accounts>,
}

#[derive(Default)]
struct Accounts {
    total: usize,
    by_owner: HashMap<Arc<str>, usize>,
}

impl Shares {
    /// Of so much in all.
    pub fn of(budget: usize) -> Arc<Self> {
        Arc::new(Shares { budget, accounts: Mutex::default() })
    }

    /// How much of it is taken.
    pub fn total(&self) -> usize {
        self.accounts.lock().total
    }

    /// Takes some for a user.
    ///
    /// # Errors
    /// 429 when the user has as much as is still free.
    pub fn take(self: &Arc<Self>, user: &User, amount: usize) -> Result<Share, Status> {
        self.take_for(owner(user), amount).ok_or_else(too_many)
    }

    /// Takes some for an owner, if he has no more then than is left.
    pub fn take_for(self: &Arc<Self>, owner: Arc<str>, amount: usize) -> Option<Share> {
        let share = Share { of: self.clone(), owner, amount: AtomicUsize::new(0) };
        share.grow(amount).then_some(share)
    }

    /// Takes some for an owner, whatever is left.
    pub fn take_anyway(self: &Arc<Self>, owner: Arc<str>, amount: usize) -> Share {
        self.add(&owner, amount, true);
        Share { of: self.clone(), owner, amount: AtomicUsize::new(amount) }
    }

    /// Who has nothing gets what he wants, however much it is.
    fn add(&self, owner: &Arc<str>, amount: usize, whatever_is_left: bool) -> bool {
        let mut accounts = self.accounts.lock();
        let free = self.budget.saturating_sub(accounts.total);
        let own = accounts.by_owner.get(owner).copied().unwrap_or(0);
        let wanted = own.saturating_add(amount);
        if own > 0 && wanted > free && !whatever_is_left {
            return false;
        }
        accounts.total = accounts.total.saturating_add(amount);
        accounts.by_owner.insert(owner.clone(), wanted);
        true
    }

    fn give_back(&self, owner: &Arc<str>, amount: usize) {
        let mut accounts = self.accounts.lock();
        accounts.total = accounts.total.saturating_sub(amount);
        if let Some(own) = accounts.by_owner.get_mut(owner) {
            *own = own.saturating_sub(amount);
            if *own == 0 {
                accounts.by_owner.remove(owner);
            }
        }
    }
}

/// The answer to who has too much.
pub fn too_many() -> Status {
    Status::too_many_requests("too many requests, please try again later", 1)
}

/// Whose share a user's is. Whoever may create pods of a namespace can act as each of its service accounts, and make any number of them: they have
/// one together.
pub fn owner(user: &User) -> Arc<str> {
    match user.name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
        Some((namespace, _)) => format!("system:serviceaccounts:{namespace}").into(),
        None => user.name.as_str().into(),
    }
}

/// What somebody has taken, until this is dropped.
pub struct Share {
    of: Arc<Shares>,
    owner: Arc<str>,
    amount: AtomicUsize,
}

impl Share {
    /// Takes some more; false, and nothing is taken, when there is too little left.
    pub fn grow(&self, amount: usize) -> bool {
        let fits = self.of.add(&self.owner, amount, false);
        if fits {
            self.amount.fetch_add(amount, Ordering::Relaxed);
        }
        fits
    }

    /// Another one of the same owner.
    pub fn another(&self, amount: usize) -> Option<Share> {
        self.of.take_for(self.owner.clone(), amount)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.give_back(&self.owner, *self.amount.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_is_still_free() {
        let shares = Shares::of(1000);
        let [anna, olga, root] = ["anna", "olga", "root"].map(|name| User::new(name, &[]));
        let take = |user: &User, amount| shares.take(user, amount).ok();
        let of_anna: Vec<Share> = std::iter::from_fn(|| take(&anna, 100)).collect();
        assert_eq!(of_anna.len(), 5);
        let of_olga: Vec<Share> = std::iter::from_fn(|| take(&olga, 100)).collect();
        assert_eq!(of_olga.len(), 3, "each has what is left, and something is left");
        assert!(take(&root, 250).is_some());
        assert!(!of_anna[0].grow(1) && take(&anna, 1).is_none());
        drop(of_anna);
        assert_eq!(shares.total(), 300);
        assert!(of_olga[0].grow(200));
        drop(of_olga);
        assert!(shares.accounts.lock().by_owner.is_empty());
        // One that is larger than all there is everybody gets.
        let large = take(&anna, 5000);
        assert!(large.is_some() && take(&anna, 1).is_none() && take(&olga, 5000).is_some());
    }

    #[test]
    fn all_service_accounts_of_a_namespace_have_one_share() {
        let own = |namespace, name| owner(&User::service_account(namespace, name, ""));
        assert_eq!(own("a", "b"), own("a", "c"));
        assert_ne!(own("a", "b"), own("b", "b"));
        assert_ne!(owner(&User::new("a", &[])), owner(&User::new("b", &[])));
    }
}
