//! Tables that cannot keep the promises are not written to, and each fault is named with the statement that mends it.

use forebay::sink::{Connection, Sink, SinkState};

use super::sinks::{Rig, batch, report};
use super::support::servers::{Kind, on_each_server};
use super::{Class, outcome};

/// What somebody made of the tables, and what is said of it.
const FAULTS: &[(&str, &[&str])] = &[
    ("ALTER TABLE reports DROP PRIMARY KEY", &["(id, source, seq)", "none at all"]),
    (
        "ALTER TABLE reports DROP PRIMARY KEY, ADD PRIMARY KEY (id, source, seq, accepted_at)",
        &["exactly (id, source, seq)", "`PRIMARY` (id, source, seq, accepted_at)"],
    ),
    ("ALTER TABLE reports DROP PRIMARY KEY, ADD PRIMARY KEY (id(8), source, seq)", &["only the beginning"]),
    (
        "ALTER TABLE reports DROP PRIMARY KEY, MODIFY source SMALLINT UNSIGNED NULL, ADD UNIQUE KEY k (id, source, seq)",
        &["without NULL"],
    ),
    ("ALTER TABLE report_streams DROP PRIMARY KEY", &["`report_streams`", "(id)"]),
    ("ALTER TABLE reports ADD UNIQUE KEY one_peer (peer)", &["`one_peer` (peer)", "DROP INDEX"]),
    ("ALTER TABLE report_streams ADD UNIQUE KEY k (state)", &["`k` (state)"]),
    ("ALTER TABLE reports ENGINE=MyISAM", &["MyISAM", "ENGINE=InnoDB"]),
    ("ALTER TABLE report_streams ENGINE=MyISAM", &["`report_streams`", "MyISAM"]),
    ("ALTER TABLE report_nodes ENGINE=MEMORY", &["`report_nodes`", "MEMORY"]),
    (
        "ALTER TABLE reports MODIFY id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL",
        &["utf8mb4_general_ci", "`gate`", "ascii_bin"],
    ),
    ("ALTER TABLE report_streams MODIFY id VARCHAR(64) CHARACTER SET latin1 NOT NULL", &["latin1_swedish_ci"]),
    ("ALTER TABLE reports MODIFY id VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL", &["64 characters"]),
    ("ALTER TABLE reports MODIFY id BINARY(64) NOT NULL", &["binary(64)"]),
    ("ALTER TABLE reports MODIFY seq INT UNSIGNED NOT NULL", &["`seq` is int"]),
    ("ALTER TABLE reports MODIFY source TINYINT UNSIGNED NOT NULL", &["`source` is tinyint"]),
    ("ALTER TABLE reports MODIFY source SMALLINT NOT NULL", &["`source` is smallint"]),
    ("ALTER TABLE reports MODIFY time DECIMAL(17,3) NULL", &["decimal(17,3)"]),
    ("ALTER TABLE reports MODIFY time DECIMAL(12,6) NULL", &["decimal(12,6)"]),
    ("ALTER TABLE reports MODIFY time DOUBLE NULL", &["double"]),
    ("ALTER TABLE reports MODIFY time DECIMAL(17,6) NOT NULL", &["must take NULL"]),
    ("ALTER TABLE reports MODIFY code SMALLINT NOT NULL DEFAULT 0", &["`code` is smallint"]),
    ("ALTER TABLE reports MODIFY code INT UNSIGNED NOT NULL DEFAULT 0", &["`code` is int"]),
    ("ALTER TABLE reports MODIFY peer VARCHAR(15) NULL", &["`peer` is varchar(15)"]),
    ("ALTER TABLE reports MODIFY data VARCHAR(200) NULL", &["`data` is varchar(200)"]),
    ("ALTER TABLE reports MODIFY data MEDIUMTEXT CHARACTER SET latin1 NULL", &["latin1_swedish_ci"]),
    ("ALTER TABLE reports MODIFY accepted_at DATETIME NOT NULL", &["`accepted_at` is datetime"]),
    ("ALTER TABLE report_streams MODIFY reports TINYINT UNSIGNED NOT NULL", &["`reports` is tinyint"]),
    ("ALTER TABLE report_streams MODIFY state ENUM('open','done') NOT NULL DEFAULT 'open'", &["enum('open','done')"]),
    ("ALTER TABLE report_streams DROP COLUMN last_at", &["no column `last_at`", "ADD COLUMN"]),
    ("ALTER TABLE reports ADD COLUMN tenant INT NOT NULL", &["`tenant` is NOT NULL without a default"]),
    ("ALTER TABLE reports DROP COLUMN code, ADD COLUMN code INT AS (seq) STORED", &["must not make it up"]),
    (
        "CREATE TRIGGER touched BEFORE UPDATE ON reports FOR EACH ROW SET NEW.code = NEW.code + 1",
        &["trigger `touched`", "AFTER UPDATE"],
    ),
    ("ALTER TABLE report_nodes MODIFY nonce INT UNSIGNED NOT NULL", &["`report_nodes`.`nonce`"]),
];

