//! What must hold so that nobody listens in, or gets in, by mistake.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::fault::Fault;
use super::reader::Reader;
use super::redact::shown_path;
use super::{Proxy, Settings, SinkTarget};

impl Reader {
    /// A certificate has its key, and a listener that other machines reach has tokens and TLS, unless it is said that
    /// it need not.
    pub fn protect(&mut self, settings: &Settings) {
        let Settings { ingest, admin, sink, access, trace, .. } = settings;
        for (cert_name, cert, key_name, key) in [
            ("ingest.tls_cert", &ingest.tls_cert, "ingest.tls_key", &ingest.tls_key),
            ("admin.tls_cert", &admin.tls_cert, "admin.tls_key", &admin.tls_key),
            ("sink.tls_cert", &sink.tls_cert, "sink.tls_key", &sink.tls_key),
        ] {
            self.needs(cert_name, cert, key_name, key.is_some());
            self.needs(key_name, key, cert_name, cert.is_some());
        }
        self.needs("sink.tls_cert", &sink.tls_cert, "sink.tls_ca", sink.tls_ca.is_some());
        let mysql = matches!(sink.target, SinkTarget::Mysql(_));
        self.needs("sink.tls_ca", &sink.tls_ca, "sink.url = \"mysql://…\"", mysql);
        let secure = trace.otlp_endpoint.as_ref().is_some_and(|url| url.starts_with("https://"));
        self.needs("trace.otlp_ca", &trace.otlp_ca, "trace.otlp_endpoint = \"https://…\"", secure);
        let is_proxied = ingest.proxy != Proxy::None;
        let keys = ["ingest.proxy", "ingest.trusted_proxies"].map(Some);
        let at_fault = self.faults.iter().any(|fault| keys.contains(&fault.key.as_deref()));
        if is_proxied == ingest.trusted_proxies.is_empty() && !at_fault {
            let (key, other) = match is_proxied {
                true => ("ingest.proxy", "ingest.trusted_proxies = [\"…\"]: the addresses that proxies connect from"),
                false => ("ingest.trusted_proxies", "ingest.proxy: how they name their clients"),
            };
            let value = is_proxied.then(|| format!("{:?}", ingest.proxy.name()));
            self.fault(key, value, format!("needs {other}"));
        }
        if access.allow_insecure_listen {
            return;
        }
        let tokens = access.tokens.is_some();
        self.protect_listener("ingest.listen", ingest.listen, tokens, ingest.tls_cert.is_some());
        self.protect_listener("admin.listen", admin.listen, tokens, admin.tls_cert.is_some());
    }

    fn needs(&mut self, key: &'static str, value: &Option<PathBuf>, other: &str, there: bool) {
        if let Some(path) = value.as_ref().filter(|_| !there) {
            let value = Some(format!("{:?}", shown_path(path)));
            self.fault(key, value, format!("needs {other} as well"));
        }
    }

    fn protect_listener(&mut self, key: &'static str, listen: SocketAddr, tokens: bool, tls: bool) {
        if listen.ip().to_canonical().is_loopback() || (tokens && tls) {
            return;
        }
        let section = key.split('.').next().unwrap_or(key);
        let missing = match (tokens, tls) {
            (true, _) => format!("{section}.tls_cert"),
            (_, true) => "access.tokens".to_owned(),
            _ => format!("access.tokens and {section}.tls_cert"),
        };
        let problem = format!(
            "other machines reach this address, so it needs {missing}; listen on 127.0.0.1, or say with \
             access.allow_insecure_listen = true (--allow-insecure-listen) that whoever reaches it may use it, and \
             read what others send"
        );
        self.fault(key, Some(listen.to_string()), problem);
    }

    fn fault(&mut self, key: &str, value: Option<String>, problem: String) {
        let origin = self.origin(key);
        self.faults.push(Fault { key: Some(key.to_owned()), value, problem, origin });
    }
}
