use std::io::{Read as _, Write as _};
use std::time::Duration;

use super::*;
use crate::shim::attached::SEND_TIMEOUT;

fn container(folder: &Path, stdin_once: bool) -> (Container, std::fs::File, std::fs::File) {
    let start = serde_json::json!({"id": "c", "bundle": "/b", "root": "/r", "log": folder.join("log"), "stdin_once": stdin_once});
    let start: Start = serde_json::from_value(start).unwrap();
    let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let ((out_read, out_write), (in_read, in_write)) = (pipe(), pipe());
    for end in [&out_read, &in_write] {
        set_nonblocking(end).unwrap();
    }
    let log = LogWriter::open(Path::new(&start.log)).unwrap();
    let state = ContainerState { id: "c".into(), pid: 1, started_at: String::new(), exit: None };
    let container = Container {
        state,
        start,
        input: Some(in_write),
        typed: Vec::new(),
        input_ends: false,
        streams: [Some(out_read), None],
        log: Some(log),
        attached: BTreeMap::new(),
        next: 0,
    };
    (container, out_write.into(), in_read.into())
}

/// Does all that can be done without waiting; whether there was anything.
fn round(container: &mut Container) -> bool {
    let parts = container.parts();
    let mut polled: Vec<libc::pollfd> =
        parts.iter().map(|(_, fd, flags)| libc::pollfd { fd: *fd, events: flags.bits(), revents: 0 }).collect();
    // SAFETY: the pointer and the length are those of a vector that lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0)
    };
    let ready: Vec<Part> =
        parts.iter().zip(&polled).filter(|(_, p)| p.revents != 0).map(|((part, ..), _)| *part).collect();
    ready.iter().for_each(|part| container.happened(*part));
    !ready.is_empty()
}

/// A client: its ends of stdin and stdout, and its connection.
fn client(container: &mut Container) -> (std::fs::File, std::fs::File, OwnedFd) {
    let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let ((in_read, in_write), (out_read, out_write), (ours, theirs)) = (pipe(), pipe(), pipe());
    container.attach(Attached::new(Some(in_read), [Some(out_write), None], ours).unwrap());
    (in_write.into(), out_read.into(), theirs)
}

#[test]
fn a_container_that_does_not_read_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (mut container, _out, mut stdin) = container(folder.path(), true);
    let (mut typing, _screen, connection) = client(&mut container);
    set_nonblocking(&OwnedFd::from(typing.try_clone().unwrap())).unwrap();
    let mut typed = 0;
    // Until nothing moves any more: the container's pipe is full, and so is the client's.
    loop {
        match typing.write(&[7; 4096]) {
            Ok(n) => typed += n,
            Err(_) if !round(&mut container) => break,
            Err(_) => {}
        }
    }
    assert!(typed >= 64 << 10 && container.typed.len() <= CHUNK_BYTES, "{typed}");
    // What the client leaves behind stops nobody, and what it had typed before is there.
    drop((typing, connection));
    while round(&mut container) {}
    assert!(container.attached.is_empty());
    let mut read = 0;
    while container.input.is_some() {
        read += stdin.read(&mut [0; 64 << 10]).unwrap();
        while round(&mut container) {}
        if container.typed.is_empty() {
            break;
        }
    }
    assert!(read > 0);
}

#[test]
fn a_client_that_leaves_at_once_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let (mut container, _out, mut stdin) = container(folder.path(), true);
    let (mut typing, screen, connection) = client(&mut container);
    typing.write_all(b"words").unwrap();
    drop((typing, screen, connection));
    while round(&mut container) {}
    let mut text = String::new();
    stdin.read_to_string(&mut text).unwrap();
    assert_eq!(text, "words", "and stdin is closed");
}

#[test]
fn a_client_that_takes_nothing_is_let_go_and_loses_nothing_before() {
    let folder = tempfile::tempdir().unwrap();
    let (mut container, mut out, _stdin) = container(folder.path(), false);
    let (_typing, mut screen, _connection) = client(&mut container);
    set_nonblocking(&OwnedFd::from(out.try_clone().unwrap())).unwrap();
    let mut written = 0;
    loop {
        match out.write(&[b'x'; 4096]) {
            Ok(n) => written += n,
            Err(_) if !round(&mut container) => break,
            Err(_) => {}
        }
    }
    // The container waits, the shim doesn't, and it knows for how long.
    let deadline = container.deadline().unwrap();
    assert!(!container.parts().iter().any(|(part, ..)| matches!(part, Part::Output(_))));
    container.let_go(deadline - Duration::from_millis(1));
    assert!(container.deadline().is_some());
    // A client that takes something has as long again, and gets all.
    let mut taken = screen.read(&mut vec![0; 64 << 10]).unwrap();
    while round(&mut container) {}
    container.let_go(deadline);
    assert!(container.attached[&0].outputs[0].is_some());
    // One that doesn't is let go, and the container goes on.
    container.let_go(Instant::now() + SEND_TIMEOUT);
    assert!(container.attached[&0].outputs[0].is_none());
    while round(&mut container) {}
    assert!(out.write(&[b'x'; 4096]).is_ok());
    drop(container);
    while let Ok(n @ 1..) = screen.read(&mut vec![0; 64 << 10]) {
        taken += n;
    }
    assert!(taken >= 64 << 10 && taken <= written, "{taken} of {written}");
}
