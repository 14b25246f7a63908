//! The body of a request: read as far as there is memory for it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout};

use super::super::budget::Hold;

/// How long a body that holds memory may wait for more: what it holds is what others wait for. Longer than who is slow
/// may keep it.
const ROOM_WAIT: Duration = Duration::from_secs(3);
/// And for how long more for each MiB that it has: of those that wait for each other, the largest goes on.
const ROOM_WAIT_PER_MIB: Duration = Duration::from_secs(1);

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is over the limit.
    TooLarge,
    /// There was no memory for it.
    NoRoom,
    /// It came slowly while others waited for memory.
    Slow,
    /// The connection broke.
    Broken,
}

/// Reads a body of at most `limit` bytes. It takes memory as its bytes come, whatever it says that its length is.
pub(super) async fn read<B>(mut body: B, limit: usize, hold: &mut Hold) -> Result<Bytes, Unread>
where
    B: Body<Data = Bytes> + Unpin,
{
    let since = Instant::now();
    let mut text = Vec::new();
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = hold.budget().is_wanted(since, text.len()), if hold.is_shared() => return Err(Unread::Slow),
        };
        let Some(frame) = frame else { return Ok(text.into()) };
        // What is not data is a trailer.
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        let bytes = text.len() + data.len();
        if bytes > limit {
            return Err(Unread::TooLarge);
        }
        fit(hold, bytes).await?;
        text.extend_from_slice(&data);
    }
}

/// Takes memory for `bytes` in all. Who holds some already gives up soon: others wait for that.
async fn fit(hold: &mut Hold, bytes: usize) -> Result<(), Unread> {
    if hold.try_fit(bytes) {
        return Ok(());
    }
    if !hold.is_shared() {
        hold.fit(bytes).await;
        return Ok(());
    }
    let wait = ROOM_WAIT + ROOM_WAIT_PER_MIB.mul_f64(bytes as f64 / f64::from(1 << 20));
    timeout(wait, hold.fit(bytes)).await.map_err(|_| Unread::NoRoom)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::task::Poll;

    use super::super::super::budget::{Budget, FREE};
    use super::*;

    const PART: usize = 16 * 1024;

    /// A body of `bytes` in parts, which does not say its length; it never ends where `stalls`.
    fn parts(bytes: usize, stalls: bool) -> impl Body<Data = Bytes> + Unpin {
        let parts = (0..bytes.div_ceil(PART)).map(move |at| {
            let part = vec![b' '; PART.min(bytes - at * PART)];
            Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(part)))
        });
        let mut parts = parts.collect::<Vec<_>>().into_iter();
        http_body_util::StreamBody::new(futures_util::stream::poll_fn(move |_| match parts.next() {
            None if stalls => Poll::Pending,
            next => Poll::Ready(next),
        }))
    }

    async fn length(bytes: usize, limit: usize, budget: &Arc<Budget>) -> Result<usize, Unread> {
        read(parts(bytes, false), limit, &mut Hold::new(budget)).await.map(|text| text.len())
    }

    /// Four that claimed the largest size and sent nothing once kept everybody else out for 30 s.
    #[tokio::test(start_paused = true)]
    async fn slow_bodies_hold_what_they_sent_until_others_want_it() {
        let budget = Budget::new(4 * PART);
        let slow = async || read(parts(FREE + PART, true), 9 * PART, &mut Hold::new(&budget)).await;
        let others = async {
            assert_eq!(length(FREE, 9 * PART, &budget).await, Ok(FREE), "what is small is never in want");
            assert_eq!(length(FREE + PART, 9 * PART, &budget).await, Ok(FREE + PART));
            // It waits, and gets what the slow ones lose.
            length(FREE + 4 * PART, 9 * PART, &budget).await
        };
        let (a, b, c, last) = tokio::join!(slow(), slow(), slow(), others);
        assert_eq!([a, b, c], [Err(Unread::Slow), Err(Unread::Slow), Err(Unread::Slow)]);
        assert_eq!(last, Ok(FREE + 4 * PART));
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let budget = Budget::new(9 * PART);
        assert_eq!(length(2 * PART, 2 * PART, &budget).await, Ok(2 * PART));
        assert_eq!(length(2 * PART + 1, 2 * PART, &budget).await, Err(Unread::TooLarge));
        assert_eq!(length(0, 2 * PART, &budget).await, Ok(0));
    }
}
