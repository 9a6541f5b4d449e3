//! The resolvers that this machine asks, as they are now: laptops change networks.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::files::{News, Watch};
use tokio::sync::watch;

/// Files are written in several steps.
const BATCH_PERIOD: Duration = Duration::from_millis(100);

/// Follows a `resolv.conf`, often a link to what a network manager writes, until nobody listens any more. The cluster's own address is
/// left out.
pub fn follow(file: PathBuf, own: IpAddr) -> watch::Receiver<Vec<SocketAddr>> {
    let (sender, receiver) = watch::channel(read(&file, own));
    let sender = Arc::new(sender);
    tasks::until_done("resolvers", move || tell(file.clone(), own, sender.clone()));
    receiver
}

async fn tell(file: PathBuf, own: IpAddr, sender: Arc<watch::Sender<Vec<SocketAddr>>>) {
    loop {
        // What is linked to may be another file after each change.
        let watch = match watch(&file) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "failed to watch this file; changes take effect after a restart");
                return;
            }
        };
        send(&sender, read(&file, own));
        tokio::select! {
            _ = watch.changed() => tokio::time::sleep(BATCH_PERIOD).await,
            () = sender.closed() => return,
        }
    }
}

fn send(sender: &watch::Sender<Vec<SocketAddr>>, now: Vec<SocketAddr>) {
    sender.send_if_modified(|known| {
        let changed = *known != now;
        if changed {
            tracing::info!(resolvers = ?now, "the upstream name servers changed");
            *known = now;
        }
        changed
    });
}

fn read(file: &Path, own: IpAddr) -> Vec<SocketAddr> {
    dns::upstreams(&bounded::text(file, bounded::MAX_OWN_FILE_BYTES).unwrap_or_default(), own)
}

/// Watches the folder of the file, and that of what it is a link to.
fn watch(file: &Path) -> std::io::Result<Watch> {
    let target = std::fs::canonicalize(file).ok();
    let folders: Vec<&Path> = [Some(file), target.as_deref()].into_iter().flatten().filter_map(Path::parent).collect();
    Watch::new(&folders, News::IN_CLOSE_WRITE | News::IN_MOVED_TO | News::IN_CREATE | News::IN_DELETE)
}
