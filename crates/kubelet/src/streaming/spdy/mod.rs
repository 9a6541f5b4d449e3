//! SPDY/3.1 as far as Kubernetes' streaming uses it (draft-mbelshe-httpbis-spdy-00), from either side: the client opens streams with
//! headers, both sides send data, either side ends. As in the Go library that all clients use, there is no flow
//! control.

mod headers;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use headers::{Unpacker, dictionary};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
/// Headers and data of one frame; larger ones are an attack.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Streams of a session that either side still has something to do with.
const MAX_STREAMS: usize = 512;
/// Bytes of a session that came and weren't taken yet; a client that sends more waits.
const MAX_BUFFERED_BYTES: usize = 4 << 20;
/// Frames of a stream that weren't taken yet.
const MAX_QUEUED_FRAMES: usize = 64;

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
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    /// What the client sends; ends with its half of the stream.
    pub input: Input,
    /// Our half.
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

    /// The next bytes; none once the other side's half has ended.
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
    /// One of the session's streams, as long as it is in use.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl StreamOutput {
    /// Sends bytes.
    ///
    /// # Errors
    /// When the session is over.
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

/// Events of a session beside data.
enum SessionEvent {
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
    frames(read, session, HashMap::new(), |event| {
        if let SessionEvent::Opened(stream) = event {
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
        frames(read, session.clone(), inputs, move |event| {
            if let SessionEvent::Accepted = event {
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

/// Reads frames until the session ends.
async fn frames<R: AsyncRead + Unpin>(
    mut read: R,
    session: Arc<Mutex<Output>>,
    streams: HashMap<u32, mpsc::Sender<Waiting>>,
    mut tell: impl FnMut(SessionEvent),
) -> io::Result<()> {
    let mut incoming = Incoming {
        session,
        unpacker: Unpacker::new(),
        streams,
        places: Arc::new(Semaphore::new(MAX_STREAMS)),
        room: Arc::new(Semaphore::new(MAX_BUFFERED_BYTES)),
        last: 0,
    };
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
            incoming.data(id, flags, payload).await;
            continue;
        }
        match u16::from_be_bytes([head[2], head[3]]) {
            SYN_STREAM => tell(SessionEvent::Opened(incoming.syn_stream(flags, &payload).await?)),
            // Its headers say nothing of use, and no other frame from a server has any.
            SYN_REPLY => tell(SessionEvent::Accepted),
            RST_STREAM => {
                if let Some(id) = word(&payload, 0) {
                    incoming.streams.remove(&id);
                }
            }
            PING => incoming.session.lock().await.control(PING, 0, &payload).await?,
            GOAWAY => return Ok(()),
            _ => {}
        }
    }
}

/// Four bytes of a payload as a number.
fn word(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..)?.first_chunk().map(|bytes: &[u8; 4]| u32::from_be_bytes(*bytes))
}

/// The other side's half of a session.
struct Incoming {
    session: Arc<Mutex<Output>>,
    unpacker: Unpacker,
    streams: HashMap<u32, mpsc::Sender<Waiting>>,
    /// One for each stream that either side still has something to do with.
    places: Arc<Semaphore>,
    /// Bytes that may wait to be taken.
    room: Arc<Semaphore>,
    /// The number of the stream that was opened last.
    last: u32,
}

impl Incoming {
    async fn data(&mut self, id: u32, flags: u8, payload: Vec<u8>) {
        if let Some(sender) = self.streams.get(&id)
            && !payload.is_empty()
        {
            let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            // A stream whose reader is gone, or goes meanwhile, doesn't hold up the others.
            let room = tokio::select! {
                room = self.room.clone().acquire_many_owned(bytes) => room.ok(),
                () = sender.closed() => None,
            };
            let _ = sender.send((payload.into(), room)).await;
        }
        if flags & FIN != 0 {
            self.streams.remove(&id);
        }
    }

    async fn syn_stream(&mut self, flags: u8, payload: &[u8]) -> io::Result<Stream> {
        let (Some(id), Some(block)) = (word(payload, 0), payload.get(10..)) else {
            return Err(io::Error::other("a SYN_STREAM is too short"));
        };
        // Numbers only grow (section 2.3.2), so that none is another's.
        if id <= self.last {
            return Err(io::Error::other("a stream's number was used already"));
        }
        self.last = id;
        let headers = self.unpacker.headers(block)?;
        let (sender, input) = Input::new();
        if flags & FIN == 0 {
            self.streams.insert(id, sender);
        }
        self.streams.retain(|_, sender| !sender.is_closed());
        let place = self.places.clone().try_acquire_owned();
        let place = place.ok().filter(|_| self.streams.len() <= MAX_STREAMS);
        let place = Some(Arc::new(place.ok_or_else(|| io::Error::other("too many streams"))?));
        self.session.lock().await.reply(id).await?;
        let output = StreamOutput { id, session: self.session.clone(), _place: place };
        Ok(Stream { headers, input, output })
    }
}
