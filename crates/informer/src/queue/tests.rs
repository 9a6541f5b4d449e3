use super::*;
use std::convert::Infallible;
use tokio::sync::mpsc;

/// The least time for which a key is left alone.
const QUARANTINE: Duration = Duration::from_secs(60);

/// The time of a test whose clock is paused.
fn time() -> jiff::Timestamp {
    thread_local! {
        static START: Instant = Instant::now();
    }
    let passed = START.with(Instant::elapsed);
    jiff::Timestamp::from_second(1_800_000_000).unwrap() + passed
}

#[tokio::test(start_paused = true)]
async fn key_added_while_worked_on_is_worked_on_once_more() {
    let queue = Queue::default();
    let (sender, mut seen) = mpsc::unbounded_channel();
    queue.add(Key::new("", "a"));
    queue.add(Key::new("", "a"));
    queue.work("test", 4, move |key| {
        let _ = sender.send(key);
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(None)
        }
    });
    assert_eq!(seen.recv().await, Some(Key::new("", "a")));
    queue.add(Key::new("", "a"));
    queue.add(Key::new("", "a"));
    assert_eq!(seen.recv().await, Some(Key::new("", "a")));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(seen.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn failing_key_comes_back_with_growing_waits() {
    let queue = Queue::default();
    let (sender, mut seen) = mpsc::unbounded_channel();
    queue.add(Key::new("", "a"));
    queue.work("test", 1, move |_| {
        let _ = sender.send(Instant::now());
        async { Err::<Option<Duration>, _>("no") }
    });
    let mut waits = Vec::new();
    let mut last = seen.recv().await.unwrap();
    for _ in 0..4 {
        let next = seen.recv().await.unwrap();
        waits.push((next - last).as_millis() / 10);
        last = next;
    }
    assert!(waits.windows(2).all(|w| w[0] < w[1]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_too_long_for_the_clock() {
    let queue = Queue::default();
    let (sender, mut seen) = mpsc::unbounded_channel();
    queue.add(Key::new("", "a"));
    queue.work("test", 1, move |key| {
        let _ = sender.send(key);
        async { Ok::<_, Infallible>(Some(Duration::MAX)) }
    });
    // It comes up again, finds that it isn't due, and so on.
    for _ in 0..3 {
        assert_eq!(seen.recv().await, Some(Key::new("", "a")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_reconciliation_panics_stops_no_other_and_waits_for_a_change() {
    apimachinery::clock::set_source(time);
    let queue = Queue::default();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let heals = healed.clone();
    queue.work("panicking", 1, move |key: Key| {
        let _ = sender.send(key.name.clone());
        let bad = key.name == "bad" && !heals.load(std::sync::atomic::Ordering::Relaxed);
        async move {
            tokio::task::yield_now().await;
            assert!(!bad, "the object is impossible");
            Ok::<_, Infallible>(None)
        }
    });
    queue.add(Key::new("", "bad"));
    queue.add(Key::new("", "good"));
    let mut first: Vec<String> = Vec::new();
    for _ in 0..3 {
        first.push(seen.recv().await.unwrap());
    }
    first.sort();
    assert_eq!(first, ["bad", "bad", "good"]);
    // It isn't tried a third time by itself.
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert!(seen.try_recv().is_err());
    assert_eq!(PANICS.with_label_values(&["panicking"]).get(), 2);
    // A change brings it back; changes that come one after another don't make it panic all the time.
    queue.add(Key::new("", "bad"));
    assert_eq!(seen.recv().await.as_deref(), Some("bad"));
    for _ in 0..5 {
        queue.add(Key::new("", "bad"));
    }
    tokio::time::sleep(QUARANTINE / 2).await;
    assert!(seen.try_recv().is_err());
    healed.store(true, std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(QUARANTINE).await;
    assert_eq!(seen.recv().await.as_deref(), Some("bad"));
    // Now that it is well, it has its turn at once again.
    queue.add(Key::new("", "bad"));
    assert_eq!(seen.recv().await.as_deref(), Some("bad"));
    assert!(seen.try_recv().is_err());
}
