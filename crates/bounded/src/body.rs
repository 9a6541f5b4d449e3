//! Bodies of HTTP messages.

use std::fmt::Display;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt as _;

/// Why a body couldn't be read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("it is larger than {0} bytes")]
    /// It has more bytes than this limit.
    TooLarge(usize),
    #[error("{0}")]
    /// The connection failed before the end of the body.
    Aborted(String),
}

/// Reads a body of at most `limit` bytes into memory.
///
/// # Errors
/// When it has more, or the connection fails before its end.
pub async fn body<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    body_with_trailers(body, limit).await.map(|(bytes, _)| bytes)
}

/// [`body`], with its trailers.
///
/// # Errors
/// As [`body`].
pub async fn body_with_trailers<B>(body: B, limit: usize) -> Result<(Bytes, HeaderMap), BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let mut body = pin!(body);
    let (mut first, mut all, mut trailers) = (Bytes::new(), BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Aborted(error.to_string()))?;
        match frame.into_data() {
            Ok(data) if first.len().saturating_add(all.len()).saturating_add(data.len()) > limit => {
                return Err(BodyError::TooLarge(limit));
            }
            // Most bodies have one frame, which isn't copied.
            Ok(data) if first.is_empty() && all.is_empty() => first = data,
            Ok(data) => {
                all.extend_from_slice(&std::mem::take(&mut first));
                all.extend_from_slice(&data);
            }
            Err(frame) => {
                if let Ok(more) = frame.into_trailers() {
                    trailers.extend(more);
                }
            }
        }
    }
    Ok((if all.is_empty() { first } else { all.freeze() }, trailers))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    /// A body of these parts.
    struct Parts(Vec<Frame<Bytes>>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(if self.0.is_empty() { None } else { Some(Ok(self.0.remove(0))) })
        }
    }

    fn parts(parts: &[&'static str]) -> Parts {
        let mut trailers = HeaderMap::new();
        trailers.insert("said", http::HeaderValue::from_static("last"));
        let data = parts.iter().map(|part| Frame::data(Bytes::from(*part)));
        Parts(data.chain([Frame::trailers(trailers)]).collect())
    }

    #[tokio::test]
    async fn a_larger_body_is_refused() {
        for all in [&["1234"][..], &["12", "34"], &["", "1", "", "23", "4", ""]] {
            let (bytes, trailers) = body_with_trailers(parts(all), 4).await.unwrap();
            assert_eq!((bytes.as_ref(), trailers["said"].as_bytes()), (&b"1234"[..], &b"last"[..]));
            assert!(matches!(body(parts(all), 3).await, Err(BodyError::TooLarge(3))));
        }
        assert_eq!(body(parts(&[]), 0).await.unwrap(), "");
    }
}
