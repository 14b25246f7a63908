//! The body of a request: read as far as there is memory for it.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
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
    /// It is not what its encoding says.
    NotGzip,
}

/// What is inflated at a time, in bytes.
const PIECE: usize = 64 * 1024;

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

/// Inflates a body to at most `limit` bytes; the memory of both is taken as it grows.
pub(super) async fn inflate(packed: &[u8], limit: usize, hold: &mut Hold) -> Result<Bytes, Unread> {
    let mut decoder = MultiGzDecoder::new(packed);
    let mut text = Vec::new();
    loop {
        fit(hold, packed.len() + text.len() + PIECE).await?;
        let read = decoder.by_ref().take(PIECE as u64).read_to_end(&mut text).map_err(|_| Unread::NotGzip)?;
        if text.len() > limit && cfg!(not(forebay_plant = "inflate_to_the_end")) {
            return Err(Unread::TooLarge);
        }
        if read == 0 {
            // Nothing at all is not what gzip makes of nothing.
            return if packed.is_empty() { Err(Unread::NotGzip) } else { Ok(text.into()) };
        }
        // Others have their turn.
        tokio::task::yield_now().await;
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

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::read::GzEncoder::new(text, flate2::Compression::default());
        let mut packed = Vec::new();
        encoder.read_to_end(&mut packed).expect("a text can be packed");
        packed
    }

    #[tokio::test]
    async fn what_gzip_made_is_inflated_up_to_the_limit_and_nothing_else() {
        let budget = Budget::new(1 << 20);
        let inflated = async |packed: &[u8]| inflate(packed, 3 * PIECE, &mut Hold::new(&budget)).await;
        let text = b"some text ".repeat(PIECE / 5);
        assert_eq!(inflated(&gzip(&text)).await.as_deref(), Ok(&text[..]));
        assert_eq!(inflated(&gzip(b"")).await.as_deref(), Ok(&b""[..]));
        let two = [gzip(b"one"), gzip(b"two")].concat();
        assert_eq!(inflated(&two).await.as_deref(), Ok(&b"onetwo"[..]), "several may follow each other");
        assert_eq!(inflated(&gzip(&vec![0; 3 * PIECE])).await.map(|text| text.len()), Ok(3 * PIECE));
        assert_eq!(inflated(&gzip(&vec![0; 3 * PIECE + 1])).await, Err(Unread::TooLarge));
        let packed = gzip(&text);
        let mut damaged = packed.clone();
        *damaged.last_mut().expect("it has bytes") ^= 1;
        for bad in
            [&packed[..packed.len() - 1], &packed[..9], b"", b"some text", &[&packed[..], b"x"].concat(), &damaged]
        {
            assert_eq!(inflated(bad).await, Err(Unread::NotGzip));
        }
    }

    /// A gigabyte in a megabyte.
    #[tokio::test]
    async fn a_bomb_is_not_inflated_beyond_the_limit() {
        let budget = Budget::new(4 << 20);
        let mut hold = Hold::new(&budget);
        let bomb = gzip(&vec![0; 1 << 20]).repeat(1 << 10);
        assert_eq!(inflate(&bomb, PIECE, &mut hold).await, Err(Unread::TooLarge));
        assert!(hold.missing(bomb.len() + 4 * PIECE) > 0, "no more memory was taken");
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let budget = Budget::new(9 * PART);
        assert_eq!(length(2 * PART, 2 * PART, &budget).await, Ok(2 * PART));
        assert_eq!(length(2 * PART + 1, 2 * PART, &budget).await, Err(Unread::TooLarge));
        assert_eq!(length(0, 2 * PART, &budget).await, Ok(0));
    }
}
