use super::*;

fn open(folder: &Path, follows_crash: bool) -> Quarantine {
    Quarantine::open(&folder.join("record"), &folder.join("suspects.json"), follows_crash).unwrap()
}

thread_local! {
    static NOW: std::cell::Cell<i64> = const { std::cell::Cell::new(1_800_000_000) };
}

/// Lets the time of this test be `later` seconds later than it was.
fn pass(later: i64) {
    NOW.set(NOW.get() + later);
    clock::set_source(|| jiff::Timestamp::from_second(NOW.get()).unwrap());
}

fn version(text: &str) -> impl FnOnce() -> String {
    let text = text.to_string();
    move || text
}

async fn crash(quarantine: &Quarantine, key: &str, of: &str) {
    // The process crashes: nothing is dropped in order.
    std::mem::forget(quarantine.enter(key, version(of)).await.unwrap());
}

#[tokio::test]
async fn object_that_was_handled_in_two_crashes_is_left_alone_until_it_changes() {
    pass(0);
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), false);
    drop(first.enter("pod/done", version("1")).await.unwrap());
    crash(&first, "pod/a", "1").await;
    let second = open(folder.path(), true);
    assert_eq!(second.suspects().keys().collect::<Vec<_>>(), ["pod/a"]);
    crash(&second, "pod/a", "1").await;
    let third = open(folder.path(), true);
    assert!(third.enter("pod/a", version("1")).await.is_err());
    assert!(third.enter("pod/b", version("1")).await.is_ok());
    // It is so at later starts, too, whatever their reason, and however long after.
    pass(7 * 24 * 3600);
    let fourth = open(folder.path(), false);
    assert_eq!(fourth.enter("pod/a", version("1")).await.err().unwrap().retry_after, None);
    // What was changed has one more try.
    crash(&fourth, "pod/a", "2").await;
    let fifth = open(folder.path(), true);
    assert_eq!(fifth.enter("pod/a", version("2")).await.err().unwrap().retry_after, None);
    // Whoever changes it all the time crashes nothing all the time.
    let retry_after = fifth.enter("pod/a", version("3")).await.err().unwrap().retry_after;
    assert_eq!(retry_after, Some(Duration::from_secs(120)));
    // But for a deletion nobody waits.
    assert!(fifth.enter("pod/a", version("3 deleted")).await.is_ok());
    fifth.panicked("pod/a", "3 deleted");
    fifth.forget("pod/a");
    assert!(open(folder.path(), false).suspects().is_empty());
}

#[tokio::test]
async fn a_long_name_is_no_way_around() {
    pass(0);
    let folder = tempfile::tempdir().unwrap();
    // The longest names of a namespace and an object, with and without characters of several bytes.
    for letter in ["x", "ä"] {
        let key = |end: &str| format!("controller {}/{}{end}", "n".repeat(63), letter.repeat(251));
        for _ in 0..2 {
            std::mem::forget(open(folder.path(), true).enter(&key("a"), version(&"v".repeat(500))).await);
        }
        let third = open(folder.path(), true);
        assert!(third.enter(&key("a"), version(&"v".repeat(500))).await.is_err());
        assert!(third.enter(&key("b"), version("")).await.is_ok(), "another with the same beginning");
        pass(100);
        assert!(third.enter(&key("a"), version(&"v".repeat(501))).await.is_ok(), "it has changed");
        third.forget(&key("a"));
    }
}

#[tokio::test]
async fn object_that_was_mended_is_in_quarantine_no_longer() {
    pass(0);
    let folder = tempfile::tempdir().unwrap();
    for crashed in [false, true] {
        crash(&open(folder.path(), crashed), "pod/a", "1").await;
    }
    pass(100);
    let mended = open(folder.path(), true);
    assert!(mended.enter("pod/a", version("1")).await.is_err());
    pass(100);
    drop(mended.enter("pod/a", version("2")).await.unwrap());
    assert!(open(folder.path(), false).enter("pod/a", version("2")).await.is_ok());
}

#[tokio::test]
async fn object_whose_version_nobody_knew_when_it_crashed_is_left_alone_as_it_is_now() {
    pass(0);
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"a": {"crashes": 2, "version": "", "since": 0}}"#;
    std::fs::write(folder.path().join("suspects.json"), text).unwrap();
    let quarantine = open(folder.path(), false);
    assert_eq!(quarantine.enter("a", version("7")).await.err().unwrap().retry_after, None);
    assert_eq!(quarantine.enter("a", version("7")).await.err().unwrap().retry_after, None);
    assert!(quarantine.enter("a", version("8")).await.is_ok());
}

#[tokio::test]
async fn what_was_handled_when_somebody_killed_the_process_is_no_suspect() {
    let folder = tempfile::tempdir().unwrap();
    crash(&open(folder.path(), false), "pod/a", "1").await;
    assert!(open(folder.path(), false).suspects().is_empty());
}

#[tokio::test(start_paused = true)]
async fn suspects_are_handled_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), false);
    crash(&first, "a", "").await;
    crash(&first, "b", "").await;
    let second = open(folder.path(), true);
    let of_a = second.enter("a", String::new).await.unwrap();
    let wait = Duration::from_secs(1);
    assert!(tokio::time::timeout(wait, second.enter("b", String::new)).await.is_err());
    assert!(tokio::time::timeout(wait, second.enter("c", String::new)).await.is_ok());
    drop(of_a);
    assert!(tokio::time::timeout(wait, second.enter("b", String::new)).await.is_ok());
}

#[tokio::test]
async fn panics_count_like_crashes_unless_the_next_try_succeeds() {
    pass(0);
    let quarantine = Quarantine::default();
    assert!(!quarantine.panicked("a", "1"));
    assert!(quarantine.panicked("a", "1"));
    assert!(quarantine.enter("a", version("1")).await.is_err());
    assert!(!quarantine.panicked("b", "1"));
    drop(quarantine.enter("b", version("1")).await.unwrap());
    assert!(!quarantine.panicked("b", "1"), "they aren't in a row");
}

#[test]
fn suspects_are_bounded_in_number() {
    let quarantine = Quarantine::default();
    for i in 0..MAX_SUSPECTS + 10 {
        quarantine.panicked(&format!("{i}"), "");
    }
    assert_eq!(quarantine.suspects().len(), MAX_SUSPECTS);
}
