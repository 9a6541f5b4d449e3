//! What a Job does next. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::ranges;
use informer::Pod;
use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::tracking::{Tally, ended_at};
use super::{condition, failures_before, index_of, is_indexed, outcome, replaces_ended};
use crate::toolkit::conditions::{self, NewCondition};

/// First and longest wait before pods that failed are replaced.
pub(super) const BACKOFF: (i64, i64) = (10, 600);
/// Pods that one round creates at the most.
const BURST: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Complete,
    /// The success policy is met, by the rule that the text names.
    Enough(String),
    Fail(&'static str, String),
    Run(Run),
}

/// So many pods more (their indexes, for indexed Jobs) or fewer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) create: usize,
    pub(super) indexes: Vec<i32>,
    pub(super) delete: usize,
}

impl Decision {
    /// The reason as one of those that are known; conditions hold them as text.
    fn with_reason(self, reason: Option<&str>) -> Self {
        const REASONS: [&str; 5] = [
            "BackoffLimitExceeded",
            "DeadlineExceeded",
            "PodFailurePolicy",
            "MaxFailedIndexesExceeded",
            "FailedIndexes",
        ];
        let known = REASONS.into_iter().find(|r| Some(*r) == reason).unwrap_or("BackoffLimitExceeded");
        match self {
            Decision::Fail(_, message) => Decision::Fail(known, message),
            other => other,
        }
    }
}

/// The decision that the status of a Job has announced already: it stands.
pub(super) fn announced(status: &JobStatus) -> Option<Decision> {
    if let Some(target) = condition(status, "FailureTarget") {
        let failed = Decision::Fail("", target.message.clone().unwrap_or_default());
        return Some(failed.with_reason(target.reason.as_deref()));
    }
    let met = condition(status, "SuccessCriteriaMet")?;
    Some(match met.reason.as_deref() {
        Some("SuccessPolicy") => Decision::Enough(met.message.clone().unwrap_or_default()),
        _ => Decision::Complete,
    })
}

pub(super) fn decide(spec: &JobSpec, tally: &Tally, age: Option<SignedDuration>) -> Decision {
    let limit = spec.backoff_limit.unwrap_or(6);
    if let Some(why) = &tally.fails_job {
        return Decision::Fail("PodFailurePolicy", why.clone());
    }
    if tally.failed > limit || (tally.restarts > 0 && tally.restarts >= limit.max(1)) {
        return Decision::Fail("BackoffLimitExceeded", "Job has reached the specified backoff limit".into());
    }
    if let (Some(deadline), Some(age)) = (spec.active_deadline_seconds, age)
        && age.as_secs() >= deadline
        && spec.suspend != Some(true)
    {
        return Decision::Fail("DeadlineExceeded", "Job was active longer than specified deadline".into());
    }
    let indexed = is_indexed(spec);
    let total = spec.completions.unwrap_or(0);
    if indexed {
        if spec.max_failed_indexes.is_some_and(|most| tally.given_up.len() as i32 > most) {
            let why = "Job has exceeded the specified maximal number of failed indexes";
            return Decision::Fail("MaxFailedIndexesExceeded", why.into());
        }
        let done = (tally.completed.len() + tally.given_up.len()) as i32 >= total;
        if done && !tally.given_up.is_empty() {
            return Decision::Fail("FailedIndexes", "Job has failed indexes".into());
        }
    }
    // A Job that has failed hasn't been successful early, whatever came first.
    if let Some(rule) = met(spec, &tally.completed) {
        return Decision::Enough(format!("Matched rules at index {rule}"));
    }
    if indexed {
        if tally.completed.len() as i32 >= total {
            return Decision::Complete;
        }
    } else if let Some(completions) = spec.completions {
        if tally.succeeded >= completions {
            return Decision::Complete;
        }
    } else if tally.succeeded > 0 && tally.active == 0 && tally.terminating == 0 {
        return Decision::Complete;
    }
    let wanted = if spec.suspend == Some(true) { 0 } else { spec.parallelism.unwrap_or(1) };
    Decision::Run(if indexed { run_indexes(spec, tally, wanted) } else { run_pods(spec, tally, wanted) })
}

/// The pods that an indexed Job makes or deletes now: one for each index that is free, up to `wanted` at work.
fn run_indexes(spec: &JobSpec, tally: &Tally, wanted: i32) -> Run {
    let total = spec.completions.unwrap_or(0);
    let wait_for_end = replaces_ended(spec);
    let free = (0..total).filter(|i| {
        let taken = wait_for_end && tally.terminating_indexes.contains(i);
        !taken && !tally.completed.contains(i) && !tally.given_up.contains(i) && !tally.active_indexes.contains(i)
    });
    let surplus = i32::try_from(tally.surplus.len()).unwrap_or(i32::MAX);
    let active = tally.active - surplus;
    let counted = active + if wait_for_end { tally.terminating } else { 0 };
    let room = usize::try_from(wanted - counted).unwrap_or(0);
    let indexes: Vec<i32> = free.take(room.min(BURST)).collect();
    let delete = tally.surplus.len() + usize::try_from(active - wanted).unwrap_or(0);
    Run { create: indexes.len(), indexes, delete }
}

