//! How fast transactions are stored. Not a test: `cargo test --release --test sink -- --ignored --nocapture speed`

use std::time::Instant;

use super::sinks::{Rig, batch, with_data};
use crate::support::servers::Kind;

const ROWS: u64 = 1_000;
const IDS: u64 = 100;

/// 1,000 rows of 300 bytes and 100 ids in each transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed() {
    let data = format!("{{\"conn_ip\":\"10.0.0.1:5000\",\"text\":\"{}\"}}", "x".repeat(250));
    for (rig, name) in [
        (Rig::start(Kind::MariaDb).await, "MariaDB"),
        (Rig::start(Kind::MySql).await, "MySQL"),
        (Rig::sqlite().await, "sqlite"),
    ] {
        for writers in [1, 4] {
            let transactions = 100;
            let begun = Instant::now();
            let tasks: Vec<_> = (0..writers)
                .map(|n| {
                    let mut writer = rig.writer();
                    let data = data.clone();
                    tokio::spawn(async move {
                        let mut spent = std::time::Duration::ZERO;
                        for round in 0..transactions {
                            let records =
                                |_| (0..ROWS / IDS).map(|seq| with_data(seq + 1, round * 10 + seq, &data)).collect();
                            let batches: Vec<_> =
                                (0..IDS).map(|id| batch(&format!("w{writers}-{n}-{id}"), records(id))).collect();
                            let begun = Instant::now();
                            assert!(writer.store(&batches).await.iter().all(|outcome| outcome.inserted == 10));
                            spent += begun.elapsed();
                        }
                        spent
                    })
                })
                .collect();
            let mut spent = std::time::Duration::ZERO;
            for task in tasks {
                spent += task.await.expect("no panic");
            }
            let rate = (writers * transactions * ROWS) as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{name}, {writers} connections: {rate:.0} rows/s, {:?} a transaction",
                spent / (writers * transactions) as u32
            );
        }
    }
}
