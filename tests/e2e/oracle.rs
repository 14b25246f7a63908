//! The ledger itself: it sees each kind of fault that it is there to see.

use serde_json::json;

use crate::support::ledger::{Ledger, Sent, Verdict};
use crate::support::stored::{Form, Row, Stream};

fn sent(seq: Option<u64>, data: &str) -> Sent {
    Sent { id: "s".to_owned(), seq, data: data.to_owned() }
}

fn row(source: u64, seq: u64, data: &str) -> Row {
    let (data, accepted_at) = (Some(data.to_owned()), String::new());
    Row { id: "s".to_owned(), source, seq, time: None, code: 0, peer: None, data, accepted_at }
}

/// Reports 1 (acknowledged), 2 (not answered), 3 (refused), and one that the node numbered 77 (acknowledged).
fn verdict(rows: &[Row], counted: usize) -> Verdict {
    let ledger = Ledger::default();
    for report in [sent(Some(1), "1"), sent(Some(2), "2"), sent(Some(3), "3"), sent(None, "free")] {
        ledger.sent(&report);
    }
    assert!(ledger.replied(&sent(Some(1), "1"), &json!({"op": "ack", "code": 200, "source": 0, "seq": 1})));
    assert!(!ledger.replied(&sent(Some(3), "3"), &json!({"op": "error", "code": 429})));
    assert!(ledger.replied(&sent(None, "free"), &json!({"op": "ack", "code": 200, "source": 1, "seq": 77})));
    ledger.compare(
        Form::Bytes,
        rows,
        &[Stream { id: "s".to_owned(), state: "open".to_owned(), reports: counted as u64 }],
    )
}

fn faults(rows: &[Row]) -> [usize; 6] {
    let found = verdict(rows, rows.len());
    assert!(found.miscounted.is_empty(), "{found}");
    [found.lost, found.doubled, found.reused, found.unknown, found.altered, found.refused_yet_stored].map(|l| l.len())
}

#[test]
fn the_ledger_takes_what_may_be() {
    let must = [row(0, 1, "1"), row(1, 77, "free")];
    verdict(&must, 2).assert_clean();
    let may = [row(0, 1, "1"), row(0, 2, "2"), row(1, 77, "free")];
    verdict(&may, 3).assert_clean();
}

#[test]
fn the_ledger_sees_every_fault() {
    let (one, free) = (row(0, 1, "1"), row(1, 77, "free"));
    assert_eq!(faults(std::slice::from_ref(&free)), [1, 0, 0, 0, 0, 0], "lost");
    assert_eq!(faults(std::slice::from_ref(&one)), [1, 0, 0, 0, 0, 0], "lost, numbered by the node");
    assert_eq!(faults(&[one.clone(), free.clone(), row(1, 78, "free")]), [0, 1, 0, 0, 0, 0], "doubled");
    assert_eq!(faults(&[one.clone(), free.clone(), row(0, 9, "9")]), [0, 0, 0, 1, 0, 0], "unknown");
    assert_eq!(faults(&[one.clone(), free.clone(), row(1, 9, "9")]), [0, 0, 0, 1, 0, 0], "unknown");
    assert_eq!(faults(&[row(0, 1, " 1"), free.clone()]), [0, 0, 0, 0, 1, 0], "altered");
    assert_eq!(faults(&[one.clone(), free.clone(), row(0, 3, "3")]), [0, 0, 0, 0, 0, 1], "refused and stored");
    assert_eq!(verdict(&[one, free], 3).miscounted.len(), 1, "miscounted");
}

#[test]
fn the_ledger_sees_a_key_that_was_given_twice() {
    let ledger = Ledger::default();
    let ack = json!({"op": "ack", "code": 200, "source": 1, "seq": 77});
    for report in [sent(None, "a"), sent(None, "b")] {
        ledger.sent(&report);
        assert!(ledger.replied(&report, &ack));
    }
    // The second row of one key never was: its report is lost.
    let found =
        ledger.compare(Form::Bytes, &[row(1, 77, "a")], &[Stream { id: "s".into(), state: "open".into(), reports: 1 }]);
    assert_eq!((found.lost.len(), found.reused.len()), (1, 1), "{found}");
}
