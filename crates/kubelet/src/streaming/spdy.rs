//! SPDY/3.1 as far as Kubernetes' streaming uses it (draft-mbelshe-httpbis-spdy-00), from either side: the client opens streams with
//! headers, both sides send data, either side ends. As in the Go library that all clients use, there is no flow
//! control.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
/// Headers and data of one frame; larger ones are an attack.
const MAX_FRAME_BYTES: usize = 1 << 20;
const HEADERS_LARGEST: usize = 64 << 10;
/// Headers of one stream; those of Kubernetes have four.
const MAX_HEADERS: usize = 64;
/// Streams of a session that either side still has something to do with.
const MAX_STREAMS: usize = 512;
/// Bytes of a session that came and weren't taken yet: who sends more waits.
const MAX_BUFFERED_BYTES: usize = 4 << 20;
/// Frames of a stream that weren't taken yet.
const MAX_QUEUED_FRAMES: usize = 64;

/// The dictionary that header blocks are packed with (section 2.6.10.1): words, each behind its length, and a text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
        proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
        user-agent vary via warning www-authenticate method get status 200\u{a0}OK version HTTP/1.1 url public set-cookie \
        keep-alive origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
        Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
        Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
        Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
        application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
        charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('\u{a0}', " ");
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TEXT.as_bytes());
    out
}

/// The sending half of a session, shared by its streams.
struct Output {
    write: Box<dyn AsyncWrite + Send + Unpin>,
    packer: Compress,
}

impl Output {
    async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len().saturating_add(8));
        frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.push(flags);
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        frame.extend_from_slice(payload);
        self.write.write_all(&frame).await?;
        self.write.flush().await
    }

    async fn data(&mut self, stream: u32, flags: u8, data: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(data.len().saturating_add(8));
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.push(flags);
        frame.extend_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        frame.extend_from_slice(data);
        self.write.write_all(&frame).await?;
        self.write.flush().await
    }

    fn session(write: impl AsyncWrite + Send + Unpin + 'static) -> io::Result<Arc<Mutex<Self>>> {
        let mut packer = Compress::new(Compression::fast(), true);
        packer.set_dictionary(&dictionary()).map_err(io::Error::other)?;
        Ok(Arc::new(Mutex::new(Output { write: Box::new(write), packer })))
    }

    /// Opens a stream.
    async fn open(&mut self, stream: u32, headers: &HashMap<String, String>) -> io::Result<()> {
        // No other stream goes before it, and all are equal.
        let mut payload = [stream.to_be_bytes(), [0; 4]].concat();
        payload.extend([0, 0]);
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        payload.reserve(plain.len().saturating_add(64));
        self.packer.compress_vec(&plain, &mut payload, FlushCompress::Sync).map_err(io::Error::other)?;
        self.control(SYN_STREAM, 0, &payload).await
    }

    /// Accepts a stream, with no headers.
    async fn reply(&mut self, stream: u32) -> io::Result<()> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.reserve(64);
        let packed = self.packer.compress_vec(&0u32.to_be_bytes(), &mut payload, FlushCompress::Sync);
        packed.map_err(io::Error::other)?;
        self.control(SYN_REPLY, 0, &payload).await
    }
}

/// A stream that the client opened.
pub struct Stream {
    pub headers: HashMap<String, String>,
    /// What the client sends; ends with its half of the stream.
    pub input: Input,
    pub output: StreamOutput,
}

/// A frame, and its part of what may wait to be taken.
type Waiting = (Bytes, Option<OwnedSemaphorePermit>);

/// The other side's half of a stream.
pub struct Input {
    frames: mpsc::Receiver<Waiting>,
    /// The room of the frame that was taken last, which is in use until the next is asked for.
    taken: Option<OwnedSemaphorePermit>,
}

impl Input {
    fn new() -> (mpsc::Sender<Waiting>, Self) {
        let (sender, frames) = mpsc::channel(MAX_QUEUED_FRAMES);
        (sender, Input { frames, taken: None })
    }

