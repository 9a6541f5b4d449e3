//! The web server: one thread for each connection, one request for each connection, and no more of both than [`MAX_CONNECTIONS`].

mod pages;
mod request;
mod visits;

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::signals::Signals;
use pages::{Answer, Pages};

const DEFAULT_PORT: u16 = 8080;
const MAX_CONNECTIONS: usize = 128;
const STACK_BYTES: usize = 128 << 10;
/// How long a client may take for its request, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long requests that are under way may take when the server ends.
const END: Duration = Duration::from_secs(3);

const USAGE: &str = "usage: hello [--port PORT]

Serves / (who answers, and the visits so far), /peers, /healthz and /readyz over HTTP.
  PORT (or --port)   port to listen on; 8080 if not set
  HELLO_DATA         folder in which visits are counted, if there is one; /data if not set
  HELLO_PEERS        name of a headless Service, whose pods /peers lists
  POD_NAME, POD_NAMESPACE, NODE_NAME   what the page says of this pod

hello TOOL … is one of the tools, see: hello help";

/// The port that flags or the environment say.
fn port(arguments: &[String], variable: Option<String>) -> Result<u16, Error> {
    let given = match arguments {
        [] => variable,
        [flag, port] if flag == "--port" => Some(port.clone()),
        [flag] if flag.starts_with("--port=") => flag.strip_prefix("--port=").map(String::from),
        _ => return Err(Error::arguments(USAGE)),
    };
    let Some(given) = given else { return Ok(DEFAULT_PORT) };
    given.parse().map_err(|_| Error::arguments(format!("{given:?} is no port: a number from 1 to 65535 is")))
}

pub fn run(arguments: &[String]) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(arguments: &[String]) -> Result<(), Error> {
    let signals = Signals::block().map_err(Error::on("signals can't be blocked"))?;
    // Services put variables like PORT into no container, only NAME_PORT.
    let port = port(arguments, std::env::var("PORT").ok())?;
    // Both families where there is IPv6.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(Error::on(format!("port {port} can't be listened on")))?;
    let server = Arc::new(Server::new(Pages::of_pod()));
    eprintln!("hello: listening on port {port}");
    let accepting = server.clone();
    std::thread::Builder::new()
        .spawn(move || accepting.accept(&listener))
        .map_err(Error::on("no thread can be started"))?;
    signals.wait_for_end().map_err(Error::on("waiting for signals failed"))?;
    eprintln!("hello: ending");
    server.end();
    Ok(())
}

struct Server {
    pages: Pages,
    is_ending: AtomicBool,
    connections: AtomicUsize,
    closed: (Mutex<()>, Condvar),
}

/// A connection that is counted.
struct Connection {
    server: Arc<Server>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _guard = self.server.closed.0.lock();
        self.server.connections.fetch_sub(1, Ordering::AcqRel);
        self.server.closed.1.notify_all();
    }
}

impl Server {
    fn new(pages: Pages) -> Self {
        let closed = (Mutex::new(()), Condvar::new());
        Server { pages, is_ending: AtomicBool::new(false), connections: AtomicUsize::new(0), closed }
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => self.clone().start(stream),
                // As when there are too many files open: some will be closed.
                Err(error) => {
                    eprintln!("hello: a connection can't be accepted: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn start(self: Arc<Self>, mut stream: TcpStream) {
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let before = self.connections.fetch_add(1, Ordering::AcqRel);
        let connection = Connection { server: self };
        if before >= MAX_CONNECTIONS {
            let _ = stream.write_all(&Answer::error(503, "too many connections").bytes(true));
            return;
        }
        let work = move || connection.server.converse(&mut stream);
        if let Err(error) = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work) {
            eprintln!("hello: no thread can be started: {error}");
        }
    }

    fn converse(&self, stream: &mut TcpStream) {
        let deadline = Instant::now() + PATIENCE;
        let (answer, has_body) = match request::read(stream, deadline) {
            Ok(Some(request)) => {
                let is_ready = !self.is_ending.load(Ordering::Acquire);
                (self.pages.answer(&request, is_ready), !request.is_head)
            }
            // It left without a word, as a TCP probe does.
            Ok(None) => return,
            Err(error) => (Answer::error(error.code, error.why), true),
        };
        if stream.write_all(&answer.bytes(has_body)).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
            // What the client still sends would make the kernel throw away the answer.
            request::discard(stream, deadline);
        }
    }

    /// Waits, not for long, until the requests that are under way are answered.
    fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
        let (Ok(guard), deadline) = (self.closed.0.lock(), Instant::now() + END) else { return };
        let mut guard = guard;
        while self.connections.load(Ordering::Acquire) > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            match self.closed.1.wait_timeout(guard, left) {
                Ok((waited, _)) => guard = waited,
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn port_is_from_the_flag_or_the_environment() {
        let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        assert_eq!(port(&[], None).unwrap(), 8080);
        assert_eq!(port(&[], Some("9000".into())).unwrap(), 9000);
        assert_eq!(port(&words(&["--port", "80"]), Some("9000".into())).unwrap(), 80);
        assert_eq!(port(&words(&["--port=81"]), None).unwrap(), 81);
        assert!(port(&words(&["--port", "http"]), None).is_err() && port(&words(&["--prt", "1"]), None).is_err());
    }

    fn started(folder: &std::path::Path) -> (Arc<Server>, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server::new(Pages::for_tests(folder)));
        let accepting = server.clone();
        std::thread::spawn(move || accepting.accept(&listener));
        (server, address)
    }

    fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn pages_are_served_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (server, address) = started(folder.path());
        let first = ask(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n") && first.contains("visits: 1"), "{first}");
        let page = ask(address, "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
        assert!(page.contains("<b>2</b>") && page.contains("pod-&lt;0&gt;"), "{page}");
        let head = ask(address, "HEAD /healthz HTTP/1.1\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(address, "GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").starts_with("HTTP/1.1 405"));
        assert!(ask(address, "GET /readyz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        server.end();
        assert!(ask(address, "GET /readyz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        // Another pod with the same volume goes on counting.
        let (_again, address) = started(folder.path());
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").contains("visits: 3"));
    }

    #[test]
    fn hostile_clients_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_server, address) = started(folder.path());
        assert!(ask(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert!(ask(address, &format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000))).starts_with("HTTP/1.1 431"));
        assert!(
            ask(address, &format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000))).starts_with("HTTP/1.1 431")
        );
        // As many as it takes, none of which says anything.
        let silent: Vec<_> = (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut more = TcpStream::connect(address).unwrap();
        let mut answer = String::new();
        more.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        drop(silent);
    }
}
