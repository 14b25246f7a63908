//! Pauses, driven without flushers.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn no_more_ids_are_paused_than_may_be_and_a_restart_keeps_them() {
    let mut bench = Bench::new();
    let all = (0..MAX_PAUSED_IDS).map(|n| bench.journal().set_paused(id_of(&n.to_string()), true));
    assert!(join_all(all).await.iter().all(Result::is_ok));
    let one_more = id_of("one-more");
    assert_eq!(bench.journal().set_paused(one_more, true).await, Err(PauseError::TooMany));
    assert_eq!(bench.journal().set_paused(id_of("7"), true).await, Ok(()), "it is already");
    assert_eq!(bench.journal().set_paused(id_of("8"), false).await, Ok(()));
    assert_eq!(bench.journal().set_paused(one_more, true).await, Ok(()));
    bench.reopen();
    assert!(bench.journal().is_paused(&one_more) && bench.journal().is_paused(&id_of("7")));
    assert!(!bench.journal().is_paused(&id_of("8")));
    let paused: usize = bench.journal().parts().map(|part| part.paused.len()).sum();
    assert_eq!(paused, MAX_PAUSED_IDS);
}

#[tokio::test]
async fn a_stream_knows_that_it_is_paused_whether_it_came_before_or_after() {
    let mut bench = Bench::new();
    bench.append("before", vec![report(Some(1), "1")]);
    for id in ["before", "after"] {
        bench.journal().set_paused(id_of(id), true).await.expect("there is room");
    }
    bench.append("after", vec![report(Some(1), "1")]);
    let paused = |bench: &Bench, id| bench.stream(id).expect("it has backlog").lock().backlog().paused;
    assert!(paused(&bench, "before") && paused(&bench, "after"));
    bench.reopen();
    assert!(paused(&bench, "before") && paused(&bench, "after"));
    bench.journal().set_paused(id_of("before"), false).await.expect("it is paused");
    assert!(!paused(&bench, "before"));
    assert!(bench.stream("before").expect("it has backlog").lock().backlog().urgent, "a resume drains at once");
    bench.journal().stop().expect("a sound journal");
    assert_eq!(bench.journal().set_paused(id_of("late"), true).await, Err(PauseError::Stopping));
}
