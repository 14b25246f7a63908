//! Certificates made for a test, and clients that trust one of them alone.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::http::{self, Answer};
use super::wait::within;

/// A certificate that signed itself, for 127.0.0.1.
pub struct Own {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    der: CertificateDer<'static>,
}

/// Makes a certificate that ends with `last_year`, and writes it to `folder` in place of one of the same name.
pub fn certificate(folder: &Path, name: &str, last_year: i32) -> Own {
    certificate_until(folder, name, (last_year, 12, 31))
}

/// The same with the day on which it ends.
pub fn certificate_until(folder: &Path, name: &str, (year, month, day): (i32, u8, u8)) -> Own {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    params.not_after = rcgen::date_time_ymd(year, month, day);
    let pair = KeyPair::generate().expect("a key");
    let made = params.self_signed(&pair).expect("a certificate");
    let [cert, key] = ["cert", "key"].map(|kind| folder.join(format!("{name}.{kind}.pem")));
    std::fs::write(&cert, made.pem()).expect("a file");
    std::fs::write(&key, pair.serialize_pem()).expect("a file");
    Own { cert, key, der: made.der().clone() }
}

impl Own {
    /// Shows it to whoever connects.
    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .expect("a certificate and its key");
        Arc::new(config).into()
    }

    /// Connects, where the server shows this very certificate and it is valid.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.over(TcpStream::connect(address).await?, address).await
    }

    /// The same over a connection that is there already.
    pub async fn over(&self, socket: TcpStream, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(address.ip());
        within("the TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await
    }

    /// One request on a connection of its own.
    pub async fn request(&self, address: SocketAddr, head: &str, body: &[u8]) -> Answer {
        let mut socket = self.connect(address).await.expect("a connection");
        let head = format!(
            "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(&[head.as_bytes(), body].concat()).await.expect("the request is taken");
        let mut received = Vec::new();
        within("the answer", socket.read_to_end(&mut received)).await.expect("a whole answer");
        http::parse(&received).expect("an answer")
    }
}
