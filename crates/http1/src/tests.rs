//! What is read and written, and what is refused. Connections are real ones, over loopback.

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::either::Either;

use crate::Body;
use crate::framing::{Decoded, Decoder, Length};
use crate::outbound::ConnectionPool;
use crate::{BufferedStream, HttpError, head, inbound};

fn read(text: &str) -> Result<Option<head::Message<Request<()>>>, HttpError> {
    head::request(&mut BytesMut::from(text), &mut 0)
}

#[test]
fn requests_are_read() {
    let read = |text: &str| read(text).unwrap().unwrap();
    let plain = read("GET /a?b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\n\r\n");
    assert_eq!(plain.head.uri(), "/a?b");
    assert_eq!(plain.head.headers().get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((plain.length, plain.keep_alive), (Length::Exact(0), true));
    assert_eq!(read("POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n").length, Length::Exact(7));
    assert_eq!(read("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n").length, Length::Chunked);
    assert!(!read("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n").keep_alive);
    assert!(!read("GET / HTTP/1.0\r\n\r\n").keep_alive);
    assert!(read("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    let about = read(
        "GET / HTTP/1.1\r\nConnection: x-one, Host\r\nX-One: 1\r\nX-Two: 2\r\nTE: trailers\r\nHost: h\r\nUpgrade: x\r\n\r\n",
    );
    let mut names: Vec<_> = about.head.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "x-two"], "what is about the connection");
    assert!(about.head.extensions().get::<head::Upgrade>().is_none(), "nobody says that it is to be upgraded");
    let upgrade = read("GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(upgrade.head.extensions().get::<head::Upgrade>().unwrap().0, "websocket");
    assert_eq!(read("\r\n\nGET /bare HTTP/1.1\nHost: x\n\n").head.uri(), "/bare");
    assert_eq!(read("GET http://h/p HTTP/1.1\r\n\r\n").head.uri().authority().unwrap(), "h");
}

#[test]
fn what_may_be_read_in_two_ways_is_refused() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: ",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
        "A: b\r\n folded",
        "A: \0",
        "A\u{e9}: b",
        ": b",
    ] {
        assert!(read(&format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n")).is_err(), "{lines:?}");
    }
    for line in
        ["GET / HTTP/2.0", "GET  / HTTP/1.1", "GET /", "G\u{e9}T / HTTP/1.1", "GET / a HTTP/1.1", "POST /\t HTTP/1.1"]
    {
        assert!(read(&format!("{line}\r\nHost: x\r\n\r\n")).is_err(), "{line:?}");
    }
    assert!(read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    // The same length twice is one.
    assert_eq!(
        read("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n").unwrap().unwrap().length,
        Length::Exact(5)
    );
}

#[test]
fn heads_have_an_end() {
    assert!(read("GET / HTTP/1.1\r\nHost: x\r\n").unwrap().is_none());
    let many: String = (0..200).map(|n| format!("A{n}: b\r\n")).collect();
    assert!(matches!(read(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(HttpError::HeadTooLarge)));
    assert!(matches!(read(&format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(70_000))), Err(HttpError::HeadTooLarge)));
}

#[test]
fn answers_are_read() {
    let read = |text: &str, to: &Method| head::response(&mut BytesMut::from(text), &mut 0, to).map(Option::unwrap);
    let length = |text: &str, to: &Method| read(text, to).map(|message| message.length);
    let get = &Method::GET;
    assert_eq!(length("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", get).unwrap(), Length::Exact(3));
    assert_eq!(length("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", &Method::HEAD).unwrap(), Length::Exact(0));
    assert_eq!(length("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", get).unwrap(), Length::Exact(0));
    assert_eq!(length("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", get).unwrap(), Length::Chunked);
    assert_eq!(length("HTTP/1.1 200 OK\r\n\r\n", get).unwrap(), Length::Close);
    assert!(!read("HTTP/1.1 200 OK\r\n\r\n", get).unwrap().keep_alive);
    assert!(!read("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", get).unwrap().keep_alive);
    assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", get).is_err());
    assert!(read("HTTP/1.1 99 OK\r\n\r\n", get).is_err());
}

/// What a decoder makes of bytes that come in parts.
fn decode(length: Length, parts: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), HttpError> {
    let (mut decoder, mut input, mut body) = (Decoder::new(length), BytesMut::new(), Vec::new());
    for part in parts {
        input.extend_from_slice(part);
        while let Decoded::Data(data) = decoder.step(&mut input)? {
            body.extend_from_slice(&data);
        }
    }
    if decoder.is_done() { Ok((body, input.to_vec())) } else { Err(HttpError::Closed) }
}

#[test]
fn chunks_are_what_they_say() {
    let chunked = |text: &str| decode(Length::Chunked, &[text.as_bytes()]);
    let text = |text: &str| String::from_utf8(chunked(text).unwrap().0).unwrap();
    assert_eq!(text("3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"), "abc0123456789");
    assert_eq!(chunked("1\r\na\r\n0\r\nTrailer: x\r\n\r\nnext").unwrap().1, b"next");
    for wrong in [
        "3\r\nabcd\r\n0\r\n\r\n",
        "\r\n\r\n",
        "x\r\n\r\n",
        "3 \nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "3\r\nabc0\r\n\r\n",
    ] {
        assert!(chunked(wrong).is_err(), "{wrong:?}");
    }
    assert!(chunked(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(2000))).is_err());
    assert!(chunked(&format!("0\r\nA: {}\r\n\r\n", "x".repeat(20_000))).is_err());
}

proptest! {
    #[test]
    fn bodies_come_out_as_they_went_in(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), cuts in prop::collection::vec(1usize..20, 1..40)) {
        let mut bytes_sent = Vec::new();
        for chunk in &chunks {
            bytes_sent.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes_sent.extend_from_slice(chunk);
            bytes_sent.extend_from_slice(b"\r\n");
        }
        bytes_sent.extend_from_slice(b"0\r\n\r\nNEXT");
        let (mut parts, mut rest) = (Vec::new(), &bytes_sent[..]);
        for cut in cuts {
            let (part, after) = rest.split_at(cut.min(rest.len()));
            parts.push(part);
            rest = after;
        }
        parts.push(rest);
        let (body, left) = decode(Length::Chunked, &parts).unwrap();
        prop_assert_eq!(body, chunks.concat());
        prop_assert_eq!(left, b"NEXT");
    }

    #[test]
    fn garbage_is_refused_or_awaited_but_never_read_twice(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut input = BytesMut::from(&bytes[..]);
        let _ = head::request(&mut input, &mut 0);
        prop_assert!(bytes.ends_with(&input));
        let mut input = BytesMut::from(&bytes[..]);
        let _ = head::response(&mut input, &mut 0, &Method::GET);
        prop_assert!(bytes.ends_with(&input));
        let _ = decode(Length::Chunked, &[&bytes]);
    }
}

