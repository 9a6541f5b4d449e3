//! Another client, who writes all the time and is served all the time, whatever others try.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::user;
use crate::server::Server;

/// How long a write may take at most. This is not the build that users have, which is some five times as fast.
const LIMIT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2500 } else { 500 });

pub struct Bystander {
    /// The longest write since the last look, in microseconds.
    longest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writing: JoinHandle<u64>,
}

/// For how long threads of this process wanted a processor that others had, all together (proc_pid_schedstat, in nanoseconds).
fn waited() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(of).sum())
}

impl Bystander {
    pub async fn start(server: Arc<Server>) -> Self {
        let admin = binding_of_bystander();
        server.create(&format!("{}/namespaces/t2/rolebindings", super::RBAC), admin).await;
        let (longest, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (noted, over) = (longest.clone(), stop.clone());
        let writing = tokio::spawn(async move {
            let (who, path) = (user("bystander"), "/api/v1/namespaces/t2/configmaps");
            let mut writes = 0;
            while !over.load(Ordering::Relaxed) {
                let map = json!({"metadata": {"name": format!("m{writes}")}, "data": {"a": "b"}});
                let (begun, before) = (Instant::now(), waited());
                let (code, answer) = server.json_as(&who, "POST", path, &map).await;
                assert_eq!(code, 201, "{answer}");
                // What a busy machine takes from this process isn't the attackers' doing.
                let took = begun.elapsed().saturating_sub(waited().saturating_sub(before));
                noted.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
                writes += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            writes
        });
        Bystander { longest, stop, writing }
    }

    /// Whether it had to wait too long since the last look.
    pub fn complaint(&self) -> Option<String> {
        let longest = Duration::from_micros(self.longest.swap(0, Ordering::Relaxed));
        (longest > LIMIT).then(|| format!("another client's write took {longest:?}"))
    }

    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.writing.await.unwrap() > 0, "it wrote nothing");
    }
}

fn binding_of_bystander() -> serde_json::Value {
    super::binding("bystander", "RoleBinding", "edit", "bystander")
}
