//! The messages between the old and the new process: JSON objects, one on each line. A socket comes with its line.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Maximum length of one line, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;
/// Maximum length of all lines that come with sockets, in bytes.
const LONGEST_LIST: usize = 1024 * 1024;
/// Maximum number of sockets in one message. Linux delivers them as they were sent, one in each.
const SOCKETS_PER_MESSAGE: usize = 8;

/// Sends a line together with a socket.
pub(super) async fn send_socket(stream: &UnixStream, line: &Value, socket: &OwnedFd) -> io::Result<()> {
    let text = format!("{line}\n");
    let sockets = [socket.as_fd()];
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        let bytes = [IoSlice::new(text.as_bytes())];
        Ok(sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL)?)
    });
    if sent.await? == text.len() { Ok(()) } else { Err(io::Error::other("a message was cut")) }
}

/// Receives lines and sockets up to the first line that has the field `last`. Blocks, at most for the stream's time limit
/// at a time. Returns each line with its socket, and the last line.
pub(super) fn receive_sockets(
    stream: &StdUnixStream,
    last: &str,
) -> io::Result<(Vec<(Value, OwnedFd)>, Value)> {
    let (mut text, mut sockets) = (Vec::new(), Vec::new());
    loop {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || text.len() > LONGEST_LIST {
            return Err(io::Error::other("a message is too long, or descriptors have run out"));
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(bytes.get(..received.bytes).unwrap_or_default());
        if text.ends_with(b"\n") {
            let lines: Vec<Value> = text
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(serde_json::from_slice)
                .collect::<Result<_, _>>()?;
            if lines.last().is_some_and(|line| line.get(last).is_some()) {
                return pair(lines, sockets);
            }
        }
    }
}

fn pair(mut lines: Vec<Value>, sockets: Vec<OwnedFd>) -> io::Result<(Vec<(Value, OwnedFd)>, Value)> {
    match lines.pop() {
        Some(last) if lines.len() == sockets.len() => Ok((lines.into_iter().zip(sockets).collect(), last)),
        _ => Err(io::Error::other(format!("{} lines came with {} sockets", lines.len(), sockets.len()))),
    }
}

/// Sends one line.
pub(super) async fn send(stream: &mut OwnedWriteHalf, line: &Value) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes()).await
}

/// Receives one line. Returns `None` if the other process has ended.
pub(super) async fn receive(stream: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Value>> {
    let mut line = String::new();
    match stream.take(LONGEST_LINE).read_line(&mut line).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(serde_json::from_str(&line)?)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn sockets_arrive_with_their_lines() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let received = std::thread::spawn(move || receive_sockets(&theirs, "pid").unwrap());
        let ours = UnixStream::from_std(ours).unwrap();
        let mut expected = Vec::new();
        for number in 0..50 {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            expected.push((number, socket.local_addr().unwrap()));
            send_socket(&ours, &json!({ "socket": number }), &socket.into()).await.unwrap();
        }
        let (_read, mut write) = ours.into_split();
        send(&mut write, &json!({ "pid": 7 })).await.unwrap();
        let (sockets, last) = tokio::task::spawn_blocking(|| received.join().unwrap()).await.unwrap();
        assert_eq!(last, json!({ "pid": 7 }));
        let got = sockets.into_iter().map(|(line, socket)| {
            let address = std::net::TcpListener::from(socket).local_addr().unwrap();
            (line["socket"].as_u64().unwrap(), address)
        });
        assert_eq!(got.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_end_without_the_last_line_is_an_error() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        drop(ours);
        assert_eq!(receive_sockets(&theirs, "pid").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
