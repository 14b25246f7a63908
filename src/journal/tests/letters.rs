//! Dead letters, kept and read back.

use super::*;
use crate::report::{LetterKind, Report};

fn letter_of(id: &str, report: Report) -> DeadLetter {
    let (kind, reason) = (LetterKind::Refused, "no".into());
    DeadLetter { id: id_of(id), report, kind, holder: None, code: Some(1), reason, dead_at: 2, is_twin: false }
}

/// A device that counts anew: two reports have one key, and the sink takes neither.
#[tokio::test]
async fn dead_letters_of_one_key_and_other_content_are_kept_beside_each_other() {
    let bench = Bench::new();
    let report = |code| {
        let number = Number { source: 0, seq: 1 };
        Report { number, time: None, code, peer: None, data: None, accepted_at: 1 }
    };
    let letters = [1, 2, 3, 2, 1].map(|code| letter_of("a", report(code)));
    assert_eq!(bench.journal().bury(letters.to_vec()).await, Some(Buried { new: 3, known: 2 }));
    let kept = bench.journal().dead_letters(None, None, None, 10).expect("a sound journal");
    assert_eq!(kept.iter().map(|letter| letter.report.code).collect::<std::collections::BTreeSet<_>>().len(), 3);
    for letter in &kept {
        assert_eq!(bench.journal().dead_letter(letter.key()).expect("a sound journal").as_ref(), Some(letter));
    }
    let behind =
        bench.journal().dead_letters(Some(&id_of("a")), None, Some(kept[1].key()), 10).expect("a sound journal");
    assert_eq!(behind, kept[2..]);
}

#[tokio::test]
async fn a_dead_letter_is_kept_once_and_counted_after_a_restart() {
    let mut bench = Bench::new();
    let number = Number { source: 0, seq: 1 };
    let report = Report { number, time: None, code: 0, peer: None, data: None, accepted_at: 1 };
    let letter = letter_of("a", report);
    assert_eq!(bench.journal().bury(vec![letter.clone(), letter]).await, Some(Buried { new: 1, known: 1 }));
    bench.reopen();
    assert_eq!(bench.metrics.audit.snapshot().dead, 1);
}
