//! Conditions of statuses. Their types differ in what else they have, not in this: `lastTransitionTime` stays while `status` stays
//! (upstream's `apimeta.SetStatusCondition`).

use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSetCondition};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::{NamespaceCondition, NodeCondition, ReplicationControllerCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as MetaCondition, Time};
use k8s_openapi::jiff::Timestamp;

/// A condition that is to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewCondition<'a> {
    pub type_: &'a str,
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
    /// The generation of the object that it is about, where the type has a place for it.
    pub generation: Option<i64>,
}

impl<'a> NewCondition<'a> {
    pub fn new(type_: &'a str, status: &'a str, reason: &'a str, message: &'a str) -> Self {
        NewCondition { type_, status, reason, message, generation: None }
    }
}

/// A type of conditions.
pub trait Condition: Clone {
    fn type_(&self) -> &str;
    fn status(&self) -> &str;
    fn last_transition_time(&self) -> Option<&Time>;
    /// The condition, with `since` as its time. `before` is the condition of its type until now.
    fn build(wanted: NewCondition<'_>, since: Time, before: Option<&Self>, now: Time) -> Self;
}

/// The condition of a type.
pub fn find<'a, C: Condition>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions.iter().find(|c| c.type_() == type_)
}

/// The condition that comes in the place of that of its type in `before`.
pub fn next<C: Condition>(before: &[C], wanted: NewCondition<'_>, now: Timestamp) -> C {
    let (old, now) = (find(before, wanted.type_), Time(now));
    let same = old.filter(|c| c.status() == wanted.status);
    let since = same.and_then(|c| c.last_transition_time().cloned());
    C::build(wanted, since.unwrap_or_else(|| now.clone()), old, now)
}

/// Sets a condition among others; returns whether its status is another one than before.
pub fn set<C: Condition>(conditions: &mut Vec<C>, wanted: NewCondition<'_>, now: Timestamp) -> bool {
    let new: C = next(conditions, wanted, now);
    match conditions.iter().position(|c| c.type_() == wanted.type_) {
        Some(at) => {
            let turned = conditions[at].status() != wanted.status;
            conditions[at] = new;
            turned
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_string())
}

/// Types of conditions: how they hold `type` and `status`, and what they have beside the fields that all have.
macro_rules! conditions {
    ($($type:ty: $text:ident, $read:expr $(, $field:ident = $value:expr)*;)*) => { $(
        impl Condition for $type {
            fn type_(&self) -> &str {
                let read: fn(&Self) -> (&str, &str) = $read;
                read(self).0
            }
            fn status(&self) -> &str {
                let read: fn(&Self) -> (&str, &str) = $read;
                read(self).1
            }
            fn last_transition_time(&self) -> Option<&Time> {
                self.last_transition_time.as_ref()
            }
            #[allow(clippy::needless_update, reason = "some kinds of conditions have no further fields")]
            fn build(wanted: NewCondition<'_>, since: Time, before: Option<&Self>, now: Time) -> Self {
                let make: fn(NewCondition<'_>, Option<&Self>, Time) -> Self = |_wanted, _before, _now| Self {
                    $($field: $value(_wanted, _before, _now.clone()),)*
                    ..Self::default()
                };
                Self {
                    type_: $text(wanted.type_),
                    status: $text(wanted.status),
                    reason: some(wanted.reason),
                    message: some(wanted.message),
                    last_transition_time: Some(since),
                    ..make(wanted, before, now)
                }
            }
        }
    )* };
}

fn plain(text: &str) -> String {
    text.to_string()
}

conditions! {
    DeploymentCondition: some, |c| (c.type_.as_deref().unwrap_or(""), c.status.as_deref().unwrap_or("")),
        last_update_time = |wanted: NewCondition<'_>, before: Option<&DeploymentCondition>, now| {
            let same = before.filter(|c| {
                let texts = (c.status.as_deref(), c.reason.as_deref(), c.message.as_deref());
                texts == (Some(wanted.status), Some(wanted.reason), Some(wanted.message))
            });
            same.and_then(|c| c.last_update_time.clone()).or(Some(now))
        };
    ReplicaSetCondition: some, |c| (c.type_.as_deref().unwrap_or(""), c.status.as_deref().unwrap_or(""));
    ReplicationControllerCondition: plain, |c| (&c.type_, &c.status);
    JobCondition: plain, |c| (&c.type_, &c.status),
        last_probe_time = |wanted: NewCondition<'_>, before: Option<&JobCondition>, now| {
            let same = before.filter(|c| c.status == wanted.status);
            same.and_then(|c| c.last_probe_time.clone()).or(Some(now))
        };
    HorizontalPodAutoscalerCondition: plain, |c| (&c.type_, &c.status);
    NamespaceCondition: plain, |c| (&c.type_, &c.status);
    NodeCondition: plain, |c| (&c.type_, &c.status),
        last_heartbeat_time = |_, before: Option<&NodeCondition>, _| before.and_then(|c| c.last_heartbeat_time.clone());
}

impl Condition for MetaCondition {
    fn type_(&self) -> &str {
        &self.type_
    }

    fn status(&self) -> &str {
        &self.status
    }

    fn last_transition_time(&self) -> Option<&Time> {
        Some(&self.last_transition_time)
    }

    fn build(wanted: NewCondition<'_>, since: Time, _: Option<&Self>, _: Time) -> Self {
        MetaCondition {
            type_: wanted.type_.into(),
            status: wanted.status.into(),
            reason: wanted.reason.into(),
            message: wanted.message.into(),
            observed_generation: wanted.generation,
            last_transition_time: since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_of_a_condition_stays_while_its_status_stays() {
        let mut list: Vec<NamespaceCondition> = Vec::new();
        assert!(set(&mut list, NewCondition::new("A", "True", "First", "one"), at(1)));
        assert!(set(&mut list, NewCondition::new("B", "False", "Other", ""), at(2)));
        assert!(!set(&mut list, NewCondition::new("A", "True", "Second", "two"), at(3)));
        let first = find(&list, "A").unwrap();
        assert_eq!((first.reason.as_deref(), first.last_transition_time.as_ref().unwrap().0), (Some("Second"), at(1)));
        assert!(set(&mut list, NewCondition::new("A", "False", "Second", "two"), at(4)));
        assert_eq!(find(&list, "A").unwrap().last_transition_time.as_ref().unwrap().0, at(4));
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn a_deployments_condition_is_updated_when_anything_in_it_is_another() {
        let mut list: Vec<DeploymentCondition> = Vec::new();
        let times = |list: &[DeploymentCondition]| {
            let c = &list[0];
            (c.last_transition_time.as_ref().unwrap().0, c.last_update_time.as_ref().unwrap().0)
        };
        set(&mut list, NewCondition::new("Progressing", "True", "R", "m"), at(1));
        set(&mut list, NewCondition::new("Progressing", "True", "R", "m"), at(2));
        assert_eq!(times(&list), (at(1), at(1)));
        set(&mut list, NewCondition::new("Progressing", "True", "R", "n"), at(3));
        assert_eq!(times(&list), (at(1), at(3)));
        set(&mut list, NewCondition::new("Progressing", "False", "R", "n"), at(4));
        assert_eq!(times(&list), (at(4), at(4)));
    }
}
