//! A client that is just enough for this demo: inline commands, and replies as a flat list of texts.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// No reply that this demo asks for has more bytes, or more parts.
const LARGEST: usize = 1024 * 1024;

pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to a port of this machine.
    pub async fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends an inline command and reads its reply.
    pub async fn ask(&mut self, command: &str) -> io::Result<Vec<String>> {
        self.send(command).await?;
        self.reply().await
    }

    pub async fn send(&mut self, command: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).await
    }

    /// The texts of one reply. An error reply is an error of the kind `Other`, with the server's words.
    pub async fn reply(&mut self) -> io::Result<Vec<String>> {
        let mut texts = Vec::new();
        let mut due = 1;
        while due > 0 {
            due -= 1;
            let line = self.line().await?;
            match line.split_at_checked(1) {
                Some(("*", count)) => due += length(count)?,
                Some(("$", "-1")) => texts.push(String::new()),
                Some(("$", size)) => texts.push(self.bulk(length(size)?).await?),
                Some(("+" | ":", text)) => texts.push(text.to_owned()),
                Some(("-", error)) => return Err(io::Error::other(error.to_owned())),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, line)),
            }
        }
        Ok(texts)
    }

    async fn bulk(&mut self, size: usize) -> io::Result<String> {
        let mut bytes = vec![0; size + 2];
        self.stream.read_exact(&mut bytes).await?;
        bytes.truncate(size);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// One line without its end.
    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.stream).take(4096).read_line(&mut line).await?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn length(digits: &str) -> io::Result<usize> {
    let length = digits.parse().ok().filter(|length| *length <= LARGEST);
    length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a length: {digits}")))
}

/// One question to a port, on a connection of its own.
pub async fn ask(port: u16, command: &str) -> io::Result<Vec<String>> {
    Connection::open(port).await?.ask(command).await
}

/// The body of a page that respgate's admin port serves.
pub async fn page(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LARGEST as u64).read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.to_owned())
}
