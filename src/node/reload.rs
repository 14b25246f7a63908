//! Settings and files that change while the node runs: all that SIGHUP names, or certificates that were put in place
//! of the old ones. All or nothing.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};
use tracing::level_filters::LevelFilter;

use super::files::{Files, Guard};
use super::process;
use crate::config::{self, Settings};
use crate::metrics::Metrics;

/// How often the files of certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

/// Where other settings come from, and who minds the log.
pub struct Reload {
    /// Reads the settings anew, from where they came from; the error has every fault.
    pub settings: Box<dyn Fn() -> anyhow::Result<Settings> + Send>,
    /// Changes the level of the log.
    pub level: Box<dyn Fn(LevelFilter) + Send>,
}

/// Changes what can change.
pub(super) struct Reloader {
    pub(super) reload: Reload,
    pub(super) hangup: Signal,
    pub(super) settings: Settings,
    pub(super) guard: Guard,
    pub(super) ingest: Box<dyn Fn(&config::Ingest) + Send>,
    pub(super) admin: Box<dyn Fn(&config::Admin) + Send>,
    pub(super) metrics: Arc<Metrics>,
}

impl Reloader {
    /// Waits for SIGHUP and for other certificates. Never ends.
    pub(super) async fn run(mut self) -> Infallible {
        let mut ticks = interval(CERTIFICATES_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.certificates();
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    match self.take_all() {
                        Ok(()) => {
                            seen = self.certificates();
                            tracing::info!("settings, tokens and certificates were read anew");
                        }
                        // Other certificates that are there all the same are still to be seen.
                        Err(error) => tracing::error!("nothing was changed by SIGHUP: {error:#}"),
                    }
                }
                _ = ticks.tick() => {
                    let now = self.certificates();
                    if now != seen {
                        seen = now;
                        // Tokens wait for SIGHUP: their file may be half written, and must not keep a certificate out.
                        match Files::certificates(&self.settings) {
                            Ok(files) => {
                                self.guard.replace(files, &self.metrics);
                                tracing::info!("certificates were read anew, as their files changed");
                            }
                            Err(error) => tracing::error!("the old certificates stay: {error}"),
                        }
                    }
                }
            }
        }
    }

    fn take_all(&mut self) -> anyhow::Result<()> {
        let settings = (self.reload.settings)()?;
        let fixed = fixed(&self.settings, &settings);
        if !fixed.is_empty() {
            anyhow::bail!("these want a restart: {}", fixed.join(", "));
        }
        let files = Files::read(&settings)?;
        // Nothing fails from here on.
        self.guard.replace(files, &self.metrics);
        (self.reload.level)(settings.log.level);
        (self.ingest)(&settings.ingest);
        (self.admin)(&settings.admin);
        process::warn_of_few(&settings);
        self.settings = settings;
        Ok(())
    }

    /// When the files of certificates were written.
    fn certificates(&self) -> Vec<Option<SystemTime>> {
        let Settings { ingest, admin, .. } = &self.settings;
        let files = [&ingest.tls_cert, &ingest.tls_key, &admin.tls_cert, &admin.tls_key];
        let written = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
        files.into_iter().flatten().map(written).collect()
    }
}

