use std::convert::Infallible;
use std::net::SocketAddr;

use futures::stream;
use http_body_util::StreamBody;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pki::RotatingCertificate;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

type Frames = stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

/// A server of HTTP/2 that knows three paths: one that it answers, one to which it never says anything, and one whose answer has one
/// line and no end. It remembers who came.
struct Server {
    address: SocketAddr,
    authority: pki::Authority,
    clients: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
}

async fn answer(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let line = stream::iter([Ok(Frame::data(Bytes::from_static(b"\"well\"\n")))]);
    let body: Frames = match request.uri().path() {
        "/silent" => std::future::pending().await,
        "/endless" => Box::pin(futures::StreamExt::chain(line, stream::pending())),
        _ => Box::pin(line),
    };
    Ok(Response::new(StreamBody::new(body)))
}

async fn serve() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let authority = pki::Authority::load_or_create(folder.path(), "ca").unwrap();
    let identity = authority.issue("s", None, &[pki::Usage::Server], &["127.0.0.1".into()]).unwrap();
    let rotating = RotatingCertificate::new(identity, "").unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        .with_cert_resolver(rotating);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = clients.clone();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let leaf = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
            seen.lock().push(leaf.map(|l| pki::parse_certificate_der(l).unwrap().common_name).unwrap_or_default());
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    Server { address, authority, clients, folder }
}

/// So short that a test needn't wait, and so long that what works isn't given up.
fn limits() -> Limits {
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(30));
    Limits { connect: long, ping: long, answer: short, watch: short }
}

async fn get(transport: &Transport, path: &str) -> Result<String, String> {
    let request = Request::get(path).body(Vec::new()).unwrap();
    transport.kube().request_text(request).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_never_comes_is_given_up() {
    let server = serve().await;
    let url = format!("https://{}", server.address);
    let trust = Trust::Authority(server.authority.certificate_pem());
    let transport = Transport::new(&url, &trust, Identity::Nobody, limits()).unwrap();
    assert_eq!(get(&transport, "/well").await.unwrap(), "\"well\"\n");
    let silent = get(&transport, "/silent").await.unwrap_err();
    assert!(silent.contains("gave no answer within 300ms"), "{silent}");
    for path in ["/endless", "/endless?watch=true&allowWatchBookmarks=true"] {
        let endless = get(&transport, path).await.unwrap_err();
        assert!(endless.contains("nothing came from the server for 300ms"), "{path}: {endless}");
    }
    // All of it on one connection, which goes on.
    assert_eq!(get(&transport, "/well").await.unwrap(), "\"well\"\n");
    assert_eq!(server.clients.lock().len(), 1);
}

/// A machine that is there for the kernel and hangs otherwise: nothing is read from its connections.
#[tokio::test]
async fn a_server_that_answers_no_ping_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let authority = pki::Authority::load_or_create(folder.path(), "ca").unwrap();
    let identity = authority.issue("s", None, &[pki::Usage::Server], &["127.0.0.1".into()]).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(RotatingCertificate::new(identity, "").unwrap());
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(acceptor.accept(stream).await);
        }
    });
    let limits = Limits { ping: Duration::from_millis(100), answer: Duration::from_secs(60), ..limits() };
    let trust = Trust::Authority(authority.certificate_pem());
    let transport = Transport::new(&url, &trust, Identity::Nobody, limits).unwrap();
    let error = get(&transport, "/well").await.unwrap_err();
    assert!(!error.contains("gave no answer"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_by_the_next_connection() {
    let server = serve().await;
    let url = format!("https://{}", server.address);
    let issue = |name: &str| server.authority.issue(name, None, &[pki::Usage::Client], &[]).unwrap();
    let rotating = RotatingCertificate::new(issue("before"), "").unwrap();
    let trust = Trust::Authority(server.authority.certificate_pem());
    let shown = Identity::Certificate(rotating.clone());
    let transport = Transport::new(&url, &trust, shown, Limits::default()).unwrap();
    get(&transport, "/well").await.unwrap();
    rotating.replace(issue("after")).unwrap();
    get(&transport, "/well").await.unwrap();
    transport.reconnect();
    get(&transport, "/well").await.unwrap();
    assert_eq!(*server.clients.lock(), ["before", "after"]);
}

#[tokio::test]
async fn a_failed_connection_says_why_and_says_it_once() {
    let server = serve().await;
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let of = |address: SocketAddr, pem: &str| {
        let trust = Trust::Authority(pem);
        Transport::new(&format!("https://{address}"), &trust, Identity::Nobody, Limits::default()).unwrap()
    };
    let refused = get(&of(free, server.authority.certificate_pem()), "/well").await.unwrap_err();
    assert_eq!(refused.matches("Connection refused").count(), 1, "{refused}");
    let other = pki::Authority::load_or_create(server.folder.path(), "other").unwrap();
    let transport = of(server.address, other.certificate_pem());
    let stranger = get(&transport, "/well").await.unwrap_err();
    assert!(stranger.contains("invalid peer certificate") && transport.distrusts(), "{stranger}");
    let transport = of(server.address, server.authority.certificate_pem());
    get(&transport, "/well").await.unwrap();
    assert!(!transport.distrusts());
}
