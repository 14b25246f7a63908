//! `forebay top`, and what else asks a person, in a terminal of 80 by 24.

use serde_json::json;

use crate::commands::{ask, with_dead_letters};
use crate::limits::DEAD;
use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::terminal::Terminal;

fn url(node: &Node) -> String {
    format!("http://{}", node.admin())
}

#[tokio::test]
async fn an_outage_is_on_the_screen_with_the_ids_that_wait() {
    let node = Node::new().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for n in 0..12 {
        client.report(if n < 9 { "many" } else { "few" }, n, "1").await;
    }
    let mut top = Terminal::start(&["top", "--admin", &url(&node)]);
    // The screen may be looked at while it is drawn.
    let parts = ["SINK DOWN", "12 reports of 2 ids", "ids by backlog", "\nmany ", "\nfew ", "drained/s", "q quit"];
    let screen = top.shows(&parts).await;
    let row =
        |id: &str| screen.lines().position(|line| line.starts_with(id)).unwrap_or_else(|| panic!("{id}: {screen}"));
    assert!(row("many") < row("few"), "{screen}");
    top.press("s");
    let screen = top.shows(&["ids by age of the oldest report"]).await;
    println!("{screen}");
    top.press(" ");
    top.shows(&["HELD"]).await;
    top.press("q");
    assert_eq!(top.ended().await.code(), Some(0));
    top.is_restored().await;
}

on_each_server!(dead_letters_are_on_the_screen_with_their_reason);
async fn dead_letters_are_on_the_screen_with_their_reason(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    let mut top = Terminal::start(&["top", "--admin", &url(&node)]);
    let screen = top.shows(&["5 DEAD LETTERS", "nothing waits", "s0~0~0", "Out of range"]).await;
    println!("{screen}");
    top.press("\u{3}");
    assert_eq!(top.ended().await.code(), Some(0), "Ctrl-C");
    top.is_restored().await;
}

#[tokio::test]
async fn a_node_that_goes_is_seen_and_the_terminal_is_given_back_on_a_signal() {
    let mut node = Node::new().start().await;
    let mut top = Terminal::start(&["top", "--admin", &url(&node)]);
    top.shows(&["WELL"]).await;
    node.kill();
    top.shows(&["NO FIGURES", "cannot reach the node"]).await;
    let killed = std::process::Command::new("sh").args(["-c", "kill -TERM \"$0\"", &top.pid().to_string()]).status();
    assert!(killed.expect("sh runs").success());
    assert_eq!(top.ended().await.code(), Some(0));
    top.is_restored().await;
}

on_each_server!(json_on_a_terminal_is_escaped);
/// In a pipe it is as the API has it; the same value on a terminal, where it moves no cursor.
async fn json_on_a_terminal_is_escaped(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    let mut terminal = Terminal::start(&["dead-letters", "show", "s0~0~2", "--json", "--admin", &url(&node)]);
    assert_eq!(terminal.ended().await.code(), Some(0));
    terminal.shows(&["\\u009b2J\\u202e\\u001b[2J"]).await;
}

#[tokio::test]
async fn top_without_a_terminal_says_what_to_use_instead() {
    let node = Node::new().start().await;
    let output = ask(node.admin(), &["top"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("forebay status"), "{}", output.stderr);
}

on_each_server!(a_dead_letter_is_discarded_only_by_a_person_who_says_yes);
async fn a_dead_letter_is_discarded_only_by_a_person_who_says_yes(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    let discard = ["dead-letters", "discard", "s0~0~2", "--admin", &url(&node)];
    for answer in ["\r", "n\r"] {
        let mut terminal = Terminal::start(&discard);
        terminal.shows(&["Out of range", "Discard it for good? [y/N]"]).await;
        terminal.press(answer);
        assert_eq!(terminal.ended().await.code(), Some(1), "{answer:?}");
        terminal.shows(&["nothing was discarded"]).await;
    }
    assert_eq!(node.audit().await["dead"], 5);
    let mut terminal = Terminal::start(&discard);
    terminal.shows(&["[y/N]"]).await;
    terminal.press("y\r");
    assert_eq!(terminal.ended().await.code(), Some(0));
    terminal.shows(&["s0~0~2 is discarded"]).await;
    let audit = node.audit().await;
    assert_eq!((&audit["dead"], &audit["discarded"]), (&json!(4), &json!(1)), "{audit}");
}
