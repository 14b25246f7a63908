//! What a service manager hears (sd_notify): ready, that the node is well for as long as it is, stopping.

use std::path::Path;

use tokio::net::UnixDatagram;

use crate::support::client::Client;
use crate::support::node::{A_WHILE, Node};
use crate::support::strace;
use crate::support::wait::within;

/// A node's service manager, and the node with it in its environment; not started.
fn managed(watchdog_us: u64, wrapper: impl FnOnce(&Path) -> Vec<String>) -> (UnixDatagram, Node) {
    let mut node = Node::new();
    let path = node.folder().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket for the manager");
    let variables = [format!("NOTIFY_SOCKET={}", path.display()), format!("WATCHDOG_USEC={watchdog_us}")];
    let wrapper = [wrapper(node.folder()), vec!["env".to_owned()], variables.into()].concat();
    node.under(&wrapper.iter().map(String::as_str).collect::<Vec<_>>());
    (manager, node)
}

async fn heard(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let count = within("the manager to hear something", manager.recv(&mut bytes)).await.expect("a datagram");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[tokio::test]
async fn a_service_manager_hears_ready_well_and_stopping() {
    let (manager, mut node) = managed(20_000, |_| Vec::new());
    node.restart().await;
    assert_eq!(heard(&manager).await.lines().next(), Some("READY=1"));
    for _ in 0..5 {
        assert_eq!(heard(&manager).await, "WATCHDOG=1");
    }
    // Work goes on beside it.
    Client::connect(node.ingest()).await.report("a", 1, "1").await;
    node.ask_to_stop();
    let mut last = heard(&manager).await;
    while last == "WATCHDOG=1" {
        last = heard(&manager).await;
    }
    assert_eq!(last.lines().next(), Some("STOPPING=1"));
    assert_eq!(node.ended().await.code(), Some(0));
}

/// From the fortieth on, a sync takes far longer than a ping may. The process lives, and its admin listener answers,
/// but nothing can be acknowledged: a manager must hear no more. (strace lets nobody kill the process meanwhile.)
#[tokio::test]
async fn a_node_whose_disk_hangs_is_not_said_to_be_well() {
    let hanging = "inject=fdatasync:delay_enter=8000000:when=40+";
    let (manager, mut node) = managed(20_000, |folder| {
        strace::command(&folder.join("strace.log"), &["-e", "trace=fdatasync", "-e", hanging])
    });
    node.restart().await;
    assert_eq!(heard(&manager).await.lines().next(), Some("READY=1"));
    let mut pings = 0;
    let silent = async {
        let mut bytes = [0; 256];
        while tokio::time::timeout(A_WHILE, manager.recv(&mut bytes)).await.is_ok() {
            pings += 1;
        }
    };
    within("the pings to end", silent).await;
    assert!((1..40).contains(&pings), "a ping a sync, not {pings}");
    assert_eq!(node.admin_json("/api/v1/status").await["audit"]["balanced"], true);
}