    pub async fn recv(&mut self) -> Option<Bytes> {
        self.taken = None;
        let (data, room) = self.frames.recv().await?;
        self.taken = room;
        Some(data)
    }
}

/// Our half of a stream.
#[derive(Clone)]
pub struct StreamOutput {
    id: u32,
    session: Arc<Mutex<Output>>,
    /// One of the session's streams, as long as anybody has it.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl StreamOutput {
    pub async fn send(&self, data: &[u8]) -> io::Result<()> {
        for part in data.chunks(32 << 10) {
            self.session.lock().await.data(self.id, 0, part).await?;
        }
        Ok(())
    }

    /// Nothing more will come.
    pub async fn end(&self) {
        let _ = self.session.lock().await.data(self.id, FIN, &[]).await;
    }
}

/// What a session tells of beside data.
enum News {
    /// The other side opened a stream.
    Opened(Stream),
    /// The other side took a stream of ours.
    Accepted,
}

/// Serves one connection: hands every new stream to `accept`, until the client leaves.
///
/// # Errors
/// When the client breaks the protocol.
pub async fn serve<R, W>(read: R, write: W, mut accept: impl FnMut(Stream)) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let session = Output::session(write)?;
    frames(read, session, HashMap::new(), |news| {
        if let News::Opened(stream) = news {
            accept(stream);
        }
    })
    .await
}

/// Opens a stream of each kind to a server, in this order. The session lasts as long as the server likes, or until the task is
/// aborted.
///
/// # Errors
/// When the server doesn't take the streams.
pub async fn open<R, W>(read: R, write: W, kinds: &[&str]) -> io::Result<(Vec<Stream>, JoinHandle<io::Result<()>>)>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let session = Output::session(write)?;
    let (mut streams, mut inputs) = (Vec::new(), HashMap::new());
    for (id, kind) in (1..).step_by(2).zip(kinds) {
        let (sender, input) = Input::new();
        inputs.insert(id, sender);
        let headers = HashMap::from([("streamtype".to_string(), (*kind).to_string())]);
        let output = StreamOutput { id, session: session.clone(), _place: None };
        streams.push(Stream { headers, input, output });
    }
    let (accepted, mut answers) = mpsc::channel(kinds.len().max(1));
    let reading = tasks::spawn(
        "spdy-session",
        frames(read, session.clone(), inputs, move |news| {
            if let News::Accepted = news {
                let _ = accepted.try_send(());
            }
        }),
    );
    for stream in &streams {
        session.lock().await.open(stream.output.id, &stream.headers).await?;
    }
    for _ in kinds {
        answers.recv().await.ok_or_else(|| io::Error::other("the server doesn't take the streams"))?;
    }
    Ok((streams, reading))
}

