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
    /// `None` if nobody knows.
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
    // Whoever isn't known is taken for the less dangerous: idle when more are to be made, fully used when some are to go.
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
    (least, most): (i32, i32),
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
    let able = match stable {
        n if n == asked => ("ReadyForNewScale", "recommended size matches current size"),
        n if n > asked => (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ),
        _ => (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ),
    };
    let (replicas, limited) = if stable > current {
        let bound = match behavior {
            Some(_) => bound(current, &up, true, history, now),
            None => unruled(current),
        };
        match stable {
            n if n > bound.min(most) && bound < most => (
                bound,
                (true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"),
            ),
            n if n > most => {
                (most, (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"))
            }
            n => (n, WITHIN),
        }
    } else if stable < current {
        let bound = bound(current, &down, false, history, now);
        match stable {
            n if n < bound.max(least) && bound > least => (
                bound,
                (true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"),
            ),
            n if n < least => {
                (least, (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"))
            }
            n => (n, WITHIN),
        }
    } else if asked > most {
        (
            stable.min(most),
            (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"),
        )
    } else if asked < least {
        (
            stable.max(least),
            (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"),
        )
    } else {
        (stable, WITHIN)
    };
    Limited { replicas, able, limited }
}

const WITHIN: (bool, &str, &str) = (false, "DesiredWithinRange", "the desired count is within the acceptable range");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const EXACT: Tolerances = Tolerances { up: TOLERANCE, down: TOLERANCE };

    /// Pods as percent of a request of one core: a number, `?` unknown, `~` unready.
    fn pods(text: &str) -> Vec<PodUse> {
        let pod = |word: &str| {
            let unready = word.starts_with('~');
            let usage = word.trim_start_matches('~').parse::<i64>().ok().map(|n| n * 10);
            PodUse { unready, usage, request: 1000 }
        };
        text.split_whitespace().map(pod).collect()
    }

    fn check(current: i32, uses: &str, percent: i64, want: i32) {
        let got = by_pods(current, &pods(uses), PodTarget::Percent(percent), EXACT).unwrap();
        assert_eq!(got.replicas, want, "{current} pods: {uses}, target {percent} %");
    }

    #[test]
    fn use_per_pod_is_brought_to_its_target() {
        check(2, "80 80", 50, 4);
        check(2, "52 53", 50, 2);
        check(4, "20 20 20 20", 50, 2);
        check(3, "30 50 100", 20, 9);
        // Unready pods count as idle when more are wanted, and not at all else.
        check(3, "100 100 ~0", 50, 4);
        check(2, "100 ~0", 50, 2);
        check(3, "10 10 ~0", 50, 1);
        // Unknown ones count as idle when more are wanted, and as full when some are to go.
        check(3, "100 100 ?", 50, 4);
        check(3, "20 20 ?", 50, 3);
        check(4, "10 10 10 ?", 50, 3);
        assert!(by_pods(2, &pods("? ~5"), PodTarget::Percent(50), EXACT).is_err());
    }

    #[test]
    fn values_of_the_whole_are_shared_or_compared() {
        assert_eq!(by_value(3, 3, 20_000, 10_000, EXACT).replicas, 6);
        assert_eq!(by_value(3, 3, 10_500, 10_000, EXACT).replicas, 3);
        assert_eq!(by_shared_value(2, 90_000, 10_000, EXACT).replicas, 9);
        assert_eq!(by_shared_value(2, 20_500, 10_000, EXACT).replicas, 2);
        // From none: whatever there is asks for one, and nothing asks for none.
        assert_eq!(by_value(0, 0, 10_000, 10_000, EXACT).replicas, 1);
        assert_eq!(by_value(0, 0, 25_000, 10_000, EXACT).replicas, 3);
        assert_eq!(by_value(0, 0, 0, 10_000, EXACT).replicas, 0);
        assert_eq!(by_shared_value(0, 10_000, 10_000, EXACT).replicas, 1);
        assert_eq!(by_shared_value(0, 0, 10_000, EXACT).replicas, 0);
        assert_eq!(by_shared_value(1, 0, 10_000, EXACT).replicas, 0);
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn growth_is_bounded_and_shrinking_waits() {
        let mut history = History::default();
        let mut go = |seconds, current: i32, asked| {
            let limited = limit(current, asked, (1, 50), None, &mut history, at(seconds));
            if limited.replicas != current {
                history.changes.push((at(seconds), limited.replicas - current));
            }
            (limited.replicas, limited.limited.1, limited.able.0)
        };
        // To four, or to twice as many.
        assert_eq!(go(0, 1, 30), (4, "ScaleUpLimit", "ReadyForNewScale"));
        assert_eq!(go(16, 4, 30), (8, "ScaleUpLimit", "ReadyForNewScale"));
        assert_eq!(go(32, 8, 60), (16, "ScaleUpLimit", "ReadyForNewScale"));
        assert_eq!(go(48, 30, 60), (50, "TooManyReplicas", "ReadyForNewScale"));
        // Five minutes pass before fewer are believed.
        assert_eq!(go(80, 50, 2), (50, "DesiredWithinRange", "ScaleDownStabilized"));
        assert_eq!(go(380, 50, 2), (2, "DesiredWithinRange", "ReadyForNewScale"));
        assert_eq!(go(600, 2, 0), (2, "TooFewReplicas", "ScaleDownStabilized"));
        assert_eq!(go(910, 2, 0), (1, "TooFewReplicas", "ReadyForNewScale"));
    }

    #[test]
    fn what_there_is_at_first_is_kept_as_long_as_what_was_recommended() {
        let mut history = History::default();
        let mut go = |seconds, asked| limit(10, asked, (1, 50), None, &mut history, at(seconds)).replicas;
        assert_eq!([go(0, 2), go(200, 2), go(299, 2), go(300, 2)], [10, 10, 10, 2]);
    }

    #[test]
    fn rules_that_say_little_have_the_defaults_of_the_api() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({"scaleDown": {}})).unwrap();
        let mut history = History::default();
        let mut go = |seconds, current, asked| {
            let limited = limit(current, asked, (1, 50), Some(&behavior), &mut history, at(seconds));
            if limited.replicas != current {
                history.changes.push((at(seconds), limited.replicas - current));
            }
            limited.replicas
        };
        // Four more, or twice as many, in a quarter of a minute.
        assert_eq!(go(0, 1, 30), 5);
        assert_eq!(go(1, 5, 30), 5);
        assert_eq!(go(16, 5, 30), 10);
        assert_eq!(go(32, 10, 60), 20);
        // Five minutes pass before fewer are believed.
        assert_eq!(go(48, 20, 2), 20);
        assert_eq!(go(348, 20, 2), 2);
    }

    #[test]
    fn rules_of_the_user_hold() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 10}]},
            "scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}))
        .unwrap();
        let mut history = History::default();
        let mut go = |seconds, current, asked| {
            limit(current, asked, (1, 50), Some(&behavior), &mut history, at(seconds)).replicas
        };
        assert_eq!(go(0, 5, 5), 5);
        assert_eq!(go(10, 5, 9), 5, "a minute must pass");
        assert_eq!(go(70, 5, 9), 6);
        assert_eq!(go(80, 6, 1), 6, "never fewer");
    }

    fn extreme() -> impl Strategy<Value = i64> {
        prop::sample::select(vec![i64::MIN, i64::MIN + 1, -1, 0, 1, 1000, i64::MAX - 1, i64::MAX])
    }

    proptest! {
        /// Whatever is measured, requested and aimed at, a number of replicas comes of it.
        #[test]
        fn extremes_of_amounts_are_borne(
            uses in prop::collection::vec((any::<bool>(), prop::option::of(extreme()), extreme()), 0..6), target in extreme(),
            value in extreme(), narrow in prop::sample::select(vec![i32::MIN, -1, 0, 1, i32::MAX]),
        ) {
            let pods: Vec<PodUse> =
                uses.iter().map(|(unready, usage, request)| PodUse { unready: *unready, usage: *usage, request: *request }).collect();
            for target in [PodTarget::Percent(target), PodTarget::Amount(target)] {
                let _ = by_pods(narrow, &pods, target, EXACT);
            }
            let proposals = [by_value(narrow, narrow, value, target, EXACT), by_shared_value(narrow, value, target, EXACT)];
            let mut history = History { recommendations: vec![(at(0), narrow)], changes: vec![(at(0), i32::MIN), (at(0), -1), (at(0), narrow)] };
            for proposal in proposals {
                let limited = limit(narrow.max(0), proposal.replicas, (1, i32::MAX), None, &mut history, at(1));
                prop_assert!(limited.replicas >= 0);
            }
        }

        #[test]
        fn what_is_decided_stays_in_bounds(
            steps in prop::collection::vec((0i32..200, 1i64..120), 1..40), least in 1i32..5, more in 0i32..60,
        ) {
            let most = least + more;
            let (mut history, mut current, mut seconds) = (History::default(), least, 0);
            for (asked, pause) in steps {
                seconds += pause;
                let limited = limit(current, asked, (least, most), None, &mut history, at(seconds));
                prop_assert!((least..=most).contains(&limited.replicas), "{limited:?}");
                prop_assert!(limited.replicas <= (current * 2).max(current + 4));
                if limited.replicas != current {
                    history.changes.push((at(seconds), limited.replicas - current));
                    current = limited.replicas;
                }
            }
        }
    }
}