/// Each fault blocks, and is over once the statement ran that the error itself names.
async fn tables_that_cannot_keep_the_promises_are_refused_with_the_statement_that_mends_them(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    for (alter, parts) in FAULTS {
        rig.make_tables().await;
        let sink = rig.sink();
        rig.server().run(&[alter]).await;
        let error = sink.connect().await.err().unwrap_or_else(|| panic!("{alter}: it is taken"));
        assert_eq!(error.class, Class::Operator, "{error}");
        assert!(parts.iter().all(|part| error.message.contains(part)), "{alter}: {error}");
        assert!(error.message.contains("but ") && !error.message.contains("faults"), "{alter}: one fault: {error}");
        let (_, mend) = error.message.rsplit_once(": ").expect("what mends it is last");
        let mend = mend.split(" (or ").next().expect("a part").split(", or make it").next().expect("a part").trim();
        rig.server().run(&[mend]).await;
        let mended = sink.connect().await.map(drop);
        assert_eq!(mended, Ok(()), "{alter}: {mend}");
        rig.server().run(&["DROP TABLE reports, report_streams, report_nodes"]).await;
    }
}
on_each_server!(tables_that_cannot_keep_the_promises_are_refused_with_the_statement_that_mends_them);

async fn tables_that_are_made_more_of_are_taken(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    for alter in [
        "ALTER TABLE reports DROP PRIMARY KEY, ADD PRIMARY KEY (source, seq, id)",
        "ALTER TABLE reports DROP PRIMARY KEY, ADD UNIQUE KEY k (id, source, seq), \
         ADD COLUMN n BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
        "ALTER TABLE reports ADD COLUMN tenant INT NULL, ADD COLUMN kind VARCHAR(9) NOT NULL DEFAULT 'x', ADD KEY (peer)",
        "ALTER TABLE reports ADD COLUMN n INT AS (seq + 1) STORED, ADD KEY (n)",
        "ALTER TABLE reports MODIFY id VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
         MODIFY source INT NOT NULL, MODIFY seq BIGINT NOT NULL, MODIFY time DECIMAL(30,9) NULL, \
         MODIFY code BIGINT NULL, MODIFY peer TEXT NULL, MODIFY data LONGTEXT CHARACTER SET utf8mb4 NULL",
        "ALTER TABLE reports MODIFY id VARBINARY(64) NOT NULL, MODIFY data LONGBLOB NULL",
        "ALTER TABLE report_streams MODIFY state VARCHAR(20) NOT NULL, MODIFY reports BIGINT NOT NULL",
        "CREATE TRIGGER copies AFTER INSERT ON reports FOR EACH ROW SET @last = NEW.seq",
        "ALTER TABLE reports PARTITION BY KEY (id) PARTITIONS 3",
    ] {
        rig.make_tables().await;
        rig.server().run(&[alter]).await;
        let mut writer = rig.writer();
        assert_eq!(
            writer.store(&[batch("a", vec![report(1, 1), report(2, 1)])]).await,
            [outcome(1, 1, None)],
            "{alter}"
        );
        assert_eq!(rig.health.status().state, SinkState::Up, "{alter}");
        rig.server().run(&["DROP TABLE reports, report_streams, report_nodes"]).await;
    }
}
on_each_server!(tables_that_are_made_more_of_are_taken);

