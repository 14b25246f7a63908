//! The queue to the commit thread under every kind of schedule, and what the models of the flushers ask the journal.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::Journal;
use super::lanes::Lane;
use super::queue::{Command, Queue, Settled};
use crate::report::{Id, Position};
use crate::sync::{check, thread};

#[test]
fn what_is_pushed_is_taken_in_order_and_never_left_waiting() {
    check(|| {
        let queue = Arc::new(Queue::default());
        let pushers: Vec<_> = (0..3).map(|lane| pusher(&queue, lane)).collect();
        let mut taken: [Vec<u8>; 3] = Default::default();
        let mut commands = Vec::new();
        while taken.iter().map(Vec::len).sum::<usize>() < 6 {
            queue.take(&mut commands, None);
            for command in commands.drain(..) {
                let Command::Truncate(settled) = command else { panic!("nobody pushed that") };
                settled.in_lanes.into_iter().for_each(|(lane, key)| taken[usize::from(lane)].extend(key));
            }
        }
        assert_eq!(taken, [[0, 1], [0, 1], [0, 1]]);
        pushers.into_iter().for_each(|pusher| pusher.join().expect("no panic"));
    });
}

fn pusher(queue: &Arc<Queue>, lane: Lane) -> thread::JoinHandle<()> {
    let queue = Arc::clone(queue);
    let id = Id::new("a").expect("an id");
    let settled =
        move |n| Settled { ids: vec![(id, Position(1))], in_lanes: vec![(lane, vec![n])], in_bundles: Vec::new() };
    thread::spawn(move || (0..2).for_each(|n| queue.push(Command::Truncate(settled(n)))))
}

/// Whoever waits for an answer learns that none will come.
#[test]
fn what_meets_a_queue_that_is_closed_is_dropped_and_not_kept() {
    check(|| {
        let queue = Arc::new(Queue::default());
        let closer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.close()
        });
        let (done, mut buried) = oneshot::channel();
        queue.push(Command::Bury(Vec::new(), done));
        closer.join().expect("no panic");
        assert_eq!(buried.try_recv(), Err(TryRecvError::Closed));
    });
}

impl Journal {
    /// Invariant 9: each lane is held by the streams of the index that use it, and by nobody else.
    pub(crate) fn assert_lanes_are_held_by_the_index(&self) {
        self.shared.index.assert_lanes_are_held();
    }
}
