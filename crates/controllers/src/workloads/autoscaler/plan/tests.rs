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
    let mut go =
        |seconds, current, asked| limit(current, asked, (1, 50), Some(&behavior), &mut history, at(seconds)).replicas;
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