async fn all_faults_are_said_at_once(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    rig.make_tables().await;
    let alter = "ALTER TABLE reports ENGINE=MyISAM, MODIFY code TINYINT NOT NULL, ADD UNIQUE KEY u (peer)";
    rig.server().run(&[alter, "ALTER TABLE report_streams DROP PRIMARY KEY"]).await;
    let said = rig.sink().connect().await.err().expect("it is refused").message;
    for part in ["4 faults", "(1) ", "(4) ", "MyISAM", "tinyint", "`u` (peer)", "`report_streams` has no unique key"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
on_each_server!(all_faults_are_said_at_once);

async fn a_table_of_somebodys_own_and_a_view_are_told_from_forebays(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    rig.server().run(&["CREATE TABLE reports (id INT PRIMARY KEY, title TEXT)"]).await;
    let said = rig.sink().connect().await.err().expect("it is refused");
    assert_eq!(said.class, Class::Operator);
    for part in ["`reports` is not Forebay's", "source, seq", "set sink.table"] {
        assert!(said.message.contains(part), "{part}: {said}");
    }
    rig.server().run(&["DROP TABLE reports", "CREATE VIEW reports AS SELECT 1 AS id, 2 AS source, 3 AS seq"]).await;
    let said = rig.sink().connect().await.err().expect("it is refused").message;
    assert!(said.contains("`reports` is a view") && said.contains("set sink.table"), "{said}");
}
on_each_server!(a_table_of_somebodys_own_and_a_view_are_told_from_forebays);

/// What version 0.1 made. Rows stay, and the columns that it lacks are added; or, where they may not be, named.
async fn tables_of_an_earlier_version_are_brought_up_to_this_one_or_the_statements_are_named(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    let made = |rig: &Rig| {
        let ddl = forebay::sink::ddl(&rig.settings.target, &rig.settings.table);
        let old = |text: &str| !text.trim_start().starts_with("digest ") && !text.trim_start().starts_with("settled ");
        ddl.lines().filter(|line| old(line)).collect::<Vec<_>>().join("\n")
    };
    let ddl = made(&rig);
    let old: Vec<&str> = ddl.split(';').take(2).collect();
    rig.server().run(&old).await;
    rig.server().run(&["INSERT INTO reports (id, source, seq, accepted_at) VALUES ('a', 0, 1, NOW())"]).await;
    rig.settings.create_tables = false;
    let said = rig.sink().connect().await.err().expect("it is refused").message;
    for part in [
        "ALTER TABLE `reports` ADD COLUMN `digest` BINARY(16) NULL",
        "ALTER TABLE `report_streams` ADD COLUMN `settled` VARBINARY(240) NULL",
        "CREATE TABLE IF NOT EXISTS `report_nodes`",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    rig.settings.create_tables = true;
    assert_eq!(rig.writer().store(&[batch("a", vec![report(1, 1), report(2, 2)])]).await[0].inserted, 1);
}
on_each_server!(tables_of_an_earlier_version_are_brought_up_to_this_one_or_the_statements_are_named);

/// Acknowledged reports wait, and are stored once the table is put right, without a restart; also by a session that was
/// open before.
async fn a_table_that_is_put_right_is_written_to_again(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    rig.make_tables().await;
    rig.server().run(&["ALTER TABLE reports DROP PRIMARY KEY"]).await;
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1), report(2, 1)])]).await });
    let blocked = rig.health.until(|status| status.state == SinkState::Blocked).await;
    assert!(blocked.last_error.is_some_and(|said| said.contains("ADD PRIMARY KEY (id, source, seq)")));
    rig.server().run(&["ALTER TABLE reports ADD PRIMARY KEY (id, source, seq)"]).await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 1, None)]);
    assert_eq!(rig.rows("a").await.len(), 1);
    let mut connection = rig.sink().connect().await.expect("it is well");
    rig.server().run(&["ALTER TABLE reports ENGINE=MyISAM"]).await;
    assert_eq!(connection.probe().await.expect_err("it is looked at again").class, Class::Operator);
}
on_each_server!(a_table_that_is_put_right_is_written_to_again);

