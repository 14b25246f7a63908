//! What the journal holds in memory has a limit.

use super::*;

#[test]
fn ids_and_those_who_wait_for_a_done_have_a_limit_that_is_named() {
    let mut bench = Bench::with(|s| s.max_ids = 4);
    let kept = |answers: &[Answer]| matches!(answers[0], Answer::Kept(_));
    for id in ["a", "b", "c", "d"] {
        assert!(kept(&bench.append(id, vec![report(None, "1")])));
    }
    let answers = bench.append("e", vec![report(None, "1")]);
    assert!(matches!(&answers[0], Answer::Refused(r) if r.to_string().contains("journal.max_ids")), "{answers:?}");
    assert!(bench.stream("e").is_none(), "a refused id is kept in memory");
    assert!(kept(&bench.append("d", vec![report(None, "2")])), "an id that is there goes on");
    bench.reopen();
    assert!(!kept(&bench.append("e", vec![report(None, "1")])), "what was found at the start is not counted");
    bench.drain("d", 8);
    bench.drain("c", 8);
    // Two ids are gone: room for one, and for two who wait.
    assert!(kept(&bench.append("e", vec![report(None, "1")])));
    let done = || vec![Content::Marker(Marker::Done)];
    assert!(kept(&bench.append("a", done())) && kept(&bench.append("a", done())) && kept(&bench.append("b", done())));
    assert!(!kept(&bench.append("b", done())), "who waits is not counted");
    bench.drain("a", 8);
    assert!(kept(&bench.append("b", done())), "who has been told is counted still");
}
