//! A look at a future that does not wait.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// What a future has without waiting.
pub(super) async fn at_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        })
    })
    .await
}
