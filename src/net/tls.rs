//! Certificates of a listener, and their replacement.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use super::validity;
use crate::config::shown_path;

/// How long before its end a certificate is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Why a listener has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("{}: {problem}", shown_path(.file))]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key are none that can be used, or not of each other.
    #[error("{} and its key cannot be used: {error}", shown_path(.file))]
    Unusable {
        /// The certificate's file.
        file: PathBuf,
        /// What the library says.
        error: rustls::Error,
    },
}

impl TlsError {
    /// Whose fault it is.
    pub fn file(&self) -> &Path {
        let (Self::File { file, .. } | Self::Unusable { file, .. }) = self;
        file
    }
}

/// A certificate with its key, ready to serve.
pub struct Certificate {
    config: Arc<ServerConfig>,
    not_after: Option<i64>,
    file: PathBuf,
}

impl Certificate {
    /// Reads a chain of certificates, the listener's own first, and its key, both in PEM.
    ///
    /// # Errors
    /// [`TlsError`] where a file is not there or not that, or the key is not the certificate's.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(cert)?;
        let not_after = chain.first().and_then(|own| validity::not_after(own));
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
        let unusable = |error| TlsError::Unusable { file: cert.to_owned(), error };
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), not_after, file: cert.to_owned() })
    }

    /// Says so where the certificate has expired, or will soon. It is served all the same: whether it is good enough
    /// is for clients to say.
    pub fn warn_of_end(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
        let file = self.file.display();
        match self.not_after.map(|end| end.saturating_sub(now)) {
            None => tracing::warn!(%file, "it cannot be seen until when the certificate is valid"),
            Some(left) if left <= 0 => {
                tracing::warn!(%file, "the certificate has expired: clients refuse it; put a new one in its place");
            }
            Some(left) if left.unsigned_abs() < SOON.as_secs() => {
                tracing::warn!(%file, days = left / 86_400, "the certificate expires soon: put a new one in its place");
            }
            Some(_) => {}
        }
    }
}

/// The certificates of a file in PEM; at least one.
///
/// # Errors
/// [`TlsError`] where the file is not there or not that.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(|found| found.collect());
    let found = found.map_err(|error| unreadable(file, error))?;
    if found.is_empty() { Err(unreadable(file, pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn unreadable(file: &Path, error: pem::Error) -> TlsError {
    let problem = match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => "there is no such file".to_owned(),
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => "has no PEM of this kind".to_owned(),
        // Not the error's own text: it may repeat a line of the file.
        _ => "is not PEM".to_owned(),
    };
    TlsError::File { file: file.to_owned(), problem }
}

/// The certificate that a listener serves now.
pub struct Tls {
    current: RwLock<Certificate>,
}

impl Tls {
    /// Serves `certificate`.
    pub fn new(certificate: Certificate) -> Self {
        Self { current: RwLock::new(certificate) }
    }

    /// Serves `certificate` to connections that come from here on.
    pub fn replace(&self, certificate: Certificate) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }

    /// Until when the certificate is valid, in seconds of the epoch; `None` where that cannot be seen.
    pub fn not_after(&self) -> Option<i64> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).not_after
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config).into()
    }
}
