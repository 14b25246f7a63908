//! What is promised about configurations.

use std::path::PathBuf;

use proptest::prelude::*;

use super::{Flags, Settings, SinkTarget, Sources, TableName, values};

/// As the documentation shows it, and the keys that it leaves out.
const EXAMPLE: &str = r#"
node_id = 1                        # 1..=65535, unique among nodes that share a sink
on_disconnect = "mark"             # or "ignore"
[ingest]
listen = "127.0.0.1:7001"
max_report_bytes = "64KiB"         # up to 96KiB
max_connections = 10000
max_in_flight = 1024
handshake_timeout = "10s"
idle_timeout = "5m"
allowed_origins = []               # browser Origins that may connect; none unless listed, same-origin always
[journal]
dir = "forebay-data/journal"
lanes = 256
max_bytes = "8GiB"
max_backlog_per_id = 1000000       # reports
min_free_disk = "256MiB"
[flush]
batch = 10
tick = "10s"
catch_up_batch = 1000
[sink]
url = "sqlite:forebay-data/reports.db"   # or "mysql://user:password@host:3306/database"
table = "reports"
connections = 4
max_rows = 1000
max_bytes = "1MiB"
timeout = "30s"
create_tables = true
[admin]
listen = "127.0.0.1:7002"
[shutdown]
drain = "5s"
[log]
level = "info"
format = "text"                    # or "json"
[trace]
otlp_endpoint = ""
sample_one_in = 1
"#;

fn sources(file: &str, variables: &[(&str, &str)]) -> Sources {
    Sources {
        file: Some(("forebay.toml".to_owned(), file.to_owned())),
        variables: variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        flags: Flags::default(),
    }
}

fn faults(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let faults = Settings::load(&sources(file, variables)).expect_err(file);
    faults.0.iter().map(ToString::to_string).collect()
}

#[test]
fn the_documented_file_says_the_defaults() {
    assert_eq!(Settings::load(&sources(EXAMPLE, &[])), Ok(Settings::default()));
    assert_eq!(Settings::load(&Sources::default()), Ok(Settings::default()));
}

#[test]
fn settings_are_shown_as_a_file_that_says_the_same() {
    let file = "admin.allowed_hosts = [\"a.example\"]\nsink.url = \"mysql://u@h/d\"\nsink.tls_ca = \"ca.pem\"\n\
                ingest.allowed_origins = [\"https://a.example:8443\", \"http://[::1]\"]\nflush.tick = \"1m 500ms\"\n\
                journal.max_bytes = 1234567\ntrace.otlp_endpoint = \"https://c.example/otlp\"\n\
                trace.otlp_ca = \"o.pem\"\njournal.dir = \"a \\\"b\\\"\\\\c\"\nlog.level = \"off\"\nlog.format = \"json\"";
    let settings = Settings::load(&sources(file, &[])).expect("valid");
    assert_eq!(Settings::load(&sources(&settings.to_string(), &[])), Ok(settings));
}

#[test]
fn variables_win_over_the_file_and_flags_over_both() {
    let variables = [
        ("FOREBAY_NODE_ID", "9"),
        ("FOREBAY_INGEST__LISTEN", "127.0.0.1:1"),
        ("FOREBAY_INGEST__ALLOWED_ORIGINS", "https://a.example, http://b.example:81"),
        ("FOREBAY_SINK__CREATE_TABLES", "false"),
        ("FOREBAY_SINK__MAX_BYTES", "4096"),
        ("FOREBAY_SINK__SETTLED_MARKS", "false"),
        ("FOREBAY_FLUSH__TICK", "500ms"),
        ("PATH", "/bin"),
    ];
    let mut all = sources("node_id = 8\n[flush]\ntick = \"1s\"\nbatch = 20", &variables);
    all.flags.listen = Some("0.0.0.0:2".to_owned());
    all.flags.allow_insecure_listen = true;
    let settings = Settings::load(&all).expect("valid");
    assert_eq!((settings.node_id, settings.flush.batch, settings.flush.tick.as_millis()), (9, 20, 500));
    assert_eq!(settings.ingest.listen.to_string(), "0.0.0.0:2");
    assert_eq!(settings.ingest.allowed_origins, ["https://a.example", "http://b.example:81"]);
    let sink = &settings.sink;
    assert_eq!((sink.create_tables, sink.settled_marks, sink.max_bytes), (false, false, 4096));
}

