//! Who may write as a `node_id`: the claim in the sink's table of nodes, and what is done about another's. Pure, but
//! for the state that a process keeps of its own claim.
//!
//! Two processes that number reports as one node would give out the same keys, and the sink would take reports of one
//! for duplicates of the other's. So the row of a `node_id` names its journal, the journal's start and a random number
//! of that start, and every transaction that stores holds it until its commit.

use std::sync::{Mutex, MutexGuard};

use super::{Class, SinkError};
use crate::config::TableName;
use crate::report::{JournalId, Owner};

/// The journal that claims a `node_id`. Its errors are for a person. All but the first block.
pub trait Claimant: Send + Sync {
    /// Nonces of rows that may be its own, 0 for none; `None` where it does not know.
    fn claims(&self) -> Option<[u64; 2]>;

    /// Notes, durably, that this start claims the row, which has the nonce `found`; 0 where there is none.
    fn note(&self, found: u64) -> Result<[u64; 2], String>;

    /// Gives it a new id, durably, which claims nothing yet.
    fn renew(&self) -> Result<Owner, String>;
}

/// A node's claim to its `node_id`, for as long as the process lives.
pub struct Claim {
    state: Mutex<State>,
    journal: Box<dyn Claimant>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    owner: Owner,
    /// The id that the journal had before it was renewed.
    was: Option<JournalId>,
    /// Nonces of the rows that may be this journal's.
    claims: Option<[u64; 2]>,
    /// Whether the row was this process's own at some time, and another's after that.
    held: bool,
    lost: bool,
}

/// The row of a `node_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub journal: u64,
    pub start: u64,
    pub nonce: u64,
    /// As the sink shows it, in UTC.
    pub claimed_at: String,
}

/// What a row means for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ours,
    /// Nobody's, or of an earlier start of this journal.
    Takeable,
    /// Of this journal, and not written by it: this one is a copy, has a copy, or was restored from an older state.
    Copied,
    /// There was one of this journal's, and it is gone; a copy may have had it meanwhile.
    Gone,
    /// It was this process's own before.
    Lost,
    /// It became this process's own, through another connection, since the row was looked at.
    Outdated,
    /// Of another journal.
    Anothers,
}

/// What is to be done next about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The row is this process's own.
    Hold(Owner),
    /// It is to be made this owner's, if it is still as it was seen.
    Take(Owner),
    /// The row is to be looked at again.
    LookAgain,
}

impl Claim {
    /// The claim of a process that opened its `journal` as `owner`.
    pub fn new(owner: Owner, journal: Box<dyn Claimant>) -> Self {
        let claims = journal.claims();
        Self { state: Mutex::new(State { owner, was: None, claims, held: false, lost: false }), journal }
    }

    /// Who this process is, by now.
    pub fn owner(&self) -> Owner {
        self.state().owner
    }

    /// Whether the row is known to be this process's own. Asked before the row is looked at.
    pub(super) fn is_held(&self) -> bool {
        self.state().held
    }

    /// What to do about the row that was found; `was_held` is what [`Claim::is_held`] said before. May renew the
    /// journal, which blocks.
    ///
    /// # Errors
    /// Of the class operator where it is another's: who holds it, and what to do.
    pub(super) fn step(&self, table: &TableName, found: Option<&Row>, was_held: bool) -> Result<Step, SinkError> {
        let mut state = self.state();
        let verdict = state.judge(found, was_held);
        match (verdict, found) {
            (Verdict::Ours, _) => {
                state.held = true;
                Ok(Step::Hold(state.owner))
            }
            (Verdict::Copied, Some(row)) => {
                self.renew(&mut state)?;
                tracing::warn!(
                    journal = %JournalId(row.journal),
                    renewed = %state.owner.journal,
                    "node_id {} was claimed by another process with a copy of this journal (start {}, at {}), or it \
                     was restored from an older state. It has a new id now, and takes the node_id over; what it \
                     holds is stored again, as duplicates where the sink has it",
                    state.owner.node_id,
                    row.start,
                    row.claimed_at,
                );
                self.take(&mut state, found)
            }
            (Verdict::Gone, _) => {
                self.renew(&mut state)?;
                tracing::warn!(
                    renewed = %state.owner.journal,
                    "the row of node_id {} is gone from {}. Another process with a copy of this journal may have had \
                     it: the journal has a new id now, and what it holds is stored again, as duplicates where the sink has it",
                    state.owner.node_id,
                    table.nodes(),
                );
                self.take(&mut state, found)
            }
            (Verdict::Outdated, _) => Ok(Step::LookAgain),
            (Verdict::Takeable, _) | (_, None) => self.take(&mut state, found),
            (Verdict::Lost | Verdict::Anothers, Some(row)) => {
                state.lost |= verdict == Verdict::Lost;
                Err(state.refused(table, verdict, row))
            }
        }
    }

