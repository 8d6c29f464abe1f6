//! The byte stream of a session: what the client sends as messages is read, what is written is collected into messages.
//! It never looks at the bytes.
//!
//! Writes gather in one buffer until the outgoing stream is polled, so that small frames share a message.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::Stream;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How much is gathered before the writer has to wait.
const GATHERED: usize = 1 << 20;
/// Largest message handed out: large enough for throughput, small enough for the client's buffers.
const MESSAGE: usize = 256 << 10;

/// The daemon's end of the tunnel. Reading ends when the client does, and cancels the token; a token cancelled by
/// another ends reading.
pub(crate) struct Tunnel {
    inbound: BoxStream<'static, io::Result<Bytes>>,
    rest: Bytes,
    token: CancellationToken,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    pipe: Arc<Mutex<Pipe>>,
}

/// What is written to the tunnel, as messages; ends when the tunnel is dropped or shut down.
pub(crate) struct Written {
    pipe: Arc<Mutex<Pipe>>,
}

#[derive(Default)]
struct Pipe {
    gathered: BytesMut,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The two ends of a tunnel.
pub(crate) fn tunnel(
    inbound: BoxStream<'static, io::Result<Bytes>>,
    closed: CancellationToken,
) -> (Tunnel, Written) {
    let pipe = Arc::new(Mutex::new(Pipe::default()));
    let written = Written { pipe: pipe.clone() };
    let tunnel = Tunnel {
        inbound,
        rest: Bytes::new(),
        closed: Box::pin(closed.clone().cancelled_owned()),
        token: closed,
        pipe,
    };
    (tunnel, written)
}

fn with<T>(pipe: &Mutex<Pipe>, act: impl FnOnce(&mut Pipe) -> T) -> T {
    act(&mut pipe.lock().unwrap_or_else(PoisonError::into_inner))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        while self.rest.is_empty() {
            match ready!(self.inbound.as_mut().poll_next(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                end => {
                    // Before any call notices, so that each knows why it failed.
                    self.token.cancel();
                    return Poll::Ready(end.map_or(Ok(()), |chunk| chunk.map(drop)));
                }
            }
        }
        let count = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (result, reader) = with(&self.pipe, |pipe| {
            if pipe.ended {
                return (Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())), None);
            }
            if pipe.gathered.len() >= GATHERED {
                pipe.writer = Some(cx.waker().clone());
                return (Poll::Pending, None);
            }
            for part in parts {
                pipe.gathered.extend_from_slice(part);
            }
            let count = parts.iter().map(|part| part.len()).sum();
            (Poll::Ready(Ok(count)), pipe.reader.take())
        });
        wake(reader);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        end(&self.pipe);
        Poll::Ready(Ok(()))
    }
}

/// No more is written: what was gathered can still be read.
fn end(pipe: &Mutex<Pipe>) {
    let (reader, writer) = with(pipe, |pipe| {
        pipe.ended = true;
        (pipe.reader.take(), pipe.writer.take())
    });
    wake(reader);
    wake(writer);
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        end(&self.pipe);
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        end(&self.pipe);
    }
}

impl Stream for Written {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let (result, writer) = with(&self.pipe, |pipe| {
            if pipe.gathered.is_empty() && pipe.ended {
                return (Poll::Ready(None), None);
            }
            if pipe.gathered.is_empty() {
                pipe.reader = Some(cx.waker().clone());
                return (Poll::Pending, None);
            }
            let count = pipe.gathered.len().min(MESSAGE);
            let message = pipe.gathered.split_to(count).freeze();
            (Poll::Ready(Some(message)), pipe.writer.take())
        });
        wake(writer);
        result
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn chunks(chunks: &'static [&'static str]) -> BoxStream<'static, io::Result<Bytes>> {
        futures::stream::iter(chunks.iter().map(|chunk| Ok(Bytes::from(*chunk)))).boxed()
    }

    #[tokio::test]
    async fn messages_are_read_as_one_stream_whatever_their_boundaries() {
        let (mut tunnel, _written) = tunnel(chunks(&["ab", "", "c"]), CancellationToken::new());
        let mut text = String::new();
        tunnel.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "abc");
    }

    #[tokio::test]
    async fn small_writes_share_a_message_and_the_end_is_seen_after_them() {
        let (mut tunnel, written) = tunnel(chunks(&[]), CancellationToken::new());
        for part in ["a", "b", "c"] {
            tunnel.write_all(part.as_bytes()).await.unwrap();
        }
        drop(tunnel);
        let messages: Vec<Bytes> = written.collect().await;
        assert_eq!(messages, [Bytes::from("abc")]);
    }

    #[tokio::test]
    async fn a_writer_waits_for_a_slow_reader_and_fails_when_it_leaves() {
        let (mut tunnel, mut written) = tunnel(chunks(&[]), CancellationToken::new());
        tunnel.write_all(&vec![0; GATHERED]).await.unwrap();
        let (blocked, message) = tokio::join!(tunnel.write_all(b"x"), written.next());
        assert_eq!(message.unwrap().len(), MESSAGE);
        blocked.unwrap();
        let (mut tunnel, written) = super::tunnel(chunks(&[]), CancellationToken::new());
        drop(written);
        assert!(tunnel.write_all(b"x").await.is_err());
    }

    #[tokio::test]
    async fn a_cancelled_token_ends_reading_at_once() {
        let token = CancellationToken::new();
        let (mut tunnel, _written) = tunnel(futures::stream::pending().boxed(), token.clone());
        let mut buffer = [0; 8];
        let cancel = async { token.cancel() };
        let (read, ()) = tokio::join!(tunnel.read(&mut buffer), cancel);
        assert_eq!(read.unwrap(), 0);
    }
}
