//! What can happen to the file of the embedded sink.

use std::sync::Arc;
use std::time::Duration;

use forebay::sink::{Class, Health, SinkState, Writer};

use super::outcome;
use super::sinks::{Rig, batch, report};

#[tokio::test]
async fn a_file_that_another_process_has_locked_is_waited_for() {
    let mut rig = Rig::sqlite().await;
    rig.settings.timeout = Duration::from_millis(1);
    let mut writer = rig.writer();
    writer.ready().await;
    let other = rig.file();
    other.execute_batch("BEGIN IMMEDIATE").expect("the file is free");
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    while rig.health.retries(Class::Transient) == 0 {
        tokio::task::yield_now().await;
    }
    other.execute_batch("ROLLBACK").expect("lets go");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

/// SQLite itself writes on to a file that has no name any more.
#[tokio::test]
async fn a_file_that_was_deleted_is_made_again_and_not_written_into_the_void() {
    let rig = Rig::sqlite().await;
    let mut writer = rig.writer();
    writer.store(&[batch("a", vec![report(1, 1)])]).await;
    std::fs::remove_dir_all(rig.path().parent().expect("a folder")).expect("removed");
    assert_eq!(writer.store(&[batch("a", vec![report(2, 2)])]).await, [outcome(1, 0, None)]);
    assert_eq!(rig.rows("a").await.len(), 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_blocks_until_it_is_moved_away() {
    let rig = Rig::sqlite().await;
    std::fs::create_dir_all(rig.path().parent().expect("a folder")).expect("made");
    std::fs::write(rig.path(), "what is this? ".repeat(1_000)).expect("written");
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    rig.health.until(|status| status.state == SinkState::Blocked).await;
    std::fs::remove_file(rig.path()).expect("removed");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

#[tokio::test]
async fn a_path_that_cannot_be_opened_is_an_outage_and_no_panic() {
    let rig = Rig::sqlite().await;
    std::fs::create_dir_all(rig.path()).expect("a folder in the place of the file");
    let health = Arc::new(Health::default());
    let mut writer = Writer::new(Arc::new(rig.sink()), Arc::clone(&health));
    let ready = tokio::spawn(async move { writer.ready().await });
    health.until(|status| status.state == SinkState::Down).await;
    std::fs::remove_dir(rig.path()).expect("removed");
    ready.await.expect("no panic");
}
