//! The files that the settings name: tokens and certificates, read together so that they can be replaced together.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::{Access, Tokens};
use crate::config::{Settings, shown_path};
use crate::metrics::{Certificates, Metrics};
use crate::net::{self, Certificate, Tls, TlsError};

/// What was read of the files; nothing of it is in force yet.
pub struct Files {
    tokens: Option<Tokens>,
    ingest: Option<Certificate>,
    admin: Option<Certificate>,
    /// Files that more may read, or write, than is good: key, path, what they may.
    exposed: Vec<(&'static str, PathBuf, &'static str)>,
}

/// Everything that is wrong with the files, a line each: key, path, what it is.
#[derive(Debug)]
pub struct FileFaults(Vec<String>);

impl fmt::Display for FileFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for FileFaults {}

impl Files {
    /// Reads all files that the settings name, and those of the sink only to see whether they can be used.
    ///
    /// # Errors
    /// [`FileFaults`]: all of them.
    pub fn read(settings: &Settings) -> Result<Self, FileFaults> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, path: &Path, error: &dyn fmt::Display| {
            faults.push(format!("{key} = {:?}: {error}", shown_path(path)));
        };
        let tokens = settings
            .access
            .tokens
            .as_deref()
            .and_then(|path| Tokens::read(path).map_err(|error| fault("access.tokens", path, &error)).ok());
        let mut certificate = |section: &str, cert: &Option<_>, private: &Option<_>| {
            let (cert, private): (&Path, &Path) = cert.as_deref().zip(private.as_deref())?;
            let read = Certificate::read(cert, private);
            let name = |error: &TlsError| if error.file() == private { "tls_key" } else { "tls_cert" };
            read.map_err(|error| fault(&format!("{section}.{}", name(&error)), error.file(), &error)).ok()
        };
        let ingest = certificate("ingest", &settings.ingest.tls_cert, &settings.ingest.tls_key);
        let admin = certificate("admin", &settings.admin.tls_cert, &settings.admin.tls_key);
        // Only looked at here: the sink, and what sends traces, read their own.
        certificate("sink", &settings.sink.tls_cert, &settings.sink.tls_key);
        for (key, ca) in [("sink.tls_ca", &settings.sink.tls_ca), ("trace.otlp_ca", &settings.trace.otlp_ca)] {
            if let Some(ca) = ca.as_deref()
                && let Err(error) = net::certificates(ca)
            {
                fault(key, ca, &error);
            }
        }
        let exposed = exposed(settings);
        if faults.is_empty() { Ok(Self { tokens, ingest, admin, exposed }) } else { Err(FileFaults(faults)) }
    }

    /// Reads the certificates of the listeners, and no tokens.
    pub(super) fn certificates(settings: &Settings) -> Result<Self, FileFaults> {
        let mut settings = settings.clone();
        settings.access.tokens = None;
        (settings.sink.tls_ca, settings.sink.tls_cert, settings.sink.tls_key) = (None, None, None);
        settings.trace.otlp_ca = None;
        Self::read(&settings)
    }

    /// Warns of certificates that have expired or soon will, and of files that are open to others.
    fn warn(&self) {
        self.ingest.iter().chain(&self.admin).for_each(Certificate::warn_of_end);
        for (setting, path, may) in &self.exposed {
            let path = path.display();
            tracing::warn!(setting, %path, "other users of this machine may {may} this file: chmod 600 keeps it to its owner");
        }
    }
}

/// The files of the settings that others than their owner can use to get in: by reading them, or by writing to them.
fn exposed(settings: &Settings) -> Vec<(&'static str, PathBuf, &'static str)> {
    let Settings { ingest, admin, sink, access, .. } = settings;
    let files = [
        ("access.tokens", &access.tokens),
        ("ingest.tls_key", &ingest.tls_key),
        ("admin.tls_key", &admin.tls_key),
        ("sink.tls_key", &sink.tls_key),
    ];
    let files = files.into_iter().filter_map(|(setting, path)| Some((setting, path.as_ref()?)));
    let judged = files.filter_map(|(setting, path)| {
        let mode = std::fs::metadata(path).ok()?.permissions().mode();
        // A group may be made for those who are to read a key; nobody else is to write to it.
        match (mode & 0o022 != 0, mode & 0o004 != 0) {
            (true, _) => Some((setting, path.clone(), "write to")),
            (_, true) => Some((setting, path.clone(), "read")),
            _ => None,
        }
    });
    judged.collect()
}

/// The same, in force.
pub(super) struct Guard {
    pub(super) access: Arc<Access>,
    pub(super) ingest: Option<Arc<Tls>>,
    pub(super) admin: Option<Arc<Tls>>,
}

impl Guard {
    pub(super) fn new(files: Files) -> Self {
        files.warn();
        let tls = |certificate: Option<_>| certificate.map(|certificate| Arc::new(Tls::new(certificate)));
        let Files { tokens, ingest, admin, exposed: _ } = files;
        Self { access: Arc::new(Access::new(tokens)), ingest: tls(ingest), admin: tls(admin) }
    }

    /// Shows until when the certificates are valid.
    pub(super) fn measure(&self, metrics: &Metrics) {
        let Certificates { ingest, admin } = &metrics.certificates;
        for (tls, shown) in [(&self.ingest, ingest), (&self.admin, admin)] {
            let not_after = tls.as_ref().and_then(|tls| tls.not_after());
            shown.set(not_after.map_or(0, |end| end.max(0).unsigned_abs()));
        }
    }

    /// Puts other files of the same kinds in force: those of a node that has none stay away.
    pub(super) fn replace(&self, files: Files, metrics: &Metrics) {
        files.warn();
        let Files { tokens, ingest, admin, exposed: _ } = files;
        if let Some(tokens) = tokens {
            self.access.replace(tokens);
        }
        for (tls, certificate) in [(&self.ingest, ingest), (&self.admin, admin)] {
            if let Some((tls, certificate)) = tls.as_ref().zip(certificate) {
                tls.replace(certificate);
            }
        }
        self.measure(metrics);
    }
}
