//! Reports that a server refuses for what they are: each is a dead letter with the server's code, and all others are
//! stored byte for byte. What a server refuses is asked of it, not presumed.

use std::collections::BTreeMap;

use mysql_async::Error;
use mysql_async::prelude::Queryable;

use crate::support::ledger::{Ledger, Sent};
use crate::support::node::Node;
use crate::support::proof::{Proof, rounds};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;
use crate::trial::{Trial, dead_letters, numbered, post};

/// Takes the dead letters out of the ledger, which must be these, each with this code; then settles and reports.
async fn settle(kind: Kind, fault: &str, node: &Node, ledger: &Ledger, dead: &[(Sent, u64)]) {
    node.drained().await;
    let key = |report: &Sent| format!("{}~0~{}", report.id, report.seq.expect("a number"));
    let wanted: BTreeMap<String, u64> = dead.iter().map(|(report, code)| (key(report), *code)).collect();
    let found = dead_letters(node);
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), wanted);
    dead.iter().for_each(|(report, _)| ledger.buried(&report.id, report.seq.expect("a number")));
    let verdict = ledger.settle(node).await;
    let mut proof = Proof::on(kind, fault);
    proof.verdict(dead.len() as u64, &verdict);
    proof.report();
    verdict.assert_clean();
}

fn nested(open: &str, depth: usize, close: &str) -> String {
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

/// JSON at the edges of what servers take.
fn odd_json() -> Vec<String> {
    let mut texts: Vec<String> = [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ude00\ud83d""#,
        r#""\ud83d\ude00""#,
        r#"{"\ud800":1}"#,
        r#""\u0000""#,
        r#""\u001f\b\f\n\r\t\/\\\"""#,
        "\"\u{7f}\u{85}\u{2028}\u{fffe}\u{ffff}\u{10ffff}\u{1f600}\"",
        r#""'); DROP TABLE reports; -- \\' %_""#,
        "1e999",
        "-1e999",
        "1e-999",
        "1E+5",
        "-0",
        "-0.0",
        "0e0",
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890",
        "0.1000000000000000055511151231257827021181583404541015625",
        r#"{"a":1,"a":2}"#,
        r#"{"":{"":""}}"#,
        "[ 1 ,\t2 ]",
        "[]",
        "{}",
        "\"\"",
        "null",
        "true",
    ]
    .map(str::to_owned)
    .into();
    for depth in [1, 8, 16, 30, 31, 32, 33, 64, 99, 100, 101] {
        texts.push(nested("[", depth, "]"));
        texts.push(nested("{\"a\":", depth, "}"));
    }
    texts.push(format!("\"{}\"", "x".repeat(60_000)));
    texts.push(format!("\"{}\"", "\\u0041".repeat(9_000)));
    texts.push(format!("[{}1]", "1,".repeat(25_000)));
    texts
}

on_each_server!(json_is_stored_byte_for_byte_or_dead_as_the_server_has_it);
async fn json_is_stored_byte_for_byte_or_dead_as_the_server_has_it(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let (ledger, mut asked, mut dead) = (Ledger::default(), server.conn().await, Vec::new());
    asked.query_drop("CREATE TABLE asked (data JSON)").await.expect("root may make a table");
    for (seq, data) in (0..).zip(odd_json()) {
        let answer = asked.exec_drop("INSERT INTO asked VALUES (?)", (data.as_str(),)).await;
        let report = Sent { id: format!("json-{}", seq % 5), seq: Some(seq), data };
        if let Err(Error::Server(error)) = &answer {
            let start: String = report.data.chars().take(40).collect();
            println!("refused by the server: {start}… ({} bytes): {error}", report.data.len());
            dead.push((report.clone(), error.code.into()));
        } else {
            answer.expect("a server says yes or no");
        }
        // Among others, of its own id and of another.
        post(
            &node,
            &ledger,
            &[report, numbered("good", seq), numbered(&format!("json-{}", seq % 5), 1_000 + seq)],
            &[],
        )
        .await;
    }
    assert!(dead.len() > 5, "a server refuses some of them: {dead:?}");
    settle(kind, "JSON that the server refuses", &node, &ledger, &dead).await;
}

on_each_server!(values_too_long_for_a_column_that_a_user_made_shorter_are_dead_and_no_others);
async fn values_too_long_for_a_column_that_a_user_made_shorter_are_dead_and_no_others(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("flush.batch", 1_000).start().await;
    let ledger = Ledger::default();
    post(&node, &ledger, &[numbered("before", 0)], &["before"]).await;
    node.drained().await;
    server.run(&["ALTER TABLE reports MODIFY data VARCHAR(50) CHARACTER SET ascii"]).await;
    let long =
        |id: &str, seq: u64| Sent { data: format!("\"{}\"", "x".repeat(40 + seq as usize)), ..numbered(id, seq) };
    let reports: Vec<Sent> =
        (0..16).flat_map(|seq| [long("a", seq), long("b", seq + 100), numbered("c", seq)]).collect();
    // Two quotes and 48 characters fit.
    let dead: Vec<_> =
        reports.iter().filter(|report| report.data.len() > 50).map(|report| (report.clone(), 1406)).collect();
    assert_eq!(dead.len(), 7 + 16);
    post(&node, &ledger, &reports, &["a", "b", "c"]).await;
    settle(kind, "value too long for an altered column (1406)", &node, &ledger, &dead).await;
}

on_each_server!(a_peer_or_code_that_does_not_fit_an_altered_column_is_dead);
/// All peers of a test are too long for such a column, so nothing at all is stored of them.
async fn a_peer_or_code_that_does_not_fit_an_altered_column_is_dead(kind: Kind) {
    let faults = [
        ("peer too long for an altered column (1406)", "peer VARCHAR(4)", 1406),
        ("code out of an altered column's range (1264)", "code TINYINT", 1264),
    ];
    for (fault, column, error) in faults {
        let server = Server::start(kind).await;
        let node = Node::new().set("sink.url", server.url()).start().await;
        let ledger = Ledger::default();
        // A marker alone: the column cannot be altered when rows have longer values.
        post(&node, &ledger, &[], &["before"]).await;
        let made = eventually("the tables to be made", async || node.stored().stream("before").await);
        made.await;
        server.run(&[&format!("ALTER TABLE reports MODIFY {column}")]).await;
        let mut dead = Vec::new();
        for seq in 0..20 {
            let report = numbered("altered", seq);
            let code = seq * 10;
            let text =
                format!(r#"[{{"op":"report","id":"altered","seq":{seq},"code":{code},"data":{}}}]"#, report.data);
            ledger.sent(&report);
            assert!(ledger.replied(&report, &node.post(text).await[0]));
            if error == 1406 || code > 127 {
                dead.push((report, error));
            }
        }
        settle(kind, fault, &node, &ledger, &dead).await;
    }
}

on_each_server!(a_packet_limit_that_is_lowered_under_load_splits_what_is_shared_and_buries_what_never_fits);
/// The server is told to take shorter packets than it did: what is too long together is split, what is too long alone
/// is dead, and the server is not taken for one that is down.
async fn a_packet_limit_that_is_lowered_under_load_splits_what_is_shared_and_buries_what_never_fits(kind: Kind) {
    let mut trial = Trial::start("max_allowed_packet lowered (1153)", Server::start(kind).await, |node| node).await;
    let long = |seq: u64| Sent { data: format!("\"{}\"", "x".repeat(20_000)), ..numbered("long", seq) };
    let mut dead = Vec::new();
    for round in 0..rounds(2, 20) {
        trial.run("SET GLOBAL max_allowed_packet = 16384").await;
        // Sessions that are open have their old limit.
        trial.kill_connections().await;
        trial.others_are_stored().await;
        let reports: Vec<Sent> =
            (0..10).map(|n| if n % 3 == 0 { long(round * 10 + n) } else { numbered("long", round * 10 + n) }).collect();
        post(&trial.node, &trial.load.ledger, &reports, &["long"]).await;
        let known = dead.len();
        dead.extend(reports.into_iter().filter(|report| report.data.len() > 16_384).map(|report| (report, 1153)));
        let buried = eventually("the dead letters", async || {
            let found = dead_letters(&trial.node).len();
            if found >= known + 4 { Ok(()) } else { Err(format!("{found} of {}", known + 4)) }
        });
        buried.await;
        trial.run("SET GLOBAL max_allowed_packet = 16777216").await;
        trial.kill_connections().await;
        trial.others_are_stored().await;
    }
    let Trial { server: _server, node, load, .. } = trial;
    let ledger = load.finish().await;
    settle(kind, "max_allowed_packet lowered (1153)", &node, &ledger, &dead).await;
}