    fn renew(&self, state: &mut State) -> Result<(), SinkError> {
        let was = Some(state.owner.journal);
        let owner = self.journal.renew().map_err(|error| operator("giving the journal a new id", &error))?;
        *state = State { owner, was, claims: Some([0, 0]), held: false, lost: false };
        Ok(())
    }

    /// The journal knows of its row before there is one.
    fn take(&self, state: &mut State, found: Option<&Row>) -> Result<Step, SinkError> {
        let noted = self.journal.note(found.map_or(0, |row| row.nonce));
        state.claims = Some(noted.map_err(|error| operator("noting the claim in the journal", &error))?);
        Ok(Step::Take(state.owner))
    }

    /// Notes that the row is this process's own: it was written, and that is committed.
    pub(super) fn taken(&self) {
        self.state().held = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of a claim's state panics: it compares and copies")
    }
}

fn operator(doing: &str, error: &str) -> SinkError {
    SinkError::new(Class::Operator, format!("{doing}: {error}"))
}

impl State {
    fn judge(&self, found: Option<&Row>, was_held: bool) -> Verdict {
        let Owner { journal, start, nonce, .. } = self.owner;
        let Some(row) = found else {
            let of_earlier = |claim: &u64| *claim != 0 && *claim != nonce;
            let had_one = self.lost || self.claims.is_some_and(|claims| claims.iter().any(of_earlier));
            let may_be_anothers = had_one && cfg!(not(forebay_plant = "trust_a_copy"));
            return if may_be_anothers { Verdict::Gone } else { Verdict::Takeable };
        };
        let is_this_journals = row.journal == journal.0;
        if is_this_journals && (row.start, row.nonce) == (start, nonce) {
            return Verdict::Ours;
        }
        if self.held {
            return if was_held { Verdict::Lost } else { Verdict::Outdated };
        }
        if self.was.is_some_and(|was| row.journal == was.0) {
            return Verdict::Takeable;
        }
        let is_known = match self.claims {
            Some(claims) if cfg!(not(forebay_plant = "trust_a_copy")) => row.nonce != 0 && claims.contains(&row.nonce),
            _ => row.start < start,
        };
        match is_this_journals {
            true if is_known => Verdict::Takeable,
            true => Verdict::Copied,
            false => Verdict::Anothers,
        }
    }