/// What somebody made of an SQLite file's tables, by statements that make them.
#[tokio::test]
async fn a_file_whose_tables_cannot_keep_the_promises_is_refused() {
    let columns = "time, code INTEGER, peer TEXT, data TEXT, accepted_at TEXT, digest BLOB";
    let key = "PRIMARY KEY (id, source, seq)";
    for (ddl, part) in [
        (format!("id TEXT NOT NULL, source INTEGER, seq INTEGER, {columns}"), "exactly (id, source, seq)"),
        (format!("id TEXT, source INTEGER, seq INTEGER, {columns}, PRIMARY KEY (id, source, seq, time)"), "exactly"),
        (format!("id TEXT COLLATE NOCASE, source INTEGER, seq INTEGER, {columns}, {key}"), "`Gate` from `gate`"),
        (format!("id INTEGER, source INTEGER, seq INTEGER, {columns}, {key}"), "reports.id is INTEGER"),
        (format!("id NUMERIC, source INTEGER, seq INTEGER, {columns}, {key}"), "007"),
        (format!("id TEXT, source INTEGER, seq INTEGER, {}, {key}", columns.replace("data TEXT", "data REAL")), "data"),
        (format!("id TEXT, source INTEGER, seq INTEGER, {columns}, {key}, UNIQUE (peer)"), "another unique key"),
        (format!("id TEXT, source INTEGER, seq INTEGER, tenant INT NOT NULL, {columns}, {key}"), "reports.tenant"),
        (
            format!("id TEXT, source INTEGER, seq INTEGER, {}, {key}", columns.replace("peer TEXT, ", "")),
            "no column peer",
        ),
        ("id INTEGER PRIMARY KEY, title TEXT".to_owned(), "not Forebay's"),
    ] {
        let rig = Rig::sqlite().await;
        std::fs::create_dir_all(rig.path().parent().expect("a folder")).expect("it can be made");
        rig.file().execute_batch(&format!("CREATE TABLE reports ({ddl})")).expect("the DDL is right");
        let error = rig.sink().connect().await.err().unwrap_or_else(|| panic!("{ddl}: it is taken"));
        assert_eq!(error.class, Class::Operator, "{ddl}: {error}");
        assert!(error.message.contains(part), "{ddl}: {error}");
    }
    let rig = Rig::sqlite().await;
    rig.sink().connect().await.expect("tables are made");
    rig.file().execute_batch("CREATE UNIQUE INDEX u ON reports (peer) WHERE code = 1").expect("the DDL is right");
    let said = rig.sink().connect().await.err().expect("it is refused").message;
    assert!(said.contains("DROP INDEX \"u\""), "{said}");
    rig.file()
        .execute_batch("DROP INDEX u; CREATE INDEX i ON reports (peer); ALTER TABLE reports ADD COLUMN x")
        .expect("");
    assert_eq!(rig.writer().store(&[batch("a", vec![report(1, 1)])]).await, [outcome(1, 0, None)]);
}

/// What version 0.1 made.
#[tokio::test]
async fn a_file_of_an_earlier_version_is_brought_up_to_this_one() {
    let rig = Rig::sqlite().await;
    rig.sink().connect().await.expect("tables are made");
    let old = "ALTER TABLE reports DROP COLUMN digest; ALTER TABLE report_streams DROP COLUMN settled; \
               DROP TABLE report_nodes; INSERT INTO reports (id, source, seq, accepted_at) VALUES ('a', 0, 1, '')";
    rig.file().execute_batch(old).expect("the statements are right");
    assert_eq!(rig.writer().store(&[batch("a", vec![report(2, 2)])]).await, [outcome(1, 0, None)]);
    assert_eq!(rig.rows("a").await.len(), 2);
}
