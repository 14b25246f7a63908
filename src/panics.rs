//! What a panic does. One ends the process at once, with 1 and one line, so that nothing goes on by half; except where
//! a room catches it by intent: of a storage that it opens, or of the sink's driver over what a server answered.

use std::any::Any;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// The exit code of a process that a panic ended.
const PANICKED: i32 = 1;

/// Characters of a panic's text that are kept: it may quote what a server sent.
const MAX_TEXT: usize = 300;

thread_local! {
    /// How many callers up the stack of this thread catch a panic.
    static CAUGHT_BY: Cell<usize> = const { Cell::new(0) };
}

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(pub String);

/// Lets a panic that nobody catches by intent end the process, whatever thread or task it is in. For programs; it holds
/// until the process ends.
pub fn end_the_process() {
    std::panic::set_hook(Box::new(|panic| {
        if CAUGHT_BY.get() == 0 {
            tracing::error!(
                at = place(panic),
                "a part of the program panicked, and the process ends; what was acknowledged is in the journal: {}",
                text_of(panic.payload()),
            );
            std::process::exit(PANICKED);
        }
    }));
}

/// Does the work; a panic of it is an error, and ends nothing else.
///
/// # Errors
/// [`Panicked`]. What the work was at is in no known state, and is to be dropped.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    CAUGHT_BY.set(CAUGHT_BY.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    CAUGHT_BY.set(CAUGHT_BY.get() - 1);
    done.map_err(|payload| Panicked(text_of(payload.as_ref())))
}

/// The same for a future, in each of its polls.
///
/// # Errors
/// As [`contain`].
pub async fn contained<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    poll_fn(move |context| match contain(|| work.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await
}

fn place(panic: &PanicHookInfo<'_>) -> String {
    panic.location().map(ToString::to_string).unwrap_or_default()
}

/// What it says, on one line, without what could move a cursor.
fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    let shown = text.unwrap_or("without a text").chars().take(MAX_TEXT);
    shown.flat_map(|character| character.escape_debug().collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_that_is_contained_is_an_error_with_its_text_on_one_line() {
        assert_eq!(contain(|| 1), Ok(1));
        assert_eq!(contain(|| panic!("over\n{}", 1)), Err::<(), _>(Panicked("over\\n1".to_owned())));
        let waits = async {
            tokio::task::yield_now().await;
            panic!("{}", "long ".repeat(1_000))
        };
        let Panicked(text) = contained::<()>(waits).await.expect_err("it panics");
        assert_eq!(text.len(), MAX_TEXT);
        assert_eq!(CAUGHT_BY.get(), 0, "a panic here would end the process");
    }

    /// As in `forebay serve`: this test runs itself again as a process that has the hook.
    #[test]
    fn a_panic_that_nobody_contains_ends_the_process_with_one_line() {
        const ASKED: &str = "PANICS_TEST";
        if std::env::var_os(ASKED).is_some() {
            tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
            end_the_process();
            assert!(contain(|| panic!("of the driver")).is_err());
            // A thread's panic is nobody's, until somebody joins it.
            let _ = std::thread::spawn(|| panic!("of a task")).join();
            std::process::exit(0);
        }
        let name = "panics::tests::a_panic_that_nobody_contains_ends_the_process_with_one_line";
        let program = std::env::current_exe().expect("a test has a program");
        let ended = std::process::Command::new(program).args([name, "--exact", "--nocapture"]).env(ASKED, "1").output();
        let ended = ended.expect("the test runs itself");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(PANICKED), "{said}");
        assert!(said.contains("of a task") && !said.contains("of the driver"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
