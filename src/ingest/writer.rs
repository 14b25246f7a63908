//! The writing half of a connection: takes what the outbox has and writes it in one go.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::once::at_once;
use super::outbox::Outbox;

/// A buffer that a large batch has grown past this is given back, in bytes.
const KEPT_BUFFER: usize = 8 * 1024;

/// Writes until the outbox has written its last. A client that does not take a batch within `patience`, or takes it
/// slowly while others wait for the memory, is given up: the outbox is abandoned and `over` cancelled.
pub(super) async fn run(
    outbox: Arc<Outbox>,
    mut half: impl AsyncWrite + Unpin,
    patience: Duration,
    over: CancellationToken,
) {
    let mut batch = Batch::default();
    let mut bytes = Vec::new();
    loop {
        outbox.take(&mut batch).await;
        batch.encode(&mut bytes);
        let writing = async {
            half.write_all(&bytes).await?;
            // TLS keeps what the socket did not take at once; for TCP this does nothing.
            half.flush().await
        };
        let mut writing = std::pin::pin!(writing);
        let written = match at_once(writing.as_mut()).await {
            Some(written) => written,
            None => tokio::select! {
                written = writing => written,
                () = sleep(patience) => {
                    tracing::debug!(?patience, "client does not read, connection dropped");
                    return give_up(&outbox, &over);
                }
                () = outbox.is_wanted(Instant::now(), bytes.len()) => {
                    tracing::debug!("client reads slowly and others wait for memory, connection dropped");
                    return give_up(&outbox, &over);
                }
            },
        };
        if let Err(error) = written {
            tracing::debug!(%error, "connection lost");
            return give_up(&outbox, &over);
        }
        if batch.last {
            // The client sees the end; a connection that is lost already has nothing to be told.
            let _ = half.shutdown().await;
            return;
        }
        outbox.written(&mut batch);
        bytes.clear();
        bytes.shrink_to(KEPT_BUFFER);
    }
}

fn give_up(outbox: &Outbox, over: &CancellationToken) {
    outbox.abandon();
    over.cancel();
}
