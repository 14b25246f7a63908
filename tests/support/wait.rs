//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// How long a condition may take before the test gives up. Generous: only a test that fails ever waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `check` until it answers `Ok`, and returns what it answered; past [`PATIENCE`] panics with the last `Err`.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(why) if start.elapsed() > PATIENCE => panic!("waited {PATIENCE:?} for {what}, but {why}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Waits for one future, at most [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// `Ok` when the two are equal, else both for a person.
pub fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("it is {found:?}, not {wanted:?}")) }
}
