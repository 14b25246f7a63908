//! Lanes: the sled trees that hold entries. An id leases one to itself while one is free, and shares one by hash when
//! none is; it keeps its lane until it is drained. Trees are made once: a tree an id would cost more with every id.

use crate::report::Id;

/// The number of a lane.
pub type Lane = u16;

/// What the tree of a lane is called.
pub(super) fn name(lane: Lane) -> String {
    format!("lane-{lane:04}")
}

/// Which lanes are free.
#[derive(Debug)]
pub struct Lanes {
    /// Lanes that nobody holds, of those that may be leased.
    free: Vec<Lane>,
    /// How many ids hold each lane, for all lanes on disk.
    holders: Vec<u32>,
    /// Lanes below this may be leased; those above are left from a larger `lanes` setting and only drain.
    leasable: Lane,
}

impl Lanes {
    /// `on_disk` lanes, of which those below `leasable` may be leased; nobody holds one yet.
    pub fn new(leasable: Lane, on_disk: Lane) -> Self {
        Self { free: (0..leasable).rev().collect(), holders: vec![0; usize::from(on_disk.max(leasable))], leasable }
    }

    /// A lane for `id`: its own while one is free.
    pub fn lease(&mut self, id: &Id) -> Lane {
        let lane = self.free.pop().unwrap_or_else(|| {
            let hash = crc32fast::hash(id.as_bytes());
            (hash % u32::from(self.leasable)) as Lane
        });
        self.holders[usize::from(lane)] += 1;
        lane
    }

    /// Notes that an id's entries were found in `lane`.
    pub fn hold(&mut self, lane: Lane) {
        let holders = &mut self.holders[usize::from(lane)];
        *holders += 1;
        if *holders == 1 {
            self.free.retain(|&free| free != lane);
        }
    }

    /// How many ids hold each lane.
    #[cfg(all(test, feature = "models"))]
    pub fn holders(&self) -> &[u32] {
        &self.holders
    }

    /// Gives a lane back.
    pub fn release(&mut self, lane: Lane) {
        let holders = &mut self.holders[usize::from(lane)];
        *holders -= 1;
        if *holders == 0 && lane < self.leasable {
            self.free.push(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> Id {
        Id::new(&n.to_string()).expect("digits")
    }

    #[test]
    fn an_id_has_a_lane_to_itself_while_one_is_free() {
        let mut lanes = Lanes::new(4, 4);
        let mut leased: Vec<_> = (0..4).map(|n| lanes.lease(&id(n))).collect();
        leased.sort_unstable();
        assert_eq!(leased, [0, 1, 2, 3]);
        let shared = lanes.lease(&id(5));
        assert!(shared < 4);
        lanes.release(shared);
        lanes.release(shared);
        assert_eq!(lanes.lease(&id(6)), shared, "free again only when both holders gave it back");
    }

    #[test]
    fn a_lane_left_from_a_larger_setting_is_never_leased() {
        let mut lanes = Lanes::new(1, 3);
        lanes.hold(2);
        lanes.release(2);
        assert_eq!((lanes.lease(&id(1)), lanes.lease(&id(2))), (0, 0));
    }

    #[test]
    fn a_recovered_lane_is_not_leased_again() {
        let mut lanes = Lanes::new(2, 2);
        lanes.hold(0);
        assert_eq!(lanes.lease(&id(1)), 1);
    }
}