#[test]
fn the_data_folder_moves_the_journal_and_only_the_default_sink() {
    let mut all = sources("journal.dir = \"elsewhere\"", &[]);
    all.flags.data_dir = Some("/d".to_owned());
    let settings = Settings::load(&all).expect("valid");
    assert_eq!(settings.journal.dir, PathBuf::from("/d/journal"));
    assert_eq!(settings.sink.target, SinkTarget::Sqlite(PathBuf::from("/d/reports.db")));
    all.variables = vec![("FOREBAY_SINK__URL".to_owned(), "sqlite:x.db".to_owned())];
    assert_eq!(Settings::load(&all).expect("valid").sink.target, SinkTarget::Sqlite(PathBuf::from("x.db")));
    all.flags.data_dir = Some(String::new());
    assert!(Settings::load(&all).is_err());
}

#[test]
fn every_fault_is_reported_at_once_with_key_value_place_and_what_is_allowed() {
    let file = "node_id = 0\nbatch = 5\n[ingest]\nmax_report_bytes = \"1GiB\"\nlisten = \"localhost:1\"\n[flsh]\ntick = 1\n\
                [flush]\ntick = 10\nbacth = 1\nbatch = \"10\"";
    let variables = [("FOREBAY_SINK_URL", "x"), ("FOREBAY_SINK__CREATE_TABLES", "yes"), ("FOREBAY_NONSENSE", "x")];
    let mut found = faults(file, &variables);
    found.sort();
    let mut expected = [
        "node_id = 0 (forebay.toml, line 1): must be an integer from 1 to 65535",
        "batch (forebay.toml, line 2): there is no such key; did you mean flush.batch?",
        "ingest.max_report_bytes = \"1GiB\" (forebay.toml, line 4): must be a size from 1 to 96KiB, such as \"64KiB\" or a \
         number of bytes",
        "ingest.listen = \"localhost:1\" (forebay.toml, line 5): must be an IP address and a port, such as 127.0.0.1:7001 \
         or [::]:7001",
        "flsh (forebay.toml, line 6): there is no such section; did you mean flush?",
        "flush.tick = 10 (forebay.toml, line 9): must be a duration from 1ms to 1year, such as \"10s\" or \"500ms\"",
        "flush.bacth (forebay.toml, line 10): there is no such key; did you mean flush.batch?",
        "flush.batch = \"10\" (forebay.toml, line 11): must be an integer from 1 to 1000000000",
        "FOREBAY_SINK_URL (FOREBAY_SINK_URL): there is no such setting; did you mean FOREBAY_SINK__URL?",
        "FOREBAY_NONSENSE (FOREBAY_NONSENSE): there is no such setting",
        "sink.create_tables = \"yes\" (FOREBAY_SINK__CREATE_TABLES): must be one of true, false",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn what_does_not_fit_together_is_a_fault() {
    let found = faults("[admin]\nlisten = \"0.0.0.0:7001\"\n[access]\nallow_insecure_listen = true", &[]);
    assert_eq!(
        found,
        [
            "admin.listen = 0.0.0.0:7001 (forebay.toml, line 2): must differ from ingest.listen, which is 127.0.0.1:7001 \
             (default)",
        ]
    );
    assert_eq!(faults("ingest.max_queued_bytes = 1000", &[]).len(), 1);
    assert_eq!(faults("ingest.max_request_bytes = \"1KiB\"", &[]).len(), 1);
    for fits in
        ["ingest.listen = \"127.0.0.2:7002\"", "ingest.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\""]
    {
        assert!(Settings::load(&sources(fits, &[])).is_ok(), "{fits}");
    }
}

#[test]
fn a_listener_that_others_reach_wants_tokens_and_tls() {
    let others = "ingest.listen = \"0.0.0.0:7001\"\n";
    let tls = "ingest.tls_cert = \"c.pem\"\ningest.tls_key = \"k.pem\"\n";
    let tokens = "access.tokens = \"t.toml\"\n";
    for (file, missing) in [
        (others.to_owned(), "needs access.tokens and ingest.tls_cert;"),
        ([others, tls].concat(), "needs access.tokens;"),
        ([others, tokens].concat(), "needs ingest.tls_cert;"),
    ] {
        let found = faults(&file, &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        let start = "ingest.listen = 0.0.0.0:7001 (forebay.toml, line 1): ";
        assert!(found[0].starts_with(start) && found[0].contains(missing), "{found:?}");
    }
    for fits in [[others, tls, tokens].concat(), [others, "access.allow_insecure_listen = true"].concat()] {
        assert!(Settings::load(&sources(&fits, &[])).is_ok(), "{fits}");
    }
}

#[test]
fn certificates_go_with_their_keys() {
    for (file, fault) in [
        (
            "admin.tls_cert = \"c.pem\"",
            "admin.tls_cert = \"c.pem\" (forebay.toml, line 1): needs admin.tls_key as well",
        ),
        (
            "ingest.tls_key = \"k.pem\"",
            "ingest.tls_key = \"k.pem\" (forebay.toml, line 1): needs ingest.tls_cert as well",
        ),
        (
            "sink.tls_ca = \"a.pem\"",
            "sink.tls_ca = \"a.pem\" (forebay.toml, line 1): needs sink.url = \"mysql://…\" as well",
        ),
    ] {
        assert_eq!(faults(file, &[]), [fault]);
    }
}

#[test]
fn a_file_that_is_not_toml_is_reported_without_its_text() {
    let found =
        faults("node_id = 1\n[sink]\nurl = \"mysql://u:hunter2@h/d\ntable = \"x\"", &[("FOREBAY_NODE_ID", "0")]);
    assert!(found[0].starts_with("forebay.toml, line 3: not valid TOML: "), "{found:?}");
    assert!(found.iter().any(|fault| fault.starts_with("node_id = \"0\"")), "{found:?}");
    assert!(!found.iter().any(|fault| fault.contains("hunter2")), "{found:?}");
}

#[test]
fn no_password_is_ever_shown() {
    for url in [
        "mysql://user:hunter2@host",
        "mysql://user:hunter2@host:x/db",
        "mysql://user:hunter2@host/db?a=hunter2",
        "mysql://user:hunter2",
        "mysql:/user:hunter2@host/db",
        "mysql:user:hunter2@host",
        "mysql:user:hunter2",
        "mysql://user:a@hunter2@host/db",
        "mysql://user:a/hunter2@host/db",
        "mysql://:hunter2@host/db",
        "mysql://user:hunter2 @host/db",
        "postgres://user:hunter2@host/db",
        "mysql://user:%hunter2@host/db",
        "user:hunter2@host/db",
        "mysql://user:1/hunter2",
        "mysql://user@hunter2@host/db",
        "mysql://user/hunter2@host/db",
        "mysql://user@host/db?password=hunter2",
        "MYSQL://user:hunter2@host/db",
        "mysqlhunter2",
    ] {
        for fault in faults("", &[("FOREBAY_SINK__URL", url), ("FOREBAY_SINK__PASSWORD", "hunter2")]) {
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        for fault in faults(&format!("sink.table = \"{url}\"\nsink.url = [\"{url}\"]\nsink.pass = \"hunter2\""), &[]) {
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }
    let file = "sink.url = \"mysql://user:hunter2@host:3306/db\"";
    let settings = Settings::load(&sources(file, &[])).expect("valid");
    assert!(matches!(&settings.sink.target, SinkTarget::Mysql(url) if url.contains("hunter2")));
    assert_eq!(settings.sink.target.to_string(), "mysql://user:***@host:3306/db");
    assert!(!format!("{settings:?}{settings}").contains("hunter2"));
}

#[test]
fn sinks_are_held_to_their_form() {
    for good in [
        "sqlite:a.db",
        "sqlite:/a/b.db",
        "mysql://u@h/d",
        "mysql://u:@h/d",
        "mysql://u:p%40%2F:x@[::1]:3306/d",
        "mysql://u:p@h.example/d-1",
        "mysql://u:p@localhost/d?socket=/run/mysqld/mysqld.sock",
    ] {
        assert!(SinkTarget::new(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a.db",
        "sqlite:",
        "sqlite::memory:",
        "sqlite:///a.db",
        "mysql:",
        "mysql://",
        "mysql://h/d",
        "mysql://u@h",
        "mysql://u@h/",
        "mysql://u@/d",
        "mysql://u@h:0/d",
        "mysql://u@h:70000/d",
        "mysql://u@h:/d",
        "mysql://u@h/d/e",
        "mysql://u@h/d?x=1",
        "mysql://u@h/d#x",
        "mysql://u:p@q@h/d",
        "mysql://u:%4@h/d",
        "mysql://u:%é@h/d",
        "mysql://u@[::g]/d",
        "mysql://u@::1/d",
    ] {
        assert!(SinkTarget::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn origins_are_spelled_as_browsers_send_them() {
    for good in
        ["https://a.example", "http://localhost:3000", "https://[::1]:8443", "chrome-extension://abc", "http://a:443"]
    {
        assert!(values::is_origin(good), "{good}");
    }
    for bad in [
        "",
        "*",
        "null",
        "a.example",
        "https://",
        "https://a/",
        "https://A.example",
        "HTTPS://a",
        "https://a:443",
        "http://a:80",
        "http://a:x",
        "http://a:",
        "http://u@a",
        "https://*.a",
        "http://a b",
        "://a",
        "http://é",
    ] {
        assert!(!values::is_origin(bad), "{bad}");
    }
}

#[test]
fn a_collector_is_a_url_without_credentials() {
    let load = |url: &str| Settings::load(&sources("", &[("FOREBAY_TRACE__OTLP_ENDPOINT", url)]));
    for (url, kept) in [
        ("", None),
        ("http://127.0.0.1:4318", Some("http://127.0.0.1:4318")),
        ("http://[::1]:4318/", Some("http://[::1]:4318")),
        ("https://collector.example/otlp/", Some("https://collector.example/otlp")),
    ] {
        assert_eq!(load(url).expect(url).trace.otlp_endpoint.as_deref(), kept, "{url}");
    }
    for bad in [
        "127.0.0.1:4318",
        "grpc://h:4317",
        "http://",
        "http://:4318",
        "http://h:0",
        "http://h:x",
        "http://u:hunter2@h",
        "https://h?key=hunter2",
        "http://h/a b",
        "http://h/é",
        "http://h/v1/traces",
    ] {
        let found = faults("", &[("FOREBAY_TRACE__OTLP_ENDPOINT", bad)]);
        assert!(found.len() == 1 && found[0].starts_with("trace.otlp_endpoint = "), "{bad}: {found:?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }
    assert_eq!(faults("[trace]\nsample_one_in = 0\nmax_queued_spans = 0\notlp_endpoint = 1", &[]).len(), 3);
    let fault = "trace.otlp_ca = \"a.pem\" (forebay.toml, line 1): needs trace.otlp_endpoint = \"https://…\" as well";
    assert_eq!(faults("trace.otlp_ca = \"a.pem\"\ntrace.otlp_endpoint = \"http://h\"", &[]), [fault]);
}

#[test]
fn tables_have_plain_names() {
    for (name, streams) in [("reports", "report_streams"), ("_x1", "_x1_streams")] {
        assert_eq!(TableName::new(name).expect("allowed").streams(), streams);
    }
    for bad in ["", "1a", "a-b", "a.b", "a`", "é", "sqlite_x", &"x".repeat(49)] {
        assert!(TableName::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn sizes_and_durations_are_read_or_refused() {
    for (text, bytes) in [("1", 1), ("64KiB", 65_536), ("1.5 MiB", 1_572_864), ("2kB", 2_000)] {
        assert_eq!(values::size(text), Some(bytes), "{text}");
    }
    for bad in ["", "KiB", "-1", "1 parsec", "1e3", "99999999999TiB", "1.2.3KiB"] {
        assert_eq!(values::size(bad), None, "{bad}");
    }
    for bad in ["", "10", "-1s", "s", "10 parsecs"] {
        assert_eq!(values::duration(bad), None, "{bad}");
    }
}

#[test]
fn variables_of_a_kubernetes_service_named_forebay_are_no_settings() {
    let links = [
        "FOREBAY_SERVICE_HOST",
        "FOREBAY_SERVICE_PORT",
        "FOREBAY_SERVICE_PORT_HTTP",
        "FOREBAY_PORT",
        "FOREBAY_PORT_7001_TCP",
        "FOREBAY_PORT_7001_TCP_ADDR",
        "FOREBAY_ADMIN_SERVICE_HOST",
        "FOREBAY_ADMIN_PORT",
        "FOREBAY_ADMIN_PORT_7002_TCP_PROTO",
    ];
    assert!(Settings::load(&sources("", &links.map(|name| (name, "x")))).is_ok());
    for not in ["FOREBAY_REPORT", "FOREBAY_PORTS", "FOREBAY_INGEST__LISTENPORT"] {
        assert_eq!(faults("", &[(not, "x")]).len(), 1, "{not}");
    }
}

proptest! {
    #[test]
    fn sizes_and_durations_are_shown_without_loss(bytes in 0..u64::MAX, shift in 0..64_u32, ms in 0..86_400_000_u64) {
        prop_assert_eq!(values::size(&values::show_size(bytes >> shift << shift)), Some(bytes >> shift << shift));
        let duration = std::time::Duration::from_millis(ms);
        prop_assert_eq!(values::duration(&values::show_duration(duration)), Some(duration));
    }

    #[test]
    fn no_url_makes_it_panic(url in "(mysql|sqlite)?:?/{0,2}[a-z:@/?%\\[\\]é]{0,20}") {
        let _ = SinkTarget::new(&url).map(|target| target.to_string());
    }
}