async fn frames<R: AsyncRead + Unpin>(
    mut read: R,
    session: Arc<Mutex<Output>>,
    mut streams: HashMap<u32, mpsc::Sender<Waiting>>,
    mut tell: impl FnMut(News),
) -> io::Result<()> {
    let mut unpacker = Unpacker::new();
    let (places, room) = (Arc::new(Semaphore::new(MAX_STREAMS)), Arc::new(Semaphore::new(MAX_BUFFERED_BYTES)));
    let mut last = 0;
    loop {
        let mut head = [0u8; 8];
        match read.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::other("a frame is too large"));
        }
        let mut payload = vec![0u8; length];
        read.read_exact(&mut payload).await?;
        if head[0] & 0x80 == 0 {
            let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            if let Some(sender) = streams.get(&id)
                && !payload.is_empty()
            {
                let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                // Whose reader is gone, or goes meanwhile, doesn't hold up the others.
                let room = tokio::select! {
                    room = room.clone().acquire_many_owned(bytes) => room.ok(),
                    () = sender.closed() => None,
                };
                let _ = sender.send((payload.into(), room)).await;
            }
            if flags & FIN != 0 {
                streams.remove(&id);
            }
            continue;
        }
        let word = |at: usize| payload.get(at..)?.first_chunk().map(|bytes: &[u8; 4]| u32::from_be_bytes(*bytes));
        match u16::from_be_bytes([head[2], head[3]]) {
            SYN_STREAM => {
                let (Some(id), Some(block)) = (word(0), payload.get(10..)) else {
                    return Err(io::Error::other("a SYN_STREAM is too short"));
                };
                // Numbers only grow (section 2.3.2), so that none is another's.
                if id <= last {
                    return Err(io::Error::other("a stream's number was used already"));
                }
                last = id;
                let headers = unpacker.headers(block)?;
                let (sender, input) = Input::new();
                if flags & FIN == 0 {
                    streams.insert(id, sender);
                }
                streams.retain(|_, sender| !sender.is_closed());
                let place = places.clone().try_acquire_owned();
                let place = place.ok().filter(|_| streams.len() <= MAX_STREAMS);
                let place = Some(Arc::new(place.ok_or_else(|| io::Error::other("too many streams"))?));
                session.lock().await.reply(id).await?;
                let output = StreamOutput { id, session: session.clone(), _place: place };
                tell(News::Opened(Stream { headers, input, output }));
            }
            // Its headers say nothing of use, and no other frame from a server has any.
            SYN_REPLY => tell(News::Accepted),
            RST_STREAM => {
                if let Some(id) = word(0) {
                    streams.remove(&id);
                }
            }
            PING => session.lock().await.control(PING, 0, &payload).await?,
            GOAWAY => return Ok(()),
            _ => {}
        }
    }
}

/// Reads header blocks, which are one zlib stream over the whole session.
struct Unpacker {
    stream: Decompress,
    /// What the stream is packed with, until it has asked for it.
    dictionary: Option<Vec<u8>>,
}

impl Unpacker {
    fn new() -> Self {
        Unpacker { stream: Decompress::new(true), dictionary: Some(dictionary()) }
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<HashMap<String, String>> {
        let mut plain = Vec::with_capacity(HEADERS_LARGEST);
        let mut input = block;
        while !input.is_empty() {
            let (read, written) = (self.stream.total_in(), plain.len());
            let mut asked = false;
            match self.stream.decompress_vec(input, &mut plain, FlushDecompress::Sync) {
                // It has to last as long as the session.
                Ok(Status::StreamEnd) => return Err(io::Error::other("the headers' compression ended")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    let dictionary = self.dictionary.take().ok_or_else(|| io::Error::other(error))?;
                    self.stream.set_dictionary(&dictionary).map_err(io::Error::other)?;
                    asked = true;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
            if plain.len() >= HEADERS_LARGEST {
                return Err(io::Error::other("the headers are too large"));
            }
            let used = usize::try_from(self.stream.total_in().saturating_sub(read)).unwrap_or(usize::MAX);
            // Each round must get on, or it would be the last that there is.
            if used == 0 && plain.len() == written && !asked {
                return Err(io::Error::other("the headers can't be unpacked"));
            }
            input = input.get(used..).unwrap_or_default();
        }
        read_headers(&plain).ok_or_else(|| io::Error::other("the headers are malformed"))
    }
}

fn read_headers(mut plain: &[u8]) -> Option<HashMap<String, String>> {
    fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (head, rest) = from.split_at_checked(n)?;
        *from = rest;
        Some(head)
    }
    fn count(from: &mut &[u8]) -> Option<usize> {
        let bytes = take(from, 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }
    let pairs = count(&mut plain).filter(|pairs| *pairs <= MAX_HEADERS)?;
    let mut headers = HashMap::new();
    for _ in 0..pairs {
        let n = count(&mut plain)?;
        let name = String::from_utf8_lossy(take(&mut plain, n)?).to_ascii_lowercase();
        let n = count(&mut plain)?;
        let value = String::from_utf8_lossy(take(&mut plain, n)?).into_owned();
        headers.insert(name, value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
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
        let bomb = packed(&mut packer, &vec![0; 10 * HEADERS_LARGEST], FlushCompress::Sync);
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
}