/// The pods that a Job without indexes makes or deletes now.
fn run_pods(spec: &JobSpec, tally: &Tally, wanted: i32) -> Run {
    let wanted = match spec.completions {
        Some(completions) => wanted.min(completions - tally.succeeded),
        // A work queue: once one has succeeded, no new ones are started.
        None if tally.succeeded > 0 => wanted.min(tally.active),
        None => wanted,
    };
    // By default a terminating pod is replaced at once.
    let counted = tally.active + if replaces_ended(spec) { tally.terminating } else { 0 };
    Run {
        create: usize::try_from(wanted - counted).unwrap_or(0).min(BURST),
        indexes: Vec::new(),
        delete: usize::try_from(tally.active - wanted).unwrap_or(0),
    }
}

/// The first rule of the success policy that the completed indexes fulfil.
pub(super) fn met(spec: &JobSpec, completed: &BTreeSet<i32>) -> Option<usize> {
    spec.success_policy.as_ref()?.rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| ranges::read(text).unwrap_or_default());
        let done = match &wanted {
            Some(wanted) => wanted.intersection(completed).count(),
            None => completed.len(),
        };
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => done >= usize::try_from(count).unwrap_or(usize::MAX),
            (None, Some(wanted)) => done == wanted.len() && done > 0,
            (None, None) => false,
        }
    })
}

/// How long to wait before failed pods are replaced, from the last failure.
pub(super) fn backoff(failures: i32) -> SignedDuration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(10);
    SignedDuration::from_secs((BACKOFF.0 << doublings).min(BACKOFF.1))
}

/// Whether a failed pod must stay until the one that replaces it carries on its count: the last of its index.
pub(super) fn is_needed(spec: &JobSpec, tally: &Tally, mine: &[Arc<Pod>], pod: &Pod) -> bool {
    let (Some(_), Some(index)) = (spec.backoff_limit_per_index, index_of(pod)) else { return false };
    if outcome(spec, pod) != Some(false) || tally.completed.contains(&index) || tally.given_up.contains(&index) {
        return false;
    }
    let is_newer = |other: &Pod| index_of(other) == Some(index) && failures_before(other) > failures_before(pod);
    index < spec.completions.unwrap_or(0) && !mine.iter().any(|other| is_newer(other))
}

/// Which of the pods that are wanted may be made now, or how long it takes until one may. Failures hold up what follows them: all pods
/// of the Job, or, where each index has a limit of its own, those of its index alone.
///
/// # Errors
/// The time until the first of them may be made.
pub(super) fn ready(
    spec: &JobSpec,
    mine: &[Arc<Pod>],
    create: usize,
    indexes: &[i32],
    now: Timestamp,
) -> std::result::Result<(usize, Vec<i32>), SignedDuration> {
    let failed: Vec<(Timestamp, &Arc<Pod>)> =
        mine.iter().filter(|p| outcome(spec, p) == Some(false)).filter_map(|p| Some((ended_at(p)?, p))).collect();
    let left = |failures: i32, last: Timestamp| backoff(failures).saturating_sub(now.duration_since(last));
    if spec.backoff_limit_per_index.is_none() {
        let succeeded = mine.iter().filter(|p| outcome(spec, p) == Some(true)).filter_map(|p| ended_at(p)).max();
        let since: Vec<Timestamp> =
            failed.iter().map(|(at, _)| *at).filter(|at| succeeded.is_none_or(|s| *at > s)).collect();
        let count = i32::try_from(since.len()).unwrap_or(i32::MAX);
        return match since.into_iter().max().map(|last| left(count, last)) {
            Some(left) if left > SignedDuration::ZERO => Err(left),
            _ => Ok((create, indexes.to_vec())),
        };
    }
    let wait = |index: i32| {
        let of_index = failed.iter().filter(|(_, p)| index_of(p) == Some(index));
        let last = of_index.max_by_key(|(at, p)| (failures_before(p), *at));
        last.map_or(SignedDuration::ZERO, |(at, p)| left(failures_before(p).saturating_add(1), *at))
    };
    let free: Vec<i32> = indexes.iter().copied().filter(|i| wait(*i) <= SignedDuration::ZERO).collect();
    match indexes.iter().map(|i| wait(*i)).min() {
        Some(least) if free.is_empty() => Err(least),
        _ => Ok((free.len(), free)),
    }
}

/// How a Job has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending<'a> {
    Complete,
    /// With reason and message.
    Failed(&'static str, &'a str),
}

/// Announces a decision that ends a Job, and says that it has ended once no pod is at work and all are counted; returns its end when it has
/// just come.
pub(super) fn announce<'a>(
    status: &mut JobStatus,
    decision: &'a Decision,
    is_idle: bool,
    now: Timestamp,
) -> Option<Ending<'a>> {
    let (first, last, reason, message) = match decision {
        Decision::Fail(reason, message) => ("FailureTarget", "Failed", *reason, message.as_str()),
        Decision::Enough(message) => ("SuccessCriteriaMet", "Complete", "SuccessPolicy", message.as_str()),
        _ => ("SuccessCriteriaMet", "Complete", "CompletionsReached", "Reached expected number of succeeded pods"),
    };
    let mut add = |kind: &str| {
        let conditions = status.conditions.get_or_insert_default();
        let is_new = conditions::find(conditions, kind).is_none();
        if is_new {
            conditions::set(conditions, NewCondition::new(kind, "True", reason, message), now);
        }
        is_new
    };
    add(first);
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let open = uncounted.succeeded.map_or(0, |l| l.len()) + uncounted.failed.map_or(0, |l| l.len());
    if !is_idle || open > 0 || !add(last) {
        return None;
    }
    status.active = None;
    status.ready = Some(0);
    status.terminating = Some(0);
    if last == "Failed" {
        return Some(Ending::Failed(reason, message));
    }
    status.completion_time = Some(Time(now));
    Some(Ending::Complete)
}
