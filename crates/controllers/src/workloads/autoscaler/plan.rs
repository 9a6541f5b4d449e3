//! How many replicas metrics ask for, and how fast a target may get there. Amounts are in thousandths.

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Below this relative difference nothing is changed, unless a rule says otherwise.
pub const TOLERANCE: f64 = 0.1;

/// A pod of the target that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodUse {
    /// Not yet: what it uses now says nothing of what it will.
    pub unready: bool,
    /// `None` if no metric has it.
    pub usage: Option<i64>,
    pub request: i64,
}

/// What a metric asks for, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    pub replicas: i32,
    /// Percent of what the pods requested.
    pub utilization: Option<i32>,
    /// Per pod.
    pub average: Option<i64>,
    /// In all.
    pub value: Option<i64>,
}

/// By how much a metric may miss its target, upward and downward.
#[derive(Debug, Clone, Copy)]
pub struct Tolerances {
    pub up: f64,
    pub down: f64,
}

impl Tolerances {
    fn cover(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// Towards a use per pod: a share of what is requested (`percent`), or an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodTarget {
    Percent(i64),
    Amount(i64),
}

impl PodTarget {
    fn ratio(self, used: i128, requested: i128, pods: usize) -> f64 {
        match self {
            PodTarget::Percent(percent) => used as f64 * 100.0 / requested.max(1) as f64 / percent.max(1) as f64,
            PodTarget::Amount(amount) => used as f64 / pods.max(1) as f64 / amount.max(1) as f64,
        }
    }
}

/// The replicas that bring the use per pod to its target.
///
/// # Errors
/// When no pod's use is known.
pub fn by_pods(current: i32, pods: &[PodUse], target: PodTarget, tolerances: Tolerances) -> Result<Proposal, String> {
    let known: Vec<&PodUse> = pods.iter().filter(|p| !p.unready && p.usage.is_some()).collect();
    // Wider than what is added, so that no sum is too large for it.
    let sum = |of: &[&PodUse], what: fn(&PodUse) -> i64| of.iter().map(|p| i128::from(what(p))).sum::<i128>();
    let (used, requested) = (sum(&known, |p| p.usage.unwrap_or(0)), sum(&known, |p| p.request));
    if known.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let ratio = target.ratio(used, requested, known.len());
    let proposal = |replicas: i32| Proposal {
        replicas,
        utilization: match target {
            PodTarget::Percent(_) => i32::try_from(used * 100 / requested.max(1)).ok(),
            PodTarget::Amount(_) => None,
        },
        average: i64::try_from(used / known.len() as i128).ok(),
        value: None,
    };
    let unready = pods.iter().filter(|p| p.unready).count();
    let missing: Vec<&PodUse> = pods.iter().filter(|p| !p.unready && p.usage.is_none()).collect();
    let grows_with_unready = unready > 0 && ratio > 1.0;
    if !grows_with_unready && missing.is_empty() {
        if tolerances.cover(ratio) {
            return Ok(proposal(current));
        }
        return Ok(proposal((ratio * known.len() as f64).ceil() as i32));
    }
    // A pod without metrics counts as the safer case: idle for a scale-up, fully used for a scale-down.
    let (mut used, mut requested, mut count) = (used, requested, known.len());
    for pod in &missing {
        if ratio < 1.0 {
            used += match target {
                PodTarget::Percent(percent) => i128::from(pod.request) * i128::from(percent.max(100)) / 100,
                PodTarget::Amount(amount) => amount.into(),
            };
        }
        requested += i128::from(pod.request);
        count += 1;
    }
    if grows_with_unready {
        requested += pods.iter().filter(|p| p.unready).map(|p| i128::from(p.request)).sum::<i128>();
        count += unready;
    }
    let new = target.ratio(used, requested, count);
    let turned = (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0);
    if tolerances.cover(new) || turned {
        return Ok(proposal(current));
    }
    let replicas = (new * count as f64).ceil() as i32;
    let against = (new < 1.0 && replicas > current) || (new > 1.0 && replicas < current);
    Ok(proposal(if against { current } else { replicas }))
}

/// Towards a value of the whole: of an object, or of something outside.
pub fn by_value(current: i32, ready: i32, value: i64, target: i64, tolerances: Tolerances) -> Proposal {
    let ratio = value as f64 / target.max(1) as f64;
    // Where there are none, what counts is the ratio alone, and nothing is near enough (KEP-2021).
    let replicas = match current {
        0 => ratio.ceil() as i32,
        _ if tolerances.cover(ratio) => current,
        _ => (ratio * f64::from(ready.max(1))).ceil() as i32,
    };
    Proposal { replicas, utilization: None, average: None, value: Some(value) }
}

/// Towards a value of the whole that is shared by the pods.
pub fn by_shared_value(current: i32, value: i64, target: i64, tolerances: Tolerances) -> Proposal {
    let ratio = value as f64 / (target.max(1) as f64 * f64::from(current.max(1)));
    let near = current > 0 && tolerances.cover(ratio);
    let replicas = if near { current } else { (value as f64 / target.max(1) as f64).ceil() as i32 };
    let average = Some(value / i64::from(current.max(1)));
    Proposal { replicas, utilization: None, average, value: None }
}

/// What happened to a target of late, for rules that look back.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub recommendations: Vec<(Timestamp, i32)>,
    /// Changes of the number of replicas, upward positive.
    pub changes: Vec<(Timestamp, i32)>,
}

