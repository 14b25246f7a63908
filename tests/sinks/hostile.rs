//! Servers that answer what no server should: an error of the sink each time, never a panic that ends anything else.

use std::net::Ipv4Addr;
use std::time::Duration;

use forebay::config::SinkTarget;
use forebay::report::Marker;
use forebay::sink::{AnySink, Connection, Sink, SinkState, StoreError, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::sinks::{Rig, batch, marker, report, settings};
use super::support::servers::{Kind, Server, on_each_server};
use super::{Class, outcome};

/// Long enough for a server of this machine, short enough for one that never says what it announced.
const PATIENCE: Duration = Duration::from_millis(250);

fn sink_at(port: u16) -> AnySink {
    let target = SinkTarget::Mysql(format!("mysql://root:secret@127.0.0.1:{port}/forebay"));
    open(&forebay::config::Sink { timeout: PATIENCE, ..settings(target) }).expect("the URL is well formed")
}

/// Opens a connection and uses it. That this returns at all is the promise.
async fn use_it(sink: &AnySink) -> Result<(), StoreError> {
    let mut connection = sink.connect().await?;
    connection.probe().await?;
    connection.store(&[batch("a", vec![report(1, 1), marker(2, Marker::Done)])]).await.map(drop)
}

/// A packet with this number.
fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short packet").to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

/// A greeting with so many bytes of scramble, of a server with this version and plugin.
fn greeting(version: &[u8], scramble: &[u8], plugin: &[u8]) -> Vec<u8> {
    let (first, rest) = scramble.split_at(scramble.len().min(8));
    let length = u8::try_from(scramble.len() + 1).unwrap_or(u8::MAX);
    let capabilities = 0x00ff_f7ff_u32.to_le_bytes();
    let mut payload = [&[10], version, &[0], &[1, 0, 0, 0], first].concat();
    payload.resize(payload.len() + 8 - first.len(), 0);
    payload.push(0);
    payload.extend(
        [&capabilities[..2], &[45, 2, 0], &capabilities[2..], &[length], &[0; 10], rest, &[0], plugin].concat(),
    );
    payload.push(0);
    payload
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

fn sound() -> Vec<u8> {
    greeting(b"8.4.0", b"abcdefghijklmnopqrst", b"mysql_native_password")
}

/// What a server says at each turn: to the connection, and to each packet of the client; the last for ever.
type Script = Vec<Vec<u8>>;

fn scripts() -> Vec<(String, Script)> {
    let nonce: &[u8] = b"abcdefghijklmnopqrst";
    let sha2 = || packet(0, &greeting(b"8.4.0", nonce, b"caching_sha2_password"));
    let native = || packet(0, &sound());
    let mut scripts: Vec<(String, Script)> = Vec::new();
    let mut add = |name: &str, script: Script| scripts.push((name.to_owned(), script));
    for (name, payload) in [
        ("an empty greeting", vec![]),
        ("one byte", vec![10]),
        ("protocol 9", vec![9, b'5', 0]),
        ("no end of the version", vec![10; 300]),
        ("a version that is no number", greeting(b"eight", nonce, b"mysql_native_password")),
        ("a version of huge numbers", greeting(b"99999999999.8.7", nonce, b"mysql_native_password")),
        ("a version that is no text", greeting(&[0xff, 0xfe], nonce, b"mysql_native_password")),
        ("no scramble", greeting(b"8.4.0", b"", b"mysql_native_password")),
        ("a short scramble", greeting(b"8.4.0", b"abc", b"caching_sha2_password")),
        ("a plugin that nobody knows", greeting(b"8.4.0", nonce, b"dialog\x1b[2J")),
        ("a plugin that is no text", greeting(b"8.4.0", nonce, &[0xc0, 0xff])),
        ("an error before the greeting", b"\xff\x10\x04Too many connections".to_vec()),
        ("an error without a text", vec![0xff]),
        ("an error with half a number", vec![0xff, 1]),
    ] {
        add(name, vec![packet(0, &payload), packet(2, OK)]);
    }
    add("a packet of another number", vec![packet(7, &sound()), packet(99, OK)]);
    add("a length of 16 MiB and no more", vec![vec![0xff, 0xff, 0xff, 0, 10]]);
    for (name, payload) in [
        ("nothing", vec![]),
        ("one byte of each kind", vec![0xfe]),
        ("a switch to no plugin", vec![0xfe, 0]),
        ("a switch to sha2 without a scramble", [b"\xfecaching_sha2_password\0".as_slice(), &[0]].concat()),
        ("a switch to ed25519 without a scramble", b"\xfeclient_ed25519\0".to_vec()),
        ("a switch to parsec without a scramble", b"\xfeparsec\0".to_vec()),
        ("a switch to a plugin that nobody knows", [b"\xfedialog\0".as_slice(), nonce, &[0]].concat()),
        ("a switch to a password in the clear", b"\xfemysql_clear_password\0".to_vec()),
        ("a switch to the old password", [b"\xfemysql_old_password\0".as_slice(), b"abcdefgh\0"].concat()),
        ("more data than there is", vec![1]),
        ("full authentication", vec![1, 4]),
        ("another kind of more data", vec![1, 9]),
        ("an OK that ends early", vec![0, 0xfe]),
        ("an OK of huge counts", [&[0][..], &[0xfe; 9], &[0xfe; 9], &[2, 0, 0, 0]].concat()),
    ] {
        for (kind, hello) in [("sha2", sha2()), ("native", native())] {
            let turns = [2_u8, 4, 6, 8].map(|number| packet(number, &payload));
            add(&format!("{kind}, then {name}"), [&[hello][..], &turns[..]].concat());
        }
    }
    let switched = packet(2, &[b"\xfecaching_sha2_password\0".as_slice(), &[0]].concat());
    add("sha2 over an empty scramble", vec![native(), switched, packet(4, &[1, 4]), packet(6, b"\x01no key")]);
    add("sha2 with an empty key", vec![sha2(), packet(2, &[1, 4]), packet(4, &[])]);
    add(
        "sha2 with a key that is none",
        vec![sha2(), packet(2, &[1, 4]), packet(4, b"\x01-----BEGIN PUBLIC KEY-----\nx\n")],
    );
    let parsec = packet(2, &[b"\xfeparsec\0".as_slice(), &[7; 32]].concat());
    add("parsec of a huge factor", vec![native(), parsec, packet(4, &[&[1, b'P', 0xff][..], &[7; 18]].concat())]);
    for (name, payload) in [
        ("OK", OK.to_vec()),
        ("nothing", vec![]),
        ("a column count of 2^64", vec![0xfe, 255, 255, 255, 255, 255, 255, 255, 255]),
        ("a NULL column count", vec![0xfb]),
        ("a request for a file", b"\xfb/etc/passwd".to_vec()),
        ("columns that do not come", vec![3]),
        ("an OK of huge counts", [&[0][..], &[0xfe; 9], &[0xfe; 9], &[2, 0, 0, 0]].concat()),
        ("an error of nothing", vec![0xff]),
    ] {
        add(&format!("each query is answered by {name}"), vec![native(), packet(2, OK), packet(1, &payload)]);
    }
    let column = |kind: u8, length: u8| {
        let head = b"\x03def\0\x01t\x01t\x01c\x01c".as_slice();
        [head, &[length, 33, 0, 255, 0, 0, 0, kind, 0, 0, 0, 0, 0]].concat()
    };
    for (name, definition, row) in [
        ("a row that is NULL", column(253, 12), vec![0xfb]),
        ("a row that is too short", column(253, 12), vec![9, b'x']),
        ("a row that is too long", column(253, 12), vec![1, b'x', 1, b'y']),
        ("a row of a huge length", column(253, 12), vec![0xfe, 255, 255, 255, 255, 255, 255, 255, 127]),
        ("a row that is no text", column(253, 12), vec![2, 0xff, 0xfe]),
        ("a column of no kind", column(77, 12), vec![1, b'1']),
        ("a column of another length", column(8, 200), vec![1, b'1']),
        ("a column definition that ends early", vec![3, b'd'], vec![1, b'1']),
        ("a number that is none", column(8, 12), b"\x0318x".to_vec()),
    ] {
        let set = [packet(1, &[1]), packet(2, &definition), packet(3, &row), packet(4, &[0xfe, 0, 0, 2, 0])].concat();
        add(&format!("each query is answered by {name}"), vec![native(), packet(2, OK), set]);
    }
    scripts
}

/// Plays the script to one client, until that goes.
async fn play(mut client: TcpStream, script: &Script) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    for turn in 0.. {
        client.write_all(script.get(turn).or(script.last()).expect("a script says something")).await?;
        if client.read(&mut bytes).await? == 0 {
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_answers_what_none_should_is_an_error_and_no_panic() {
    for (name, script) in scripts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let sink = sink_at(listener.local_addr().expect("it is bound").port());
        let serving = async {
            loop {
                let (client, _) = listener.accept().await.expect("clients come");
                // A client that goes first is no fault of this test's.
                let _ = play(client, &script).await;
            }
        };
        let error = tokio::select! {
            used = use_it(&sink) => used.expect_err(&name),
            () = serving => unreachable!("it serves for ever"),
        };
        let StoreError::Failed(error) = error else { panic!("{name}: {error}") };
        assert!(matches!(error.class, Class::Operator | Class::Outage | Class::Transient), "{name}: {error:?}");
        let said = &error.message;
        assert!(!said.contains("secret") && !said.contains('\u{1b}') && said.len() < 1_000, "{name}: {said}");
    }
}

/// A real server's answers with one byte changed, at many places.
async fn a_real_servers_answers_with_a_byte_changed_are_errors_or_nothing_and_no_panic(kind: Kind) {
    let server = Server::start(kind).await;
    server.run(&["CREATE USER x@'127.0.0.1' IDENTIFIED BY 'secret'", "GRANT ALL ON *.* TO x@'127.0.0.1'"]).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let url = format!("mysql://x:secret@127.0.0.1:{}/forebay", listener.local_addr().expect("it is bound").port());
    let sink = open(&forebay::config::Sink { timeout: PATIENCE, ..settings(SinkTarget::Mysql(url)) }).expect("a URL");
    let mut errors = 0;
    for at in (0..120).chain((120..9_000).step_by(101)) {
        let one = async {
            let (client, _) = listener.accept().await.expect("the sink connects");
            let upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).await.expect("the server is up");
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), upstream.into_split());
            let up = tokio::io::copy(&mut from_client, &mut to_server);
            let down = async {
                let (mut bytes, mut seen) = (vec![0; 65_536], 0);
                loop {
                    let read = from_server.read(&mut bytes).await?;
                    if read == 0 {
                        return Ok::<_, std::io::Error>(());
                    }
                    if (seen..seen + read).contains(&at) {
                        bytes[at - seen] ^= if at % 2 == 0 { 0xff } else { 0x04 };
                    }
                    seen += read;
                    to_client.write_all(&bytes[..read]).await?;
                }
            };
            tokio::select! { _ = up => {}, _ = down => {} }
        };
        let (used, ()) = tokio::join!(use_it(&sink), one);
        errors += usize::from(used.is_err());
    }
    assert!(errors > 20, "the bytes that were changed matter: {errors}");
}
on_each_server!(a_real_servers_answers_with_a_byte_changed_are_errors_or_nothing_and_no_panic);

