//! Threads of the ingress' own, each with its connections from outside and to backends.
//!
//! A connection stays on the thread that it was given to, and so does what it needs: no request wakes another thread, and nothing of it is
//! handed over. Much traffic from outside doesn't keep the rest of the process waiting either.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::Shared;
use crate::serve::{self, Handler};

/// More threads than this are of no use to anybody who has other pods beside the ingress.
const MAX_WORKERS: usize = 8;

#[derive(Clone)]
pub struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    handler: Handler,
    connections: Arc<AtomicUsize>,
    /// Its thread ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

/// A connection that counts as long as this is there.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts a thread for each core, up to a number; they last as long as somebody has them.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(table: &Shared) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |()| {
            let (alive, ended) = oneshot::channel::<()>();
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let worker = Worker {
                runtime: runtime.handle().clone(),
                handler: Handler::new(table.clone()),
                connections: Arc::default(),
                _alive: alive,
            };
            let work = move || drop(runtime.block_on(ended));
            tasks::thread("ingress", work)?;
            Ok(worker)
        };
        std::iter::repeat_n((), cores.min(MAX_WORKERS)).map(start).collect::<io::Result<_>>().map(Workers)
    }

    /// Takes connections from a port: HTTP, or HTTPS with `tls`.
    pub async fn serve(self, listener: TcpListener, port: u16, tls: Option<Arc<ServerConfig>>) {
        loop {
            if let Some((stream, from)) = serve::accept(&listener).await
                && let Err(error) = self.hand_over(stream, from, port, tls.clone())
            {
                tracing::debug!(%error, "failed to hand a connection to a worker thread");
            }
        }
    }

    /// Gives a connection to the thread that has the fewest.
    fn hand_over(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        port: u16,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<()> {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed)) else {
            return Err(io::Error::other("there is no thread for it"));
        };
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(worker.connections.clone());
        let (stream, handler) = (stream.into_std()?, worker.handler.clone());
        tasks::spawn_on(&worker.runtime, "ingress-connection", async move {
            // From here on it is this thread's to wait for.
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve::client(stream, from, port, tls, handler).await;
            }
            drop(counted);
        });
        Ok(())
    }

    /// Closes connections to backends that nobody needed for a while.
    pub fn sweep(&self) {
        self.0.iter().for_each(|worker| worker.handler.sweep());
    }
}
