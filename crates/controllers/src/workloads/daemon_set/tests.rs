use k8s_openapi::jiff::Timestamp;

use super::*;
use proptest::prelude::*;

/// `node: runs|keeps|unfit, then a word for each daemon`: new, old, with `!` unavailable, `-` deleting, `x` failed.
fn places(text: &str) -> Vec<Place> {
    let mut index = 0;
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let daemons = words[2..]
            .iter()
            .map(|w| {
                index += 1;
                Daemon {
                    index: index - 1,
                    updated: w.starts_with("new"),
                    ready: !w.contains(['!', '-', 'x']),
                    available: !w.contains(['!', '-', 'x']),
                    deleting: w.contains('-'),
                    failed: w.contains('x'),
                    born: Timestamp::from_second(index as i64).unwrap(),
                }
            })
            .collect();
        Place { node: words[0].into(), runs: words[1] == "runs", keeps: words[1] != "unfit", daemons }
    };
    text.lines().map(str::trim).filter(|l| !l.is_empty()).map(line).collect()
}

fn check(text: &str, (max_unavailable, max_surge): (usize, usize), create: &[&str], delete: &[usize]) {
    let plan = plan(&places(text), Update { rolling: true, max_unavailable, max_surge });
    assert_eq!(
        (plan.create, plan.delete),
        (create.iter().map(|s| (*s).to_string()).collect(), delete.to_vec()),
        "{text}"
    );
}

#[test]
fn every_fit_node_gets_one_and_no_other_keeps_one() {
    check("a runs\n b runs new\n c unfit new\n d keeps new\n e keeps", (1, 0), &["a"], &[1]);
    check("a runs new new", (1, 0), &[], &[1]);
    check("a runs newx", (1, 0), &[], &[0]);
    check("a runs new-", (1, 0), &[], &[]);
}

#[test]
fn updates_keep_to_what_may_be_unavailable() {
    check("a runs old\n b runs old\n c runs old", (1, 0), &[], &[0]);
    check("a runs new!\n b runs old\n c runs old", (1, 0), &[], &[]);
    check("a runs new\n b runs old!\n c runs old", (1, 0), &[], &[1]);
    check("a runs old\n b runs old\n c runs old", (2, 0), &[], &[0, 1]);
}

#[test]
fn surge_brings_the_new_one_before_the_old_one_goes() {
    check("a runs old\n b runs old", (0, 1), &["a"], &[]);
    check("a runs old new!\n b runs old", (0, 1), &[], &[]);
    check("a runs old new\n b runs old", (0, 1), &[], &[0]);
}

#[test]
fn daemons_are_tied_to_their_node_and_found_there() {
    let mut spec = PodSpec::default();
    tie(&mut spec, "n7");
    let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
    assert_eq!(node_of(&pod).as_deref(), Some("n7"));
}

/// A daemon and the place that it is at.
#[derive(Debug, Clone, Copy)]
struct Real {
    place: usize,
    updated: bool,
    available: bool,
    deleting: bool,
    failed: bool,
    born: i64,
}

fn seen(nodes: &[bool], daemons: &[Real]) -> Vec<Place> {
    let place = |(i, fit): (usize, &bool)| Place {
        node: format!("n{i}"),
        runs: *fit,
        keeps: *fit,
        daemons: daemons
            .iter()
            .enumerate()
            .filter(|(_, d)| d.place == i)
            .map(|(index, d)| Daemon {
                index,
                updated: d.updated,
                ready: d.available,
                available: d.available && !d.deleting,
                deleting: d.deleting,
                failed: d.failed,
                born: Timestamp::from_second(d.born).unwrap(),
            })
            .collect(),
    };
    nodes.iter().enumerate().map(place).collect()
}

proptest! {
    /// Whatever daemons do, no more nodes are without one for the update's sake than may be, and all end with one new one.
    #[test]
    fn updates_keep_their_promises_and_end(
        nodes in prop::collection::vec(any::<bool>(), 1..6), max_unavailable in 0..4usize, max_surge in 0..3usize,
        luck in prop::collection::vec((0..12usize, 0..4u8), 150),
    ) {
        let max_unavailable = if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable };
        let update = Update { rolling: true, max_unavailable, max_surge };
        let old = |place| Real { place, updated: false, available: true, deleting: false, failed: false, born: 0 };
        let mut daemons: Vec<Real> = (0..nodes.len()).map(old).collect();
        let luck = luck.into_iter().chain((0..60).flat_map(|_| (0..12).flat_map(|i| [(i, 0), (i, 2)])));
        let served = |daemons: &[Real]| {
            (0..nodes.len()).filter(|n| nodes[*n] && daemons.iter().any(|d| d.place == *n && d.available && !d.deleting)).count()
        };
        let wanted = nodes.iter().filter(|n| **n).count();
        for (born, (which, event)) in luck.enumerate() {
            let before = served(&daemons);
            let plan = plan(&seen(&nodes, &daemons), update);
            for index in &plan.delete {
                prop_assert!(!daemons[*index].deleting);
                daemons[*index].deleting = true;
            }
            let after = served(&daemons);
            let least = if max_surge == 0 { wanted.saturating_sub(max_unavailable) } else { wanted };
            prop_assert!(after >= least.min(before), "{} of {} served: {:?}", after, wanted, daemons);
            for node in plan.create {
                let place = node[1..].parse::<usize>().unwrap();
                prop_assert!(nodes[place]);
                daemons.push(Real { place, updated: true, available: false, deleting: false, failed: false, born: born as i64 });
            }
            for place in 0..nodes.len() {
                let live = daemons.iter().filter(|d| d.place == place && !d.deleting).count();
                prop_assert!(live <= 1 + usize::from(max_surge > 0), "{} on one node", live);
            }
            if let Some(daemon) = daemons.get_mut(which) {
                match event {
                    0 if !daemon.failed && !daemon.deleting => daemon.available = true,
                    1 if !daemon.deleting => (daemon.available, daemon.failed) = (false, true),
                    2 if daemon.deleting => {
                        daemons.remove(which);
                    }
                    _ => {}
                }
            }
        }
        prop_assert_eq!(daemons.len(), wanted);
        prop_assert!(daemons.iter().all(|d| d.updated && d.available && !d.deleting), "{:?}", daemons);
    }
}