/// MariaDB's login by ed25519: the driver panicked, and the node ended at each start.
#[tokio::test]
async fn an_account_that_logs_in_by_ed25519_is_served() {
    let mut rig = Rig::start(Kind::MariaDb).await;
    let server = rig.server();
    let user = "CREATE USER app@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('s3cret')";
    server.run(&["INSTALL SONAME 'auth_ed25519'", user, "GRANT ALL ON forebay.* TO app@'127.0.0.1'"]).await;
    rig.settings.target = SinkTarget::Mysql(format!("mysql://app:s3cret@127.0.0.1:{}/forebay", rig.server().port()));
    assert_eq!(rig.writer().store(&[batch("a", vec![report(1, 1)])]).await, [outcome(1, 0, None)]);
}

/// The total of one stream, made something else by hand: the driver's conversion panicked, and the node ended.
async fn a_total_that_is_no_number_of_rows_holds_up_its_own_id_and_says_how_to_mend_it(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    rig.make_tables().await;
    rig.server().run(&["ALTER TABLE report_streams MODIFY reports BIGINT NOT NULL"]).await;
    let mut writer = rig.writer();
    writer.store(&[batch("bad", vec![report(1, 1)]), batch("good", vec![report(2, 1)])]).await;
    rig.server().run(&["UPDATE report_streams SET reports = -5 WHERE id = 'bad'"]).await;
    let done = |id: &str, at| batch(id, vec![report(at, at), marker(at + 1, Marker::Done)]);
    let outcomes = writer.store(&[done("bad", 10), done("good", 20)]).await;
    assert_eq!(outcomes[1], outcome(1, 0, Some(2)));
    let sticky = outcomes[0].put_back.as_ref().expect("its id waits").error();
    assert!(sticky.message.contains("UPDATE `report_streams`"), "{sticky}");
    assert_eq!(rig.health.status().state, SinkState::Up);
    rig.server().run(&["UPDATE report_streams SET reports = 1 WHERE id = 'bad'"]).await;
    assert_eq!(
        writer.store_again(&[done("bad", 10)], forebay::sink::Granularity::Batch).await,
        [outcome(1, 0, Some(2))]
    );
}
on_each_server!(a_total_that_is_no_number_of_rows_holds_up_its_own_id_and_says_how_to_mend_it);