/// The longest that any rule may look back.
const LONGEST: SignedDuration = SignedDuration::from_secs(3600);

impl History {
    pub fn forget(&mut self, now: Timestamp) {
        self.recommendations.retain(|(at, _)| now.duration_since(*at) <= LONGEST);
        self.changes.retain(|(at, _)| now.duration_since(*at) <= LONGEST);
    }

    fn changed(&self, period: i32, now: Timestamp) -> i32 {
        let recent = |(at, _): &&(Timestamp, i32)| now.duration_since(*at).as_secs() < i64::from(period);
        self.changes.iter().filter(recent).fold(0, |all, (_, by)| by.saturating_add(all))
    }
}

/// What is decided, with the conditions `AbleToScale` and `ScalingLimited` as reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    pub replicas: i32,
    pub able: (&'static str, &'static str),
    /// Whether something kept it from what was wanted.
    pub limited: (bool, &'static str, &'static str),
}

pub fn rules(behavior: Option<&HorizontalPodAutoscalerBehavior>, up: bool) -> HPAScalingRules {
    let rules = behavior.and_then(|b| if up { b.scale_up.clone() } else { b.scale_down.clone() });
    rules.unwrap_or_default()
}

fn window(rules: &HPAScalingRules, up: bool) -> i32 {
    rules.stabilization_window_seconds.unwrap_or(if up { 0 } else { 300 })
}

/// How far a target without rules of its own may grow at a time (upstream's `calculateScaleUpLimit`).
fn unruled(current: i32) -> i32 {
    current.saturating_mul(2).max(4)
}

/// How far a target may go in one direction within the periods of its rules.
fn bound(current: i32, rules: &HPAScalingRules, up: bool, history: &History, now: Timestamp) -> i32 {
    if rules.select_policy.as_deref() == Some("Disabled") {
        return current;
    }
    let policies: Vec<(String, i32, i32)> = match &rules.policies {
        Some(list) => list.iter().map(|p| (p.type_.clone(), p.value, p.period_seconds)).collect(),
        None if up => vec![("Pods".into(), 4, 15), ("Percent".into(), 100, 15)],
        None => vec![("Percent".into(), 100, 15)],
    };
    let proposals = policies.iter().map(|(kind, value, period)| {
        let start = f64::from(current.saturating_sub(history.changed(*period, now)));
        let step = f64::from(*value);
        match (kind.as_str(), up) {
            ("Pods", true) => (start + step) as i32,
            ("Pods", false) => (start - step) as i32,
            (_, true) => (start * (1.0 + step / 100.0)).ceil() as i32,
            (_, false) => (start * (1.0 - step / 100.0)) as i32,
        }
    });
    let widest = rules.select_policy.as_deref() != Some("Min");
    let bound = if up == widest { proposals.max() } else { proposals.min() };
    let bound = bound.unwrap_or(current);
    if up { bound.max(current) } else { bound.min(current) }
}

/// From what metrics ask for to what is done now.
pub fn limit(
    current: i32,
    asked: i32,
    (min, max): (i32, i32),
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    history: &mut History,
    now: Timestamp,
) -> Limited {
    history.forget(now);
    if history.recommendations.is_empty() {
        // Of what was recommended before this process nothing is known: what there is now is taken for it (`recordInitialRecommendation`).
        history.recommendations.push((now, current));
    }
    let (up, down) = (rules(behavior, true), rules(behavior, false));
    // Upward the lowest of late counts, downward the highest.
    let within = |seconds: i32| {
        let recent = move |(at, _): &&(Timestamp, i32)| now.duration_since(*at).as_secs() < i64::from(seconds);
        history.recommendations.iter().filter(recent).map(|(_, n)| *n).collect::<Vec<_>>()
    };
    let up_to = within(window(&up, true)).into_iter().min().unwrap_or(asked).min(asked);
    let down_to = within(window(&down, false)).into_iter().max().unwrap_or(asked).max(asked);
    let stable = current.max(up_to).min(down_to);
    history.recommendations.push((now, asked));
    let (replicas, limited) = if stable > current {
        let bound = match behavior {
            Some(_) => bound(current, &up, true, history, now),
            None => unruled(current),
        };
        match stable {
            n if n > bound.min(max) && bound < max => (
                bound,
                (true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"),
            ),
            n if n > max => {
                (max, (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"))
            }
            n => (n, WITHIN),
        }
    } else if stable < current {
        let bound = bound(current, &down, false, history, now);
        match stable {
            n if n < bound.max(min) && bound > min => (
                bound,
                (true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"),
            ),
            n if n < min => {
                (min, (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"))
            }
            n => (n, WITHIN),
        }
    } else if asked > max {
        (stable.min(max), (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"))
    } else if asked < min {
        (stable.max(min), (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"))
    } else {
        (stable, WITHIN)
    };
    Limited { replicas, able: able_to_scale(stable, asked), limited }
}

/// Reason and message of the condition `AbleToScale`: whether earlier recommendations hold back what is asked for now.
fn able_to_scale(stable: i32, asked: i32) -> (&'static str, &'static str) {
    match stable {
        n if n == asked => ("ReadyForNewScale", "recommended size matches current size"),
        n if n > asked => (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ),
        _ => (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ),
    }
}

const WITHIN: (bool, &str, &str) = (false, "DesiredWithinRange", "the desired count is within the acceptable range");

#[cfg(test)]
mod tests;