/// What of the new settings cannot change while the node runs, as it is shown.
fn fixed(old: &Settings, new: &Settings) -> Vec<String> {
    let mut but = new.clone();
    but.log.level = old.log.level;
    but.admin.max_connections = old.admin.max_connections;
    but.ingest = config::Ingest {
        listen: new.ingest.listen,
        max_request_bytes: new.ingest.max_request_bytes,
        max_queued_bytes: new.ingest.max_queued_bytes,
        max_reply_bytes: new.ingest.max_reply_bytes,
        max_waiting_dones: new.ingest.max_waiting_dones,
        max_ids: new.ingest.max_ids,
        ..old.ingest.clone()
    };
    // Files may be others, but not come or go: connections that are open would be of another kind.
    for (file, old, new) in [
        (&mut but.access.tokens, &old.access.tokens, &new.access.tokens),
        (&mut but.ingest.tls_cert, &old.ingest.tls_cert, &new.ingest.tls_cert),
        (&mut but.ingest.tls_key, &old.ingest.tls_key, &new.ingest.tls_key),
        (&mut but.admin.tls_cert, &old.admin.tls_cert, &new.admin.tls_cert),
        (&mut but.admin.tls_key, &old.admin.tls_key, &new.admin.tls_key),
    ] {
        *file = if old.is_some() == new.is_some() { old.clone() } else { new.clone() };
    }
    if but == *old {
        return Vec::new();
    }
    let (old, new) = (old.to_string(), but.to_string());
    let mut section = "";
    let mut changed = Vec::new();
    for (old, new) in old.lines().zip(new.lines()) {
        if let Some(name) = new.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            section = name;
        } else if old != new {
            changed.push(format!("{section}.{new}").trim_start_matches('.').to_owned());
        }
    }
    // Passwords are not shown, so one that changed makes no line differ.
    if changed.is_empty() { vec!["the password of sink.url".to_owned()] } else { changed }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::process::Command;

    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;
    use tokio::task::yield_now;
    use tokio::time::{advance, pause, sleep, timeout};

    use super::*;
    use crate::config::SinkTarget;

    /// Puts a certificate that is valid until the end of `year` in place of the one before.
    fn write_certificate(folder: &Path, year: i32) {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        for (name, pem) in [("cert", certificate.pem()), ("key", key.serialize_pem())] {
            std::fs::write(folder.join(name), pem).expect("a file");
            // Two writes may fall into one tick of the file system's clock.
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(year.unsigned_abs().into());
            let file = File::options().write(true).open(folder.join(name)).expect("just written");
            file.set_modified(written).expect("a time");
        }
    }

    /// Somebody renews the certificate, breaks a setting, and sends SIGHUP: the refusal once hid the new certificate
    /// from the look a minute later.
    #[tokio::test]
    async fn settings_that_are_refused_hide_no_certificate_that_was_renewed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Settings::default();
        settings.ingest.tls_cert = Some(folder.path().join("cert"));
        settings.ingest.tls_key = Some(folder.path().join("key"));
        write_certificate(folder.path(), 2031);
        let guard = Guard::new(Files::read(&settings).expect("both are there"));
        let tls = guard.ingest.clone().expect("it has a certificate");
        let old = tls.not_after();
        let (asked, mut heard) = mpsc::unbounded_channel();
        let faulty = move || {
            asked.send(()).expect("the test listens");
            anyhow::bail!("flush.batch = \"many\"")
        };
        let reload = Reload { settings: Box::new(faulty), level: Box::new(|_| {}) };
        // Not SIGHUP, which other tests in this process may mind.
        let hangup = signal(SignalKind::user_defined2()).expect("a signal");
        let (ingest, admin, metrics) = (Box::new(|_: &_| {}), Box::new(|_: &_| {}), Arc::default());
        let reloader = Reloader { reload, hangup, settings, guard, ingest, admin, metrics };
        let running = tokio::spawn(reloader.run());
        let mut refused = async || {
            let kill = format!("kill -USR2 {}", std::process::id());
            assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success());
            heard.recv().await.expect("it asks for the settings");
        };
        refused().await;
        // The first look is due at the start; timers fire in their order.
        sleep(Duration::from_millis(10)).await;
        yield_now().await;
        write_certificate(folder.path(), 2032);
        refused().await;
        assert_eq!(tls.not_after(), old, "all or nothing");
        pause();
        advance(CERTIFICATES_EVERY).await;
        let renewed = async {
            while tls.not_after() == old {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(CERTIFICATES_EVERY * 3, renewed).await.expect("the next look sees it");
        running.abort();
    }

    #[test]
    fn limits_files_and_level_may_change_and_what_else_changed_is_named() {
        let old = Settings::default();
        let mut new = old.clone();
        new.ingest.max_connections = 7;
        new.ingest.idle_timeout = Duration::from_secs(1);
        new.admin.max_connections = 7;
        new.log.level = LevelFilter::DEBUG;
        assert_eq!(fixed(&old, &new), Vec::<String>::new());
        new.node_id = 7;
        new.journal.lanes = 7;
        new.ingest.max_request_bytes = 1 << 20;
        new.access.tokens = Some("tokens.toml".into());
        assert_eq!(
            fixed(&old, &new),
            [
                "node_id = 7",
                "ingest.max_request_bytes = \"1MiB\"",
                "journal.lanes = 7",
                "access.tokens = \"tokens.toml\""
            ]
        );
    }

    #[test]
    fn other_files_may_take_the_place_of_files() {
        let mut old = Settings::default();
        old.access.tokens = Some("a".into());
        let mut new = old.clone();
        new.access.tokens = Some("b".into());
        assert_eq!(fixed(&old, &new), Vec::<String>::new());
    }

    #[test]
    fn a_password_that_changed_is_not_shown() {
        let mut old = Settings::default();
        old.sink.target = SinkTarget::new("mysql://u:a@h/d").expect("a URL");
        let mut new = old.clone();
        new.sink.target = SinkTarget::new("mysql://u:b@h/d").expect("a URL");
        assert_eq!(fixed(&old, &new), ["the password of sink.url"]);
    }
}
