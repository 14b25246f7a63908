//! A server that stalls, throws its clients out, takes no writes, no connections or no password, under load.

use mysql_async::{Conn, Opts, OptsBuilder};

use crate::support::client::Client;
use crate::support::http;
use crate::support::load::Load;
use crate::support::metrics::Page;
use crate::support::node::{Node, run};
use crate::support::proof::{Proof, rounds};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::trial::{Trial, eight_clients, make_user, sink_becomes};

on_each_server!(a_server_that_is_stopped_for_longer_than_the_timeout_loses_and_doubles_nothing);
async fn a_server_that_is_stopped_for_longer_than_the_timeout_loses_and_doubles_nothing(kind: Kind) {
    let set = |node: Node| node.set("sink.timeout", "300ms");
    let trial = Trial::start("SIGSTOP of the server", Server::start(kind).await, set).await;
    let faults = rounds(3, 40);
    for _ in 0..faults {
        trial.server.pause();
        trial.sink_becomes("down").await;
        trial.server.resume();
        trial.sink_becomes("up").await;
    }
    trial.finish(faults).await;
}

on_each_server!(connections_that_are_killed_over_and_over_lose_and_double_nothing);
async fn connections_that_are_killed_over_and_over_lose_and_double_nothing(kind: Kind) {
    let mut trial = Trial::start("KILL CONNECTION", Server::start(kind).await, |node| node).await;
    let mut killed = 0;
    while killed < rounds(30, 1_000) {
        killed += trial.kill_connections().await;
        trial.others_are_stored().await;
    }
    trial.finish(killed).await;
}

on_each_server!(a_server_that_turns_read_only_loses_and_doubles_nothing);
async fn a_server_that_turns_read_only_loses_and_doubles_nothing(kind: Kind) {
    let mut trial = Trial::start("read_only = 1", Server::start(kind).await, |node| node).await;
    let faults = rounds(3, 40);
    for _ in 0..faults {
        trial.run("SET GLOBAL read_only = 1").await;
        trial.sink_becomes("down").await;
        trial.run("SET GLOBAL read_only = 0").await;
        trial.sink_becomes("up").await;
    }
    trial.finish(faults).await;
}

on_each_server!(a_server_without_a_free_connection_loses_and_doubles_nothing);
async fn a_server_without_a_free_connection_loses_and_doubles_nothing(kind: Kind) {
    let mut trial = Trial::start("max_connections reached", Server::start(kind).await, |node| node).await;
    trial.server.run(&["CREATE USER hog@'127.0.0.1'"]).await;
    trial.run("SET GLOBAL max_connections = 20").await;
    let opts = Opts::from_url(&trial.server.url().replace("root@", "hog@").replace("/forebay", "/")).expect("a URL");
    let opts: Opts = OptsBuilder::from_opts(opts).prefer_socket(false).into();
    let faults = rounds(3, 40);
    for _ in 0..faults {
        let mut hogs = Vec::new();
        loop {
            // The node's connections are taken from it, one by one, as it comes back.
            trial.kill_connections().await;
            while let Ok(hog) = Conn::new(opts.clone()).await {
                hogs.push(hog);
            }
            let status = trial.node.admin_json("/api/v1/status").await;
            if status["sink"]["state"] == "down" && hogs.len() >= 18 {
                assert!(status["sink"]["last_error"].is_string(), "it says why: {status}");
                break;
            }
        }
        trial.load.more_acks(100).await;
        drop(hogs);
        trial.sink_becomes("up").await;
    }
    trial.finish(faults).await;
}

/// A node that wants eight connections on a server that allows it two, both of them in use.
async fn under_load_on_two_connections(kind: Kind) -> (Server, Node, Load) {
    let server = Server::start(kind).await;
    let url = make_user(&server).await;
    server.run(&["ALTER USER app@'127.0.0.1' WITH MAX_USER_CONNECTIONS 2"]).await;
    let node = Node::new().set("sink.url", url).set("sink.connections", 8).start().await;
    let load = Load::start(&node.address(), eight_clients());
    load.more_acks(3_000).await;
    (server, node, load)
}

on_each_server!(a_server_that_allows_fewer_connections_than_are_set_is_up_and_loses_nothing);
/// Each connection that it refused was an outage of all.
async fn a_server_that_allows_fewer_connections_than_are_set_is_up_and_loses_nothing(kind: Kind) {
    let (server, node, load) = under_load_on_two_connections(kind).await;
    let status = node.admin_json("/api/v1/status").await;
    let said = status["sink"]["last_error"].as_str().unwrap_or_default();
    assert!(status["sink"]["state"] == "up" && said.contains("sink.connections"), "{status}");
    let ledger = load.finish().await;
    // The test reads as the same user.
    server.run(&["ALTER USER app@'127.0.0.1' WITH MAX_USER_CONNECTIONS 0", "FLUSH USER_RESOURCES"]).await;
    let verdict = ledger.settle(&node).await;
    let mut proof = Proof::on(kind, "fewer connections than are set (1226)");
    proof.verdict(1, &verdict);
    proof.report();
    verdict.assert_clean();
    assert_eq!(Page::of(&node).await.value("forebay_sink_outages_total"), 0.0);
    let lines = node.stderr();
    assert_eq!(lines.lines().filter(|line| line.contains("refuses a connection")).count(), 1, "{lines}");
    assert!(!lines.contains("ERROR"), "{lines}");
}

