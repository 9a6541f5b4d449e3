//! Worker threads, each with a runtime, client connections and a pool of backend connections of its own.
//!
//! A connection stays on its worker, with everything that it needs: no request wakes another thread. Heavy traffic doesn't delay the rest
//! of the process either.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::SharedTable;
use crate::reverse_proxy::ReverseProxy;
use crate::serve;

/// Limit of worker threads, as the machine has pods to run, too.
const MAX_WORKERS: usize = 8;

#[derive(Clone)]
pub struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    proxy: ReverseProxy,
    connections: Arc<AtomicUsize>,
    /// Its thread ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

/// Counts a connection of a worker until it is dropped.
struct ConnectionGuard(Arc<AtomicUsize>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts a thread for each core, up to [`MAX_WORKERS`]. They end when the last clone is dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(table: &SharedTable) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |()| {
            let (alive, ended) = oneshot::channel::<()>();
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let worker = Worker {
                runtime: runtime.handle().clone(),
                proxy: ReverseProxy::new(table.clone()),
                connections: Arc::default(),
                _alive: alive,
            };
            let work = move || drop(runtime.block_on(ended));
            tasks::thread("ingress", work)?;
            Ok(worker)
        };
        std::iter::repeat_n((), cores.min(MAX_WORKERS)).map(start).collect::<io::Result<_>>().map(Workers)
    }

    /// Accepts connections of a port: HTTP, or HTTPS with `tls`.
    pub async fn serve(self, listener: TcpListener, port: u16, tls: Option<Arc<ServerConfig>>) {
        loop {
            if let Some((stream, from)) = serve::accept(&listener).await
                && let Err(error) = self.assign(stream, from, port, tls.clone())
            {
                tracing::debug!(%error, "failed to hand a connection to a worker thread");
            }
        }
    }

    /// Assigns a connection to the worker that has the fewest.
    fn assign(&self, stream: TcpStream, from: SocketAddr, port: u16, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed)) else {
            return Err(io::Error::other("there are no worker threads"));
        };
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let guard = ConnectionGuard(worker.connections.clone());
        let (stream, proxy) = (stream.into_std()?, worker.proxy.clone());
        tasks::spawn_on(&worker.runtime, "ingress-connection", async move {
            // Registers the connection with this worker's event loop.
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve::serve_connection(stream, from, port, tls, proxy).await;
            }
            drop(guard);
        });
        Ok(())
    }

    /// Closes connections to backends that were idle for longer than a minute.
    pub fn close_idle_connections(&self) {
        self.0.iter().for_each(|worker| worker.proxy.close_idle_connections());
    }
}
