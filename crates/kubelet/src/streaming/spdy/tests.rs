use super::headers::{MAX_HEADER_BYTES, read_headers};
use super::*;

#[test]
fn dictionary_is_that_of_the_draft() {
    let digest = pki::sha256_hex(&dictionary());
    assert_eq!(digest, "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02");
}

#[test]
fn headers_survive_packing_over_several_frames() {
    let dictionary = dictionary();
    let mut packer = Compress::new(Compression::fast(), true);
    packer.set_dictionary(&dictionary).unwrap();
    let mut unpacker = Unpacker::new();
    for port in ["80", "8080"] {
        let mut plain = 1u32.to_be_bytes().to_vec();
        for text in ["Port", port] {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(256);
        packer.compress_vec(&plain, &mut packed, FlushCompress::Sync).unwrap();
        let headers = unpacker.headers(&packed).unwrap();
        assert_eq!(headers["port"], port);
    }
}

#[tokio::test]
async fn a_client_and_a_server_understand_each_other() {
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let (read, write) = tokio::io::split(theirs);
    // Each stream says what it is, and then what it hears.
    let server = tokio::spawn(serve(read, write, |mut stream| {
        tokio::spawn(async move {
            stream.output.send(stream.headers["streamtype"].as_bytes()).await.unwrap();
            while let Some(data) = stream.input.recv().await {
                stream.output.send(&data).await.unwrap();
            }
            stream.output.end().await;
        });
    }));
    let (read, write) = tokio::io::split(ours);
    let (streams, session) = open(read, write, &["error", "stdin"]).await.unwrap();
    for (mut stream, kind) in streams.into_iter().zip(["error", "stdin"]) {
        let long = vec![b'x'; 100_000];
        let sending = stream.output.clone();
        tokio::spawn(async move {
            sending.send(&long).await.unwrap();
            sending.end().await;
        });
        let mut heard = Vec::new();
        while let Some(data) = stream.input.recv().await {
            heard.extend_from_slice(&data);
        }
        assert!(heard.starts_with(kind.as_bytes()));
        assert_eq!(heard.len(), kind.len() + 100_000);
    }
    session.abort();
    server.await.unwrap().unwrap();
}

#[test]
fn malformed_headers_are_refused() {
    for bad in [&b""[..], b"\0\0\0\x01", b"\0\0\0\x01\0\0\0\x09abc"] {
        assert!(read_headers(bad).is_none());
    }
}

/// A client's session up to its end: what comes of it, and how many streams were opened.
async fn session(frames: &[u8]) -> (io::Result<()>, usize) {
    let mut opened = Vec::new();
    let served = serve(frames, tokio::io::sink(), |stream| opened.push(stream));
    let result = tokio::time::timeout(std::time::Duration::from_secs(60), served).await.expect("it ends");
    (result, opened.len())
}

fn frame(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.push(flags);
    frame.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    frame.extend(payload);
    frame
}

fn syn(id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(SYN_STREAM, flags, &[&id.to_be_bytes()[..], &[0; 6], block].concat())
}

fn packed(packer: &mut Compress, plain: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut block = Vec::with_capacity(1 << 10);
    packer.compress_vec(plain, &mut block, flush).unwrap();
    block
}

#[tokio::test]
async fn a_compression_that_ends_ends_the_session() {
    let mut packer = Compress::new(Compression::fast(), true);
    packer.set_dictionary(&dictionary()).unwrap();
    let ended = packed(&mut packer, &0u32.to_be_bytes(), FlushCompress::Finish);
    let (result, opened) = session(&[syn(1, 0, &ended), syn(3, 0, b"AAAA")].concat()).await;
    assert!(result.is_err() && opened == 0);
    // Bytes that no stream begins with, and a dictionary that is asked for again and again.
    assert!(session(&syn(1, 0, b"AAAA")).await.0.is_err());
    let asks = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
    assert!(session(&[syn(1, 0, &asks), syn(3, 0, &asks), syn(5, 0, &asks)].concat()).await.0.is_err());
}

#[tokio::test]
async fn a_session_has_bounds() {
    let mut packer = Compress::new(Compression::fast(), true);
    packer.set_dictionary(&dictionary()).unwrap();
    // Streams whose client's half is over at once are streams, too.
    let flood: Vec<u8> = (0..MAX_STREAMS as u32 + 1)
        .flat_map(|n| syn(2 * n + 1, FIN, &packed(&mut packer, &0u32.to_be_bytes(), FlushCompress::Sync)))
        .collect();
    let (result, opened) = session(&flood).await;
    assert!(opened == MAX_STREAMS && result.is_err_and(|error| error.to_string().contains("too many")));

    let mut packer = Compress::new(Compression::best(), true);
    packer.set_dictionary(&dictionary()).unwrap();
    let bomb = packed(&mut packer, &vec![0; 10 * MAX_HEADER_BYTES], FlushCompress::Sync);
    assert!(session(&syn(1, 0, &bomb)).await.0.is_err());
    assert!(session(&frame(PING, 0, &vec![0; MAX_FRAME_BYTES + 1])).await.0.is_err());
    assert!(read_headers(&u32::MAX.to_be_bytes()).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_waits_with_the_client() {
    let mut packer = Compress::new(Compression::fast(), true);
    packer.set_dictionary(&dictionary()).unwrap();
    let mut frames = syn(1, 0, &packed(&mut packer, &0u32.to_be_bytes(), FlushCompress::Sync));
    for _ in 0..8 {
        frames.extend(&1u32.to_be_bytes());
        frames.extend(&(MAX_FRAME_BYTES as u32).to_be_bytes());
        frames.extend(vec![0; MAX_FRAME_BYTES]);
    }
    let mut streams = Vec::new();
    let served = serve(&frames[..], tokio::io::sink(), |stream| streams.push(stream));
    let waits = tokio::time::timeout(std::time::Duration::from_secs(60), served).await;
    assert!(waits.is_err(), "the session must wait for its reader");
    let mut taken = 0;
    while let Some(data) = streams[0].input.recv().await {
        taken += data.len();
    }
    assert_eq!(taken, MAX_BUFFERED_BYTES);
}

proptest::proptest! {
    /// Whatever bytes come, a session ends with them.
    #[test]
    fn no_bytes_keep_a_session_busy(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), kind in 0u16..9) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _ = runtime.block_on(session(&[frame(kind, bytes.len() as u8, &bytes), bytes.clone()].concat()));
    }
}
