//! What cannot be stored becomes a dead letter, before anything that comes after it in its id is stored.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;

use super::supervisor::Shared;
use crate::journal::{Dead, DeadLetter, LastError};
use crate::report::{Batch, Body, Key, LetterKind};
use crate::sink::{Burial, Bury, Refused};

/// The dead letters of the flushers' journal.
pub(super) struct Graves(pub(super) Arc<Shared>);

impl Bury for Graves {
    fn bury<'a>(&'a self, batch: &'a Batch, refused: &'a [Refused]) -> BoxFuture<'a, Option<Burial>> {
        Box::pin(async move {
            let journal = self.0.journal();
            if let (Some(last), Some(stream)) = (refused.last(), journal.stream(&batch.id)) {
                stream.lock().refused(LastError::new(&last.reason, last.code));
            }
            let buried = journal.bury(dead_letters(batch, refused)).await?;
            for Refused { index, kind, .. } in refused {
                let record = &batch.records[*index];
                if let Body::Report(report) = &record.body {
                    let key = Key { id: batch.id, number: report.number };
                    journal.tell_dead(&batch.id, record.position, Dead { key, kind: *kind });
                }
            }
            Some(Burial { new: buried.new, known: buried.known })
        })
    }
}

fn dead_letters(batch: &Batch, refused: &[Refused]) -> Vec<DeadLetter> {
    let dead_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
    let letter = |refused: &Refused| match &batch.records[refused.index].body {
        Body::Report(report) => {
            let key = Key { id: batch.id, number: report.number };
            let Refused { kind, holder, code, reason, .. } = refused.clone();
            match kind {
                LetterKind::KeyTaken => {
                    tracing::warn!(%key, "the sink has another report under the key of this one; it is in the dead letters");
                }
                _ => tracing::warn!(%key, code, ?reason, "the sink refused a report; it is in the dead letters"),
            }
            let report = report.clone();
            Some(DeadLetter { id: batch.id, report, kind, holder, code, reason, dead_at, is_twin: false })
        }
        Body::Marker(..) => None,
    };
    refused.iter().filter_map(letter).collect()
}
