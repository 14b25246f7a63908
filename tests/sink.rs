//! The sink's promises, held against real servers. Comments number the invariants at the door of `src/sink`.

mod support {
    pub mod mariadb;
    pub mod servers;
    pub mod stored;
}

mod sinks;

use forebay::report::{Marker, Report};
use forebay::sink::{Class, Outcome, SinkState};
use sinks::{Rig, batch, marker, report, with_data};
use support::servers::Kind;

fn outcome(inserted: u64, duplicates: u64, total: Option<u64>) -> Outcome {
    Outcome { inserted, duplicates, total, ..Outcome::default() }
}

/// Runs one body against each sink, in a test of its own.
macro_rules! on_each_sink {
    ($($(#[$doc:meta])* async fn $name:ident($rig:ident) $body:block)*) => {
        mod mariadb {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $rig = Rig::start(Kind::MariaDb).await; $body })*
        }
        mod mysql {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $rig = Rig::start(Kind::MySql).await; $body })*
        }
        mod sqlite {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $rig = Rig::sqlite().await; $body })*
        }
    };
}

on_each_sink! {
    /// Invariants 1 and 2.
    async fn the_first_write_of_a_key_wins(rig) {
        let mut writer = rig.writer();
        let first = batch("a", vec![with_data(1, 7, r#"{"n":1}"#), with_data(2, 7, r#"{"n":1}"#), report(3, 8)]);
        assert_eq!(writer.store(&[first]).await, [outcome(2, 1, None)]);
        let second = writer.store(&[batch("a", vec![with_data(4, 7, r#"{"n":3}"#), report(5, 9)])]).await;
        assert_eq!((second[0].inserted, second[0].duplicates, second[0].refused.len()), (1, 0, 1));
        assert_eq!(rig.rows("a").await, [(0, 7, r#"{"n":1}"#.to_owned()), (0, 8, "{}".to_owned()), (0, 9, "{}".to_owned())]);
        assert_eq!(rig.stream("a").await, Some(("open".to_owned(), 3, 5)));
    }

    /// Invariant 2.
    async fn a_replay_changes_nothing_and_is_counted_as_such(rig) {
        let mut writer = rig.writer();
        let batches: Vec<_> = ["b", "a", "c"].map(|id| batch(id, (1..=5).map(|seq| report(seq, seq)).collect())).into();
        assert_eq!(writer.store(&batches).await, vec![outcome(5, 0, None); 3]);
        assert_eq!(writer.store(&batches).await, vec![outcome(0, 5, None); 3]);
        let partly = [
            batch("a", (4..=7).map(|seq| report(seq, seq)).collect()),
            batch("d", vec![report(1, 1)]),
            batch("b", vec![report(2, 2), report(20, 20), report(21, 20)]),
        ];
        assert_eq!(writer.store(&partly).await, [outcome(2, 2, None), outcome(1, 0, None), outcome(1, 2, None)]);
        for (id, reports) in [("a", 7), ("b", 6), ("c", 5), ("d", 1)] {
            assert_eq!(rig.stream(id).await.map(|stream| stream.1), Some(reports), "{id}");
            assert_eq!(rig.rows(id).await.len() as u64, reports, "{id}");
        }
    }

    /// Invariant 3.
    async fn a_state_changes_only_by_a_higher_position(rig) {
        let mut writer = rig.writer();
        let done = batch("a", vec![report(10, 1), marker(20, Marker::Done)]);
        assert_eq!(writer.store(std::slice::from_ref(&done)).await, [outcome(1, 0, Some(1))]);
        assert_eq!(rig.stream("a").await, Some(("done".to_owned(), 1, 20)));
        assert_eq!(writer.store(&[batch("a", vec![report(15, 2)])]).await, [outcome(1, 0, None)]);
        assert_eq!(rig.stream("a").await, Some(("done".to_owned(), 2, 20)));
        assert_eq!(writer.store(&[batch("a", vec![report(30, 3)])]).await, [outcome(1, 0, None)]);
        assert_eq!(rig.stream("a").await, Some(("open".to_owned(), 3, 30)));
        let gone = batch("a", vec![marker(40, Marker::Disconnected)]);
        assert_eq!(writer.store(&[gone]).await, [outcome(0, 0, Some(3))]);
        assert_eq!(writer.store(&[done]).await, [outcome(0, 1, Some(3))]);
        assert_eq!(rig.stream("a").await, Some(("disconnected".to_owned(), 3, 40)));
    }

    /// It comes late, over another way than the first: nothing is new of it.
    async fn a_late_duplicate_opens_no_stream_again(rig) {
        let mut writer = rig.writer();
        for (id, last, state) in [("a", Marker::Disconnected, "disconnected"), ("b", Marker::Done, "done")] {
            writer.store(&[batch(id, vec![report(10, 1), marker(20, last)])]).await;
            assert_eq!(writer.store(&[batch(id, vec![report(30, 1)])]).await, [outcome(0, 1, None)]);
            assert_eq!(rig.stream(id).await, Some((state.to_owned(), 1, 20)), "{id}");
        }
        let late = batch("a", vec![report(40, 1), marker(41, Marker::Done), report(42, 1)]);
        assert_eq!(writer.store(&[late]).await, [outcome(0, 2, Some(1))]);
        assert_eq!(rig.stream("a").await, Some(("done".to_owned(), 1, 41)));
        assert_eq!(writer.store(&[batch("a", vec![report(50, 1), report(51, 2)])]).await, [outcome(1, 1, None)]);
        assert_eq!(rig.stream("a").await, Some(("open".to_owned(), 2, 51)));
    }

    async fn a_marker_alone_makes_its_stream(rig) {
        let mut writer = rig.writer();
        let batches = [batch("b", vec![marker(5, Marker::Done)]), batch("a", vec![report(6, 1)])];
        assert_eq!(writer.store(&batches).await, [outcome(0, 0, Some(0)), outcome(1, 0, None)]);
        assert_eq!(rig.stream("b").await, Some(("done".to_owned(), 0, 5)));
        assert_eq!(rig.times("b").await, ("1970-01-01 00:00:00.000005".to_owned(), "1970-01-01 00:00:00.000005".to_owned()));
    }

    async fn a_stream_remembers_its_first_and_last_instant(rig) {
        let mut writer = rig.writer();
        for positions in [[500, 600], [100, 200], [300, 400]] {
            writer.store(&[batch("a", positions.map(|at| report(at, at)).into())]).await;
        }
        assert_eq!(rig.times("a").await, ("1970-01-01 00:00:00.000100".to_owned(), "1970-01-01 00:00:00.000600".to_owned()));
    }

    async fn an_instant_is_stored_to_the_microsecond_and_ends_with_the_year_9999(rig) {
        let at = |position, instant| {
            sinks::body(position, Report { accepted_at: instant, ..sinks::plain(position, position) })
        };
        let records = vec![at(1, 1_714_972_800_999_999), at(2, u64::MAX)];
        assert_eq!(rig.writer().store(&[batch("a", records)]).await, [outcome(2, 0, None)]);
        let (first, last) = ("2024-05-06 05:20:00.999999".to_owned(), "9999-12-31 23:59:59.999999".to_owned());
        assert_eq!(rig.times("a").await, (first, last));
    }

    async fn every_value_comes_back_as_it_was_sent(rig) {
        let mut writer = rig.writer();
        let nasty = [
            r#""'); DROP TABLE reports; -- ""#, r#""\\'""#, r#""\\\\\"'""#, r#"{"é":"日本 🦀"}"#, r#""\u0000""#,
            r#""%_/*--#""#, "[1, 2 ,3]", "\"a\\nb\"", "-0.0e-5", "null", "\"''\"",
        ];
        let records = nasty.iter().zip(1..).map(|(data, seq)| with_data(seq, seq, data)).collect();
        assert_eq!(writer.store(&[batch("A.b_c:d-1", records)]).await, [outcome(nasty.len() as u64, 0, None)]);
        let back: Vec<_> = rig.rows("A.b_c:d-1").await.into_iter().map(|row| row.2).collect();
        assert_eq!(back, nasty.map(|data| rig.form().of(data)));
    }

    async fn ids_differ_by_case(rig) {
        let mut writer = rig.writer();
        let batches = [batch("a", vec![report(1, 1)]), batch("A", vec![report(2, 1)])];
        assert_eq!(writer.store(&batches).await, [outcome(1, 0, None), outcome(1, 0, None)]);
    }

    async fn a_time_is_stored_to_the_microsecond_or_refused(rig) {
        let mut writer = rig.writer();
        let timed = |position, time| {
            let mut report = sinks::plain(position, position);
            report.time = Some(time);
            sinks::body(position, report)
        };
        let records = vec![timed(1, 1_714_972_800_123_456), timed(2, -1_500_000), timed(3, i64::MAX), timed(4, 0)];
        let outcomes = writer.store(&[batch("a", records)]).await;
        assert_eq!(outcomes[0].inserted, 3);
        assert_eq!(outcomes[0].refused.iter().map(|refused| refused.index).collect::<Vec<_>>(), [2]);
        assert_eq!(rig.client_times("a").await, [1_714_972_800.123_456, -1.5, 0.0]);
    }

    /// Invariant 5.
    async fn a_poison_row_stands_alone_wherever_it_is(rig) {
        let mut writer = rig.writer();
        for place in 0..10 {
            let id = format!("p{place}");
            let bad = |at| if at == place { "{\"not json" } else { "{}" };
            let records = (0..10).map(|at| with_data(at + 1, at + 1, bad(at))).collect();
            let outcomes = writer.store(&[batch(&id, records)]).await;
            assert_eq!((outcomes[0].inserted, outcomes[0].duplicates), (9, 0), "{place}");
            let [refused] = &outcomes[0].refused[..] else { panic!("{outcomes:?}") };
            assert_eq!(refused.index as u64, place);
            assert_eq!(refused.code, Some(rig.code_of_bad_json()));
            assert_eq!(rig.rows(&id).await.len(), 9);
            assert_eq!(rig.stream(&id).await.map(|stream| stream.1), Some(9));
        }
        assert_eq!(rig.health.status().state, SinkState::Up);
    }

    /// Invariants 5 and 6.
    async fn poison_of_one_id_harms_no_other(rig) {
        let mut writer = rig.writer();
        let batches: Vec<_> = (0..5).map(|n| {
            let data = if n % 2 == 1 { "nope" } else { "1" };
            batch(&format!("id{n}"), vec![report(1, 1), with_data(2, 2, data), report(3, 3), marker(4, Marker::Done)])
        }).collect();
        let outcomes = writer.store(&batches).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            let refused: Vec<_> = outcome.refused.iter().map(|refused| refused.index).collect();
            let (rows, expected) = if n % 2 == 1 { (2, vec![1]) } else { (3, vec![]) };
            assert_eq!((outcome.inserted, outcome.total, refused), (rows, Some(rows), expected), "{n}");
            assert_eq!(rig.stream(&format!("id{n}")).await, Some(("done".to_owned(), rows, 4)));
        }
    }

    async fn json_that_the_sink_cannot_hold_is_refused_for_what_it_is(rig) {
        let mut writer = rig.writer();
        let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
        let records = vec![with_data(1, 1, &deep), with_data(2, 2, "{\"a\":"), with_data(3, 3, "{}")];
        let outcomes = writer.store(&[batch("a", records)]).await;
        assert_eq!(outcomes[0].inserted, 1);
        assert_eq!(outcomes[0].refused.iter().map(|refused| refused.index).collect::<Vec<_>>(), [0, 1]);
    }

    async fn writers_side_by_side_count_each_row_once(rig) {
        let batches = |shift: u64| (0..20).map(|n| batch(&format!("id{n}"), (1..=10).map(|seq| report(seq + shift, seq + shift)).collect())).collect::<Vec<_>>();
        let writers: Vec<_> = (0..4).map(|n| {
            let mut writer = rig.writer();
            let batches = batches(n * 5);
            tokio::spawn(async move { writer.store(&batches).await })
        }).collect();
        let mut inserted = 0;
        for writer in writers {
            inserted += writer.await.expect("no panic").iter().map(|outcome| outcome.inserted).sum::<u64>();
        }
        assert_eq!(inserted, 20 * 25);
        for n in 0..20 {
            assert_eq!(rig.rows(&format!("id{n}")).await.len(), 25);
            assert_eq!(rig.stream(&format!("id{n}")).await.map(|stream| stream.1), Some(25));
        }
    }

    /// A writer that is dropped in the midst of a transaction leaves nothing that stops the next.
    async fn a_cancelled_store_can_be_done_again(rig) {
        let batches: Vec<_> = (0..50).map(|n| batch(&format!("id{n}"), (1..=20).map(|seq| report(seq, seq)).collect())).collect();
        for polls in 0..8 {
            let mut writer = rig.writer();
            let mut store = Box::pin(writer.store(&batches));
            for _ in 0..polls {
                tokio::select! { biased; _ = &mut store => break, () = tokio::task::yield_now() => {} }
            }
        }
        let stored = rig.writer().store(&batches).await;
        assert!(stored.iter().all(|outcome| outcome.inserted + outcome.duplicates == 20));
        for n in 0..50 {
            assert_eq!(rig.stream(&format!("id{n}")).await.map(|stream| stream.1), Some(20));
        }
    }

    /// An empty table in the place of one that was, say, renamed would take replayed reports a second time.
    async fn tables_that_vanish_are_a_matter_for_a_person(rig) {
        let mut writer = rig.writer();
        writer.store(&[batch("a", vec![report(1, 1)])]).await;
        rig.drop_tables().await;
        let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
        rig.health.until(|status| status.state == SinkState::Blocked).await;
        rig.make_tables().await;
        assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
    }

    async fn a_missing_table_blocks_until_it_is_made(rig) {
        let mut rig = rig;
        rig.settings.create_tables = false;
        let mut writer = rig.writer();
        let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
        let blocked = rig.health.until(|status| status.state == SinkState::Blocked).await;
        assert!(blocked.last_error.is_some_and(|text| text.contains("reports")));
        rig.make_tables().await;
        assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
        assert_eq!((rig.health.status().state, rig.health.status().last_error), (SinkState::Up, None));
        assert!(rig.health.retries(Class::Operator) > 0);
    }

    async fn a_key_with_other_content_is_a_dead_letter_that_shows_both(rig) {
        keys::a_key_with_other_content_is_a_dead_letter_that_shows_both(rig).await;
    }

    async fn rows_without_a_digest_are_compared_by_their_values(rig) {
        keys::rows_without_a_digest_are_compared_by_their_values(rig).await;
    }

    async fn a_row_that_somebody_removed_does_not_come_back(rig) {
        keys::a_row_that_somebody_removed_does_not_come_back(rig).await;
    }

    async fn without_marks_a_removed_row_comes_back_and_older_marks_stay(rig) {
        keys::without_marks_a_removed_row_comes_back_and_older_marks_stay(rig).await;
    }

    async fn what_is_remembered_as_settled_never_passes_a_letter_that_is_not_durable(rig) {
        keys::what_is_remembered_as_settled_never_passes_a_letter_that_is_not_durable(rig).await;
    }

    async fn what_a_node_numbered_is_stored_though_the_sink_has_its_number(rig) {
        keys::what_a_node_numbered_is_stored_though_the_sink_has_its_number(rig).await;
    }

    async fn only_what_was_sent_and_may_be_stored_can_be_a_repetition(rig) {
        keys::only_what_was_sent_and_may_be_stored_can_be_a_repetition(rig).await;
    }

    async fn each_of_many_journals_is_remembered_by_its_own_mark(rig) {
        keys::each_of_many_journals_is_remembered_by_its_own_mark(rig).await;
    }
}

#[path = "sinks/claims.rs"]
mod claims;
#[path = "sinks/classes.rs"]
mod classes;
#[path = "sinks/connections.rs"]
mod connections;
#[path = "sinks/files.rs"]
mod files;
#[path = "sinks/hostile.rs"]
mod hostile;
#[path = "sinks/keys.rs"]
mod keys;
#[path = "sinks/logins.rs"]
mod logins;
#[path = "sinks/logs.rs"]
mod logs;
#[path = "sinks/outages.rs"]
mod outages;
#[path = "sinks/set_up.rs"]
mod set_up;
#[path = "sinks/speed.rs"]
mod speed;
#[path = "sinks/tables.rs"]
mod tables;
