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

/// Gives the journal a new id, durably. Blocks; an error is for a person.
pub type Renew = Box<dyn Fn() -> Result<Owner, String> + Send + Sync>;

/// A node's claim to its `node_id`, for as long as the process lives.
pub struct Claim {
    state: Mutex<State>,
    renew: Renew,
}

#[derive(Debug, Clone, Copy)]
struct State {
    owner: Owner,
    /// The id that the journal had before it was renewed.
    was: Option<JournalId>,
    /// Whether the row was this process's own at some time.
    held: bool,
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
    /// Of a later start of this journal: this one is a copy, or was restored from an older state.
    Copied,
    /// It was this process's own before.
    Lost,
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
}

impl Claim {
    /// The claim of a process that opened its journal as `owner`; `renew` gives that journal a new id.
    pub fn new(owner: Owner, renew: Renew) -> Self {
        Self { state: Mutex::new(State { owner, was: None, held: false }), renew }
    }

    /// Who this process is, by now.
    pub fn owner(&self) -> Owner {
        self.state().owner
    }

    /// What to do about the row that was found. May renew the journal, which blocks.
    ///
    /// # Errors
    /// Of the class operator where it is another's: who holds it, and what to do.
    pub(super) fn step(&self, table: &TableName, found: Option<&Row>) -> Result<Step, SinkError> {
        let mut state = self.state();
        let verdict = state.judge(found);
        match (verdict, found) {
            (Verdict::Ours, _) => {
                state.held = true;
                Ok(Step::Hold(state.owner))
            }
            (Verdict::Takeable, _) | (_, None) => Ok(Step::Take(state.owner)),
            (Verdict::Copied, Some(row)) => {
                let was = state.owner.journal;
                let renewed = (self.renew)().map_err(|error| {
                    SinkError::new(Class::Operator, format!("giving the journal a new id, as it is a copy: {error}"))
                })?;
                *state = State { owner: renewed, was: Some(was), held: false };
                tracing::warn!(
                    journal = %was,
                    renewed = %renewed.journal,
                    "the sink knows a later start of this journal ({}, at {}): this one is a copy, or was restored from an \
                     older state. It has a new id now, and takes node_id {} over; what it holds is stored again, as \
                     duplicates where the sink has it",
                    row.start,
                    row.claimed_at,
                    renewed.node_id,
                );
                Ok(Step::Take(renewed))
            }
            (Verdict::Lost | Verdict::Anothers, Some(row)) => Err(state.refused(table, verdict, row)),
        }
    }

    /// Notes that the row is this process's own: it was written, and that is committed.
    pub(super) fn taken(&self) {
        self.state().held = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of a claim's state panics: it compares and copies")
    }
}

impl State {
    fn judge(&self, found: Option<&Row>) -> Verdict {
        let Some(row) = found else { return Verdict::Takeable };
        let Owner { journal, start, nonce, .. } = self.owner;
        let is_this_journals = row.journal == journal.0;
        if is_this_journals && (row.start, row.nonce) == (start, nonce) {
            return Verdict::Ours;
        }
        if self.held {
            return Verdict::Lost;
        }
        if self.was.is_some_and(|was| row.journal == was.0) {
            return Verdict::Takeable;
        }
        match is_this_journals {
            true if row.start < start => Verdict::Takeable,
            true => Verdict::Copied,
            false => Verdict::Anothers,
        }
    }

    fn refused(&self, table: &TableName, verdict: Verdict, row: &Row) -> SinkError {
        let (node_id, nodes) = (self.owner.node_id, table.nodes());
        let (holder, since) = (JournalId(row.journal), &row.claimed_at);
        let delete = format!("DELETE FROM {nodes} WHERE node_id = {node_id} AND journal = {}", row.journal);
        let text = if row.journal == self.owner.journal.0 {
            format!(
                "node_id {node_id} was taken over by another process with a copy of this node's journal ({holder}, start \
                 {}, at {since} UTC): stop the one of them that should not be there; if this one stays, start it \
                 again, or run {delete}",
                row.start
            )
        } else {
            let became = if verdict == Verdict::Lost { "was taken over" } else { "is held" };
            format!(
                "node_id {node_id} {became} by another node, with the journal {holder}, at {since} UTC; this node's is {}: \
                 give each node that shares this sink a node_id of its own; or, where that journal is gone for good, \
                 run {delete}",
                self.owner.journal
            )
        };
        SinkError::new(Class::Operator, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { node_id: 1, journal: JournalId(7), start: 5, nonce: 50 };

    fn claim() -> Claim {
        let renewed = Owner { journal: JournalId(70), start: 6, ..OWNER };
        Claim::new(OWNER, Box::new(move || Ok(renewed)))
    }

    fn row(journal: u64, start: u64, nonce: u64) -> Row {
        Row { journal, start, nonce, claimed_at: "2026-01-02 03:04:05".to_owned() }
    }

    fn table() -> TableName {
        TableName("reports".to_owned())
    }

    fn step(claim: &Claim, found: Option<Row>) -> Result<Step, String> {
        claim.step(&table(), found.as_ref()).map_err(|error| error.message)
    }

    #[test]
    fn a_row_of_an_earlier_start_of_the_journal_and_none_at_all_are_taken() {
        for found in [None, Some(row(7, 4, 1)), Some(row(7, 1, 50))] {
            assert_eq!(step(&claim(), found), Ok(Step::Take(OWNER)));
        }
        assert_eq!(step(&claim(), Some(row(7, 5, 50))), Ok(Step::Hold(OWNER)));
    }

    #[test]
    fn a_journal_that_is_a_copy_or_older_gets_a_new_id_before_it_takes_over() {
        for found in [row(7, 5, 51), row(7, 6, 50)] {
            let claim = claim();
            let Ok(Step::Take(renewed)) = step(&claim, Some(found.clone())) else { panic!("{found:?}") };
            assert_eq!((renewed.journal, claim.owner()), (JournalId(70), renewed));
            // The row was not written, or nobody knows: it is of the id that the journal had.
            assert_eq!(step(&claim, Some(found)), Ok(Step::Take(renewed)));
            claim.taken();
            assert!(step(&claim, Some(row(7, 9, 9))).is_err());
        }
    }

    #[test]
    fn another_journal_is_refused_by_name_with_what_to_do() {
        let said = step(&claim(), Some(row(8, 1, 50))).expect_err("it is another's");
        for part in ["node_id 1", "0000000000000008", "2026-01-02 03:04:05", "DELETE FROM report_nodes", "journal = 8"]
        {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_claim_that_was_held_is_never_taken_back_by_itself() {
        for found in [row(7, 6, 51), row(7, 4, 51), row(7, 5, 51), row(8, 1, 1)] {
            let claim = claim();
            claim.taken();
            assert!(step(&claim, Some(found)).is_err());
            assert_eq!(step(&claim, None), Ok(Step::Take(OWNER)), "a person has removed the row");
        }
    }
}
