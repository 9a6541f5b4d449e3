//! Signals as the first process of a container gets them: one that it neither handles nor blocks is dropped by the kernel (pid_namespaces(7)), so
//! they are blocked, and a thread waits for them. This needs no handler.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// The signals that ask the server to end, and that of children that have ended.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them. Before the first thread is started, as threads have the mask of who starts them.
    pub fn block() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Signals(set))
    }

    /// Waits until the server is asked to end. Meanwhile it reaps processes whose parent has ended, as the first process of a container has to.
    pub fn wait_for_end(&self) -> nix::Result<()> {
        while self.0.wait()? == Signal::SIGCHLD {
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                if status == WaitStatus::StillAlive {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// A shell on a terminal outlives the interrupt that is meant for its command. Commands begin with no signal blocked.
pub fn block_interrupt() -> nix::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.thread_block()
}
