use super::*;
use serde_json::{Value, json};

/// A shim of version 1: it answers each connection's request with the words of that version, and what it doesn't know
/// with a failure.
fn old_shim(folder: &Path) {
    let listener = seqpacket::bind_and_listen(&folder.join("shim.sock")).unwrap();
    std::thread::spawn(move || {
        let waited = |fd: &OwnedFd| {
            let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(fd), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).is_ok()
        };
        while waited(&listener)
            && let Ok(connection) = seqpacket::accept_without_waiting(&listener)
        {
            waited(&connection);
            let Ok(Some((request, _))) = seqpacket::receive::<Value>(&connection) else { continue };
            let exit = json!({"code": 3, "at": "2026-01-01T00:00:00Z"});
            let running = json!({"id": "c1", "pid": 7, "started_at": "2026-01-01T00:00:00Z"});
            let answers = match request["do"].as_str().unwrap() {
                "watch" => vec![
                    json!({"is": "state", "version": 1, "containers": [running]}),
                    json!({"is": "exited", "id": "c1", "exit": exit}),
                ],
                "start" => vec![json!({"is": "started", "pid": 9})],
                "kill" | "delete" | "quit" => vec![json!({"is": "done"})],
                _ => vec![json!({"is": "failed", "error": "malformed request: unknown variant"})],
            };
            for answer in answers {
                let _ = seqpacket::send(&connection, &answer, &[]);
            }
        }
    });
}

#[tokio::test]
async fn an_old_shim_is_watched_told_and_taken_at_its_word() {
    let folder = tempfile::tempdir().unwrap();
    old_shim(folder.path());
    let shim = ShimClient::at(folder.path());
    let (containers, mut events) = shim.watch().await.unwrap();
    assert!(matches!(containers.as_slice(), [c] if c.id == "c1" && c.pid == 7 && c.exit.is_none()));
    let event = events.recv().await;
    assert!(matches!(&event, Some(ContainerEvent::Exited { id, exit }) if id == "c1" && exit.code == 3), "{event:?}");
    shim.kill("c1", 15).await.unwrap();
    shim.delete("c1").await.unwrap();
    let refused = shim.share_processes(None).await;
    assert!(matches!(&refused, Err(ShimError::Refused(why)) if why.contains("unknown")), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shim_that_does_not_answer_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    // It takes no connection, so that its queue fills.
    let _listener = seqpacket::bind_and_listen(&folder.path().join("shim.sock")).unwrap();
    let shim = ShimClient::at(folder.path());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let shim = shim.clone();
        asking.spawn(async move { shim.kill("c1", 15).await });
    }
    while let Some(asked) = asking.join_next().await {
        assert!(matches!(asked.unwrap(), Err(ShimError::Silent(AT_ONCE))));
    }
}
