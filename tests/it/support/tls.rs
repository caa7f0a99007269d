//! Clients' side of TLS: whom they trust, who they are, and a raw connection.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::certificates::Certificates;
use super::client::Client;
use super::wait::PATIENCE;

/// A connection that has shaken hands.
pub type TlsConnection = StreamOwned<ClientConnection, TcpStream>;

/// How a client does TLS. Clones share their session tickets.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts `ca.pem`, expects `localhost`, shows no certificate, and shakes hands anew each time.
    pub fn new(certificates: &Certificates) -> Self {
        Self::with(certificates, None, &[&TLS12, &TLS13], Resumption::disabled())
    }

    /// As [`Tls::new`], with the certificate of this name.
    pub fn named(certificates: &Certificates, identity: &str) -> Self {
        Self::with(certificates, Some(identity), &[&TLS12, &TLS13], Resumption::disabled())
    }

    /// As [`Tls::named`]; sessions are resumed.
    pub fn resuming(certificates: &Certificates, identity: &str) -> Self {
        Self::with(certificates, Some(identity), &[&TLS12, &TLS13], Resumption::default())
    }

    /// As [`Tls::new`], with one version only; sessions are resumed.
    pub fn only(certificates: &Certificates, version: &'static SupportedProtocolVersion) -> Self {
        Self::with(certificates, None, &[version], Resumption::default())
    }

    fn with(
        certificates: &Certificates,
        identity: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
        resumption: Resumption,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(certificates.path("ca.pem")).expect("ca.pem");
        roots.add(ca).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::pem_file_iter(certificates.path(&format!("{name}.crt")))
                    .expect("a chain")
                    .collect::<Result<_, _>>()
                    .expect("certificates");
                let key = PrivateKeyDer::from_pem_file(certificates.path(&format!("{name}.key")));
                builder.with_client_auth_cert(chain, key.expect("a key")).expect("a pair")
            }
        };
        config.resumption = resumption;
        Self { config: Arc::new(config), name: "localhost".try_into().expect("a name") }
    }

    /// A client that has said nothing yet.
    pub fn conversation(&self) -> ClientConnection {
        ClientConnection::new(self.config.clone(), self.name.clone()).expect("a TLS client")
    }

    /// What a client says first.
    pub fn hello(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.conversation().write_tls(&mut bytes).expect("a hello");
        bytes
    }

    /// Connects to a loopback port and shakes hands. In TLS 1.3 a server that refuses the client's certificate says so
    /// afterwards, in the first read.
    pub fn try_connect(&self, port: u16) -> io::Result<TlsConnection> {
        self.try_over(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?, b"")
    }

    /// As [`Tls::try_connect`], on a connection that is there. `before`: bytes that go out before the handshake, in one
    /// piece with its beginning.
    pub fn try_over(&self, socket: TcpStream, before: &[u8]) -> io::Result<TlsConnection> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(self.conversation(), socket);
        let mut first = before.to_vec();
        stream.conn.write_tls(&mut first)?;
        stream.sock.write_all(&first)?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        // The client's last word of the handshake waits to be written.
        stream.flush()?;
        Ok(stream)
    }

    /// As [`Tls::try_connect`]; it must succeed.
    #[track_caller]
    pub fn connect(&self, port: u16) -> TlsConnection {
        self.try_connect(port).unwrap_or_else(|error| panic!("no TLS with 127.0.0.1:{port}: {error}"))
    }

    /// A RESP client.
    #[track_caller]
    pub fn client(&self, port: u16) -> Client {
        Client::over_tls(self.connect(port))
    }
}

/// Where clients connect, and how.
#[derive(Clone)]
pub struct Target {
    pub port: u16,
    pub tls: Option<Tls>,
}

impl Target {
    /// One more client.
    #[track_caller]
    pub fn client(&self) -> Client {
        match &self.tls {
            Some(tls) => tls.client(self.port),
            None => Client::connect(self.port),
        }
    }
}
