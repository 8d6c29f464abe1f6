//! A process's standard streams as one stream of bytes both ways. It never looks at the bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Reads what a process writes, writes what it reads.
pub(crate) struct Pipe {
    from: mpsc::Receiver<Bytes>,
    rest: Bytes,
    to: PollSender<Bytes>,
}

impl Pipe {
    pub(crate) fn new(from: mpsc::Receiver<Bytes>, to: mpsc::Sender<Bytes>) -> Self {
        Self {
            from,
            rest: Bytes::new(),
            to: PollSender::new(to),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.from.poll_recv(cx)) {
                Some(data) => self.rest = data,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.to.poll_reserve(cx)).map_err(gone)?;
        let sent = self.to.send_item(Bytes::copy_from_slice(data));
        sent.map_err(gone)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_cross_both_ways_and_ends_are_seen() {
        let (to_process, mut process_in) = mpsc::channel(1);
        let (process_out, from_process) = mpsc::channel(2);
        let mut pipe = Pipe::new(from_process, to_process);
        process_out.send("hel".into()).await.unwrap();
        process_out.send("lo".into()).await.unwrap();
        drop(process_out);
        let mut text = String::new();
        pipe.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        pipe.write_all(b"hi").await.unwrap();
        pipe.shutdown().await.unwrap();
        assert_eq!(process_in.recv().await.unwrap(), "hi");
        assert_eq!(process_in.recv().await, None);
    }
}