/// Two ends of a connection.
async fn pair() -> (TcpStream, BufferedStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, BufferedStream::new(Either::Left(listener.accept().await.unwrap().0)))
}

/// What a client hears until the connection is closed, who says all of this at once. Answers repeat what came.
async fn hears(said: &[u8]) -> String {
    let (mut client, stream) = pair().await;
    let echo = |request: Request<Body>| async move {
        let name = format!("{} {}", request.method(), request.uri());
        match request.into_body().collect().await {
            Ok(body) => {
                let body = [name.as_bytes(), b" ", &body.to_bytes()].concat();
                Response::new(Body::Whole(Bytes::from(body)))
            }
            Err(error) => crate::text_response(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    };
    let serving = tokio::spawn(inbound::serve(stream, echo));
    client.write_all(said).await.unwrap();
    let mut heard = String::new();
    let _ = client.read_to_string(&mut heard).await;
    serving.await.unwrap();
    // The time is nobody's business here.
    heard.lines().filter(|line| !line.starts_with("date: ")).map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn requests_come_one_after_the_other() {
    let both = hears(b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nyou").await;
    assert_eq!(
        both,
        "HTTP/1.1 200 OK\ncontent-length: 10\n\nPOST /a hiHTTP/1.1 200 OK\ncontent-length: 10\nconnection: close\n\nPOST /b yo\n"
    );
}

#[tokio::test]
async fn a_word_is_given_to_who_waits_for_it() {
    let heard =
        hears(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").await;
    assert!(heard.starts_with("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\n"), "{heard}");
}

#[tokio::test]
async fn the_answer_to_head_and_to_old_clients() {
    let heard = hears(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert_eq!(heard, "HTTP/1.1 200 OK\nconnection: close\n\n");
    let heard = hears(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n").await;
    assert!(
        heard.contains("connection: keep-alive\n\nGET / HTTP/1.1") && heard.ends_with("connection: close\n\nGET /2 \n"),
        "{heard}"
    );
}

#[tokio::test]
async fn malformed_requests_are_told_and_end_the_connection() {
    for said in [
        &b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ] {
        let heard = hears(said).await;
        assert!(heard.starts_with("HTTP/1.1 400") && heard.contains("connection: close"), "{heard}");
        assert!(!heard.contains("smuggled") && heard.matches("HTTP/1.1").count() == 1, "{heard}");
    }
    let large = [b"GET / HTTP/1.1\r\nA: ", "x".repeat(100_000).as_bytes()].concat();
    assert!(hears(&large).await.starts_with("HTTP/1.1 431"));
}

fn pool() -> ConnectionPool {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    ConnectionPool::new(std::sync::Arc::new(config).into())
}

/// A client's connection whose requests are passed on to a backend, and the door where the backend waits for them.
async fn passed_on() -> (TcpStream, TcpListener) {
    let (client, stream) = pair().await;
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (lines, endpoint): (_, std::sync::Arc<str>) = (pool(), door.local_addr().unwrap().to_string().into());
    let pass_on = move |request: Request<Body>| {
        let (lines, endpoint) = (lines.clone(), endpoint.clone());
        async move {
            let line = match lines.take_idle(&endpoint, false) {
                Some(line) => line,
                None => lines.connect(&endpoint, false).await.unwrap(),
            };
            let (head, body) = request.into_parts();
            match lines.send_request(line, &Request::from_parts(head, ()), body).await {
                Ok(answer) => answer,
                Err(trouble) => crate::text_response(StatusCode::BAD_GATEWAY, &trouble.to_string()),
            }
        }
    };
    tokio::spawn(inbound::serve(stream, pass_on));
    (client, door)
}

/// The backend's connection, once the client has said something.
async fn said(client: &mut TcpStream, words: &str, door: &TcpListener) -> TcpStream {
    client.write_all(words.as_bytes()).await.unwrap();
    door.accept().await.unwrap().0
}

/// Reads until what was heard ends like this.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut heard = String::new();
    let mut byte = [0; 1];
    while !heard.ends_with(end) {
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "closed after {heard:?}");
        heard.push(byte[0] as char);
    }
    heard
}

#[tokio::test]
async fn a_connection_to_a_backend_is_used_again() {
    let (mut client, door) = passed_on().await;
    let mut backend = said(&mut client, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n", &door).await;
    assert_eq!(until(&mut backend, "\r\n\r\n").await, "GET /1 HTTP/1.1\r\nhost: h\r\n\r\n");
    backend.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
    until(&mut client, "\r\n\r\n").await;
    backend.write_all(b"hi").await.unwrap();
    until(&mut client, "hi").await;
    client.write_all(b"POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n").await.unwrap();
    assert!(until(&mut backend, "\r\n\r\n").await.contains("transfer-encoding: chunked"));
    client.write_all(b"hi\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(until(&mut backend, "0\r\n\r\n").await, "2\r\nhi\r\n0\r\n\r\n");
    backend.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert!(until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 204 No Content\r\n"));
}

#[tokio::test]
async fn an_answer_of_unknown_length_comes_in_chunks_as_it_is_made() {
    let (mut client, door) = passed_on().await;
    let mut backend = said(&mut client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", &door).await;
    until(&mut backend, "\r\n\r\n").await;
    backend.write_all(b"HTTP/1.1 200 OK\r\n\r\nfirst").await.unwrap();
    let head = until(&mut client, "5\r\nfirst\r\n").await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    backend.write_all(b"second").await.unwrap();
    until(&mut client, "6\r\nsecond\r\n").await;
    drop(backend);
    until(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn an_answer_may_come_before_all_was_said() {
    let (mut client, door) = passed_on().await;
    let mut backend = said(&mut client, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\non", &door).await;
    until(&mut backend, "on").await;
    backend.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
    until(&mut client, "1\r\na\r\n").await;
    client.write_all(b"ce").await.unwrap();
    until(&mut backend, "ce").await;
    backend.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
    until(&mut client, "1\r\nb\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn answers_that_are_cut_off_or_malformed_are_no_answers() {
    for (answer, heard) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "HTTP/1.1 502"),
        ("nonsense\r\n\r\n", "HTTP/1.1 502"),
        ("HTTP/1.1 200 OK\r\nContent-Len", "HTTP/1.1 502"),
        ("", "HTTP/1.1 502"),
        // Too late to say so: the client sees that not all came.
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", "HTTP/1.1 200"),
    ] {
        let (mut client, door) = passed_on().await;
        let mut backend = said(&mut client, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &door).await;
        until(&mut backend, "\r\n\r\n").await;
        backend.write_all(answer.as_bytes()).await.unwrap();
        drop(backend);
        let mut all = String::new();
        let _ = client.read_to_string(&mut all).await;
        assert!(all.starts_with(heard), "{answer:?}: {all:?}");
    }
}

#[tokio::test]
async fn who_goes_away_is_not_answered() {
    let (mut client, door) = passed_on().await;
    let mut backend = said(&mut client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", &door).await;
    until(&mut backend, "\r\n\r\n").await;
    drop(client);
    // The backend hears of it by the end of its connection.
    assert_eq!(backend.read(&mut [0; 1]).await.unwrap_or(0), 0);
}
