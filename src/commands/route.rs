//! The way from a command to a node: plain, or through TLS, and no token where others could read it.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use forebay::config::shown_path;
use forebay::net;
use hyper::Uri;
use hyper::header::HeaderValue;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};
use tokio_util::either::Either;

/// Bytes of a token file; past it it is some other file.
const MAX_TOKEN_BYTES: u64 = 4096;

/// The flag that names whom to trust.
pub const CA_FLAG: &str = "--ca";

/// A connection to a node.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Whom to trust, and with what.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// A file with certificates in PEM: who signed with one of them is trusted, and nobody else. Without it: the
    /// public authorities.
    pub ca: Option<&'a Path>,
    /// What a person names that file with, such as [`CA_FLAG`].
    pub ca_name: &'static str,
    /// Whether a token is shown.
    pub token: bool,
    /// Whether it is shown where others can read it.
    pub insecure: bool,
}

/// Where a node is, and how to get there.
#[derive(Clone)]
pub struct Route {
    /// Host and port.
    address: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    ca_name: &'static str,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Nobody is there.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It speaks no TLS, or is not known to be who it should.
    #[error("{0}")]
    Untrusted(String),
}

impl Route {
    /// The way to `url`: through TLS where it is `https` or `wss`.
    ///
    /// # Errors
    /// What a person must change.
    pub fn new(url: &Uri, trust: Trust<'_>) -> anyhow::Result<Self> {
        let host = url.host().context("the URL names no host")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let scheme = url.scheme_str().unwrap_or_default();
        let is_secure = matches!(scheme, "https" | "wss");
        let port = url.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let address = format!("{host}:{port}");
        if !is_secure {
            ensure!(
                !trust.token || trust.insecure || is_loopback(bare),
                "over {scheme}:// whoever is on the way to {host} could read the token: use {scheme}s://, or \
                 --insecure-http to show it all the same"
            );
            return Ok(Self { address, tls: None, ca_name: trust.ca_name });
        }
        let name = ServerName::try_from(bare.to_owned());
        let name = name.with_context(|| format!("no certificate can be for the host {}", bare.escape_debug()))?;
        Ok(Self { address, tls: Some((connector(trust)?, name)), ca_name: trust.ca_name })
    }

    /// Connects. How long it may take is for the caller to say.
    ///
    /// # Errors
    /// [`RouteError`]
    pub async fn connect(&self) -> Result<Stream, RouteError> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Either::Left(socket)),
            Some((connector, name)) => match connector.connect(name.clone(), socket).await {
                Ok(stream) => Ok(Either::Right(Box::new(stream))),
                Err(error) => Err(untrusted(&error, self.ca_name).map_or(RouteError::Io(error), RouteError::Untrusted)),
            },
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn connector(trust: Trust<'_>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match trust.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let name = trust.ca_name;
            let found = net::certificates(file).with_context(|| format!("{name} cannot be used"))?;
            // The system's own file may have old ones among many that are good.
            let (good, _) = roots.add_parsable_certificates(found);
            ensure!(good > 0, "{name} cannot be used: {}: no certificate in it can be read", shown_path(file));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .context("there is no TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

/// What is wrong with the other end, and what to do; `None` where the connection was just lost.
fn untrusted(error: &io::Error, ca_name: &str) -> Option<String> {
    use CertificateError as Bad;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidMessage(_) => "it speaks no TLS; use http:// or ws:// if that is meant".to_owned(),
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            format!(
                "nobody who is trusted has signed its certificate; {ca_name} names a file with the certificate of who has"
            )
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired; give the node a new one".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; is the clock of this machine right?".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            format!("{error}; name the node in the URL as its certificate does")
        }
        rustls::Error::InvalidCertificate(Bad::Other(_)) => {
            format!("{error}; is it an authority's own (CA:TRUE)? That is none for a node")
        }
        error => error.to_string(),
    })
}

/// The header that shows the token of a file.
///
/// # Errors
/// Where the file cannot be read, or holds something else.
pub fn bearer(file: &Path) -> anyhow::Result<HeaderValue> {
    read_bearer(file).with_context(|| format!("cannot use the token file {}", shown_path(file)))
}

fn read_bearer(file: &Path) -> anyhow::Result<HeaderValue> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text)?;
    let token = text.trim();
    let is_token =
        !token.is_empty() && token.len() as u64 <= MAX_TOKEN_BYTES && token.bytes().all(|b| b.is_ascii_graphic());
    ensure!(is_token, "it must hold one token and nothing else");
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).context("it holds no token")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a token is shown to it without more ado.
    fn shown(url: &str) -> bool {
        let url: Uri = url.parse().expect("a URL");
        Route::new(&url, Trust { ca: None, ca_name: CA_FLAG, token: true, insecure: false }).is_ok()
    }

    #[test]
    fn a_token_leaves_the_machine_through_tls_alone() {
        for url in ["http://127.0.0.1:7002", "http://[::1]:7002", "ws://localhost/ws", "http://[::ffff:127.0.0.1]"] {
            assert!(shown(url), "{url}");
        }
        for url in ["http://10.0.0.5:7002", "ws://localhost.example/ws", "http://0.0.0.0:7002", "ws://[2001:db8::1]"] {
            assert!(!shown(url), "{url}");
            assert!(shown(&url.replacen(':', "s:", 1)), "{url} through TLS");
        }
    }
}