on_each_server!(a_retry_takes_its_turn_on_the_connections_that_the_server_allows);
/// They are all the node's. Its report stays a dead letter, for what it is.
async fn a_retry_takes_its_turn_on_the_connections_that_the_server_allows(kind: Kind) {
    let (_server, node, load) = under_load_on_two_connections(kind).await;
    load.finish().await;
    let mut client = Client::connect(node.ingest()).await;
    for data in ["1", "2"] {
        client.report("taken", 1, data).await;
        node.drained().await;
    }
    let retried = http::post(node.admin(), "/api/v1/dead-letters/taken~0~1/retry", "text/plain", "").await;
    assert_eq!(retried.status, 409, "it is refused for what it is: {}", retried.text());
}

on_each_server!(a_password_that_is_changed_meanwhile_blocks_the_sink_and_loses_nothing);
async fn a_password_that_is_changed_meanwhile_blocks_the_sink_and_loses_nothing(kind: Kind) {
    let mut trial = Trial::start("wrong password", Server::start(kind).await, |node| node).await;
    let faults = rounds(2, 20);
    for _ in 0..faults {
        trial.run("ALTER USER app@'127.0.0.1' IDENTIFIED BY 'another'").await;
        trial.kill_connections().await;
        trial.sink_becomes("blocked").await;
        trial.run("ALTER USER app@'127.0.0.1' IDENTIFIED BY 'right'").await;
        trial.sink_becomes("up").await;
    }
    let said = trial.node.stderr();
    assert!(said.lines().any(|line| line.contains("ERROR") && line.contains("1045")), "it is said loudly: {said}");
    trial.finish(faults).await;
}

on_each_server!(tables_that_an_operator_drops_and_makes_again_lose_nothing_of_the_backlog);
/// The DDL is what `forebay schema` prints. What was stored before is gone by the operator's own act, so the ledger of
/// the clients that come after counts alone.
async fn tables_that_an_operator_drops_and_makes_again_lose_nothing_of_the_backlog(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let mut proof = Proof::on(kind, "tables dropped, and made again by an operator");
    let ddl = run(&["schema", "--sink", &server.url()]).stdout;
    Client::connect(node.ingest()).await.report("before", 1, "1").await;
    node.drained().await;
    let [reports, streams] = ddl.split_inclusive(';').take(2).collect::<Vec<_>>()[..] else { panic!("{ddl}") };
    for _ in 0..rounds(2, 20) {
        server.run(&["DROP TABLE reports", "DROP TABLE report_streams"]).await;
        let load = Load::start(&node.address(), eight_clients());
        sink_becomes(&node, "blocked").await;
        load.more_acks(300).await;
        let audit = node.audit().await;
        assert_eq!((&audit["dead"], &audit["balanced"]), (&0.into(), &true.into()), "{audit}");
        server.run(&[reports, streams]).await;
        load.more_acks(300).await;
        let verdict = load.finish().await.settle(&node).await;
        proof.verdict(1, &verdict);
        if !verdict.is_clean() {
            proof.report();
            panic!("{verdict}");
        }
    }
    proof.report();
    let said = node.stderr();
    assert!(
        said.lines().any(|line| line.contains("ERROR") && line.contains("there is no table")),
        "it is said: {said}"
    );
}

on_each_server!(a_disk_that_is_full_is_an_outage_and_loses_nothing);
/// On a file system of its own, in a mount namespace that ends with the server.
async fn a_disk_that_is_full_is_an_outage_and_loses_nothing(kind: Kind) {
    // Far more than the load's own rows can take, however fast the machine is.
    let trial = Trial::start("the server's disk full", Server::start_on_disk(kind, 2_000).await, |node| node).await;
    let faults = rounds(2, 10);
    for _ in 0..faults {
        trial.server.fill_disk();
        trial.sink_becomes("down").await;
        trial.load.more_acks(1_000).await;
        let audit = trial.node.audit().await;
        assert_eq!((&audit["dead"], &audit["balanced"]), (&0.into(), &true.into()), "{audit}");
        trial.server.free_disk();
        trial.sink_becomes("up").await;
    }
    trial.finish(faults).await;
}