    fn refused(&self, table: &TableName, verdict: Verdict, row: &Row) -> SinkError {
        let (node_id, nodes) = (self.owner.node_id, table.nodes());
        let (holder, since) = (JournalId(row.journal), &row.claimed_at);
        let text = if row.journal == self.owner.journal.0 {
            format!(
                "node_id {node_id} was taken over by another process with a copy of this node's journal ({holder}, start \
                 {}, at {since} UTC): stop the one of them that should not be there; if this one stays, start it again",
                row.start
            )
        } else {
            let became = if verdict == Verdict::Lost { "was taken over" } else { "is held" };
            format!(
                "node_id {node_id} {became} by another node, with the journal {holder}, at {since} UTC; this node's is {}: \
                 give each node that shares this sink a node_id of its own; or, where that journal is gone for good, \
                 run DELETE FROM {nodes} WHERE node_id = {node_id} AND journal = {}",
                self.owner.journal, row.journal
            )
        };
        SinkError::new(Class::Operator, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { node_id: 1, journal: JournalId(7), start: 5, nonce: 50 };
    /// Where the journal has a new id.
    const RENEWED: Owner = Owner { journal: JournalId(70), ..OWNER };

    struct Journal(Option<[u64; 2]>);

    impl Claimant for Journal {
        fn claims(&self) -> Option<[u64; 2]> {
            self.0
        }

        fn note(&self, found: u64) -> Result<[u64; 2], String> {
            Ok([found, OWNER.nonce])
        }

        fn renew(&self) -> Result<Owner, String> {
            Ok(RENEWED)
        }
    }

    fn claim(claims: Option<[u64; 2]>) -> Claim {
        Claim::new(OWNER, Box::new(Journal(claims)))
    }

    fn row(journal: u64, start: u64, nonce: u64) -> Row {
        Row { journal, start, nonce, claimed_at: "2026-01-02 03:04:05".to_owned() }
    }

    fn table() -> TableName {
        TableName("reports".to_owned())
    }

    fn step(claim: &Claim, found: Option<Row>) -> Result<Step, String> {
        claim.step(&table(), found.as_ref(), claim.is_held()).map_err(|error| error.message)
    }

    #[test]
    fn a_row_that_the_journal_wrote_is_taken_and_where_it_wrote_none_there_is_none() {
        for (claims, found) in [
            (Some([0, 0]), None),
            (Some([40, 41]), Some(row(7, 4, 40))),
            (Some([40, 41]), Some(row(7, 4, 41))),
            (None, None),
            (None, Some(row(7, 4, 1))),
        ] {
            let (claim, is_there) = (claim(claims), found.is_some());
            assert_eq!(step(&claim, found), Ok(Step::Take(OWNER)));
            // Another connection of the process finds none: it looked before the first row was written, or it is gone.
            assert_eq!(step(&claim, None), Ok(Step::Take(if is_there { RENEWED } else { OWNER })));
        }
        assert_eq!(step(&claim(Some([0, 0])), Some(row(7, 5, 50))), Ok(Step::Hold(OWNER)));
    }

    #[test]
    fn a_journal_that_is_a_copy_or_older_gets_a_new_id_before_it_takes_over() {
        for (claims, found) in [
            (Some([40, 41]), row(7, 4, 42)),
            (Some([0, 0]), row(7, 4, 40)),
            (Some([0, 41]), row(7, 6, 0)),
            (None, row(7, 5, 51)),
            (None, row(7, 6, 50)),
        ] {
            let claim = claim(claims);
            assert_eq!(step(&claim, Some(found.clone())), Ok(Step::Take(RENEWED)), "{claims:?} {found:?}");
            assert_eq!(claim.owner(), RENEWED);
            // The row was not written, or nobody knows: it is of the id that the journal had.
            assert_eq!(step(&claim, Some(found)), Ok(Step::Take(RENEWED)));
            claim.taken();
            assert!(step(&claim, Some(row(7, 9, 9))).is_err());
        }
    }

    /// Connections of one process claim side by side: one looked before another's claim was committed.
    #[test]
    fn a_row_that_was_read_before_it_became_ones_own_is_looked_at_again() {
        let claim = claim(Some([40, 0]));
        let (was_held, seen) = (claim.is_held(), row(7, 4, 40));
        assert_eq!(step(&claim, Some(seen.clone())), Ok(Step::Take(OWNER)));
        assert_eq!(step(&claim, Some(row(7, 5, 50))), Ok(Step::Hold(OWNER)));
        let looked_late = claim.step(&table(), Some(&seen), was_held);
        assert_eq!(looked_late.map_err(|error| error.message), Ok(Step::LookAgain));
        step(&claim, Some(seen)).expect_err("who looks now finds that it was taken over");
    }

    /// A copy may have had it meanwhile, and marks of its own in the sink.
    #[test]
    fn a_journal_whose_row_is_gone_gets_a_new_id() {
        assert_eq!(step(&claim(Some([0, 41])), None), Ok(Step::Take(RENEWED)));
        let claim = claim(Some([0, 0]));
        claim.taken();
        assert_eq!(step(&claim, None), Ok(Step::Take(OWNER)), "nobody else had it that is known of");
        step(&claim, Some(row(7, 6, 60))).expect_err("it was taken over");
        assert_eq!(step(&claim, None), Ok(Step::Take(RENEWED)));
        assert_eq!(step(&claim, None), Ok(Step::Take(RENEWED)), "it is not renewed again");
    }

    #[test]
    fn another_journal_is_refused_by_name_with_what_to_do() {
        let said = step(&claim(Some([0, 0])), Some(row(8, 1, 50))).expect_err("it is another's");
        for part in ["node_id 1", "0000000000000008", "2026-01-02 03:04:05", "DELETE FROM report_nodes", "journal = 8"]
        {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_claim_that_was_held_is_never_taken_back_by_itself() {
        for found in [row(7, 6, 51), row(7, 4, 51), row(7, 5, 51), row(8, 1, 1)] {
            let claim = claim(Some([0, 0]));
            claim.taken();
            assert!(step(&claim, Some(found)).is_err());
        }
    }
}
