//! A client that is exact over crashes of either side: it numbers its reports, keeps each until it is acknowledged,
//! and sends it again after a reconnect.
//!
//! ```sh
//! cargo run --release -- serve
//! cargo run --example resend -- ws://127.0.0.1:7001/ws sensor-7 1000
//! ```
//!
//! The queue is in memory, so the client is exact for as long as it runs. A client that must survive its own end keeps
//! the same queue on disk. After a refusal that asks to come back later, a report may be stored behind one that was
//! sent after it; a client that needs their order waits for each ack.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// The first and the longest delay between two connections.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "ws://127.0.0.1:7001/ws".to_owned());
    let id = arguments.next().unwrap_or_else(|| "example".to_owned());
    let count = arguments.next().map_or(Ok(10), |count| count.parse()).context("the third argument is a number")?;
    let rows = report(&url, &id, count).await?;
    println!("{count} reports of {id} are acknowledged and drained; the sink has stored {rows} rows of it");
    Ok(())
}

/// Sends `count` reports of `id`, then a `done`. Ends once everything is in the sink; the rows that the id has there.
///
/// # Errors
/// When the node refuses a message for good.
pub async fn report(url: &str, id: &str, count: u64) -> Result<u64> {
    // A number must never come again for this id, not after a restart either. Microseconds are below 2^53.
    let first = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_micros() as u64;
    let mut unacknowledged: BTreeMap<u64, String> = (first..first + count)
        .map(|seq| (seq, format!(r#"{{"op":"report","id":"{id}","seq":{seq},"ref":{seq},"data":{{"n":{seq}}}}}"#)))
        .collect();
    let mut delay = FIRST_DELAY;
    loop {
        let before = unacknowledged.len();
        let least = match converse(url, id, &mut unacknowledged).await? {
            End::Drained(rows) => return Ok(rows),
            End::Later(least) => least,
            End::Lost => Duration::ZERO,
        };
        delay = if unacknowledged.len() < before { FIRST_DELAY } else { (delay * 2).min(LONGEST_DELAY) };
        tokio::time::sleep(delay.max(least)).await;
        // The rest goes again, over a new connection and with the same numbers: it is stored once.
    }
}

/// How a connection ended.
enum End {
    /// All is in the sink; the rows that the id has there.
    Drained(u64),
    /// The node cannot take more now, and says when to come back.
    Later(Duration),
    /// It cannot be reached, or is gone.
    Lost,
}

/// One connection: sends what is not acknowledged, in order, and removes each report once its ack is here.
async fn converse(url: &str, id: &str, unacknowledged: &mut BTreeMap<u64, String>) -> Result<End> {
    let Ok((socket, _)) = connect_async(url).await else { return Ok(End::Lost) };
    let (mut sending, mut receiving) = socket.split();
    let mut outgoing: Vec<String> = unacknowledged.values().cloned().collect();
    outgoing.push(format!(r#"{{"op":"done","id":"{id}"}}"#));
    // Sending and receiving go side by side: the node stops reading a client that does not read its answers.
    let send = async {
        for message in outgoing {
            if sending.send(Message::text(message)).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let receive = async {
        while let Some(Ok(message)) = receiving.next().await {
            let Message::Text(text) = message else { continue };
            let reply: Value = serde_json::from_str(&text).context("the node sends JSON")?;
            match reply["op"].as_str() {
                Some("ack") => drop(reply["ref"].as_u64().and_then(|seq| unacknowledged.remove(&seq))),
                Some("done") if unacknowledged.is_empty() => {
                    return Ok(End::Drained(reply["reports"].as_u64().unwrap_or_default()));
                }
                Some("error") => match reply["code"].as_u64() {
                    Some(429 | 503 | 507) => {
                        let wait = reply["retry_after_ms"].as_u64().unwrap_or(1_000);
                        return Ok(End::Later(Duration::from_millis(wait)));
                    }
                    _ => bail!("refused for good: {reply}"),
                },
                _ => {}
            }
        }
        Ok::<_, anyhow::Error>(End::Lost)
    };
    tokio::select! {
        ended = receive => ended,
        () = send => Ok(End::Lost),
    }
}
