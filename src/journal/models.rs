//! The queue to the commit thread under every kind of schedule, and what the models of the flushers ask the journal.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::queue::{Command, Queue, Settled};
use crate::report::{Id, Position};
use crate::sync::{check, thread};

#[test]
fn what_is_pushed_is_taken_in_order_and_never_left_waiting() {
    check(|| {
        let queue = Arc::new(Queue::default());
        let pushers: Vec<_> = (0..3).map(|number| pusher(&queue, 10 * number)).collect();
        let mut taken: [Vec<u64>; 3] = Default::default();
        let mut commands = Vec::new();
        while taken.iter().map(Vec::len).sum::<usize>() < 6 {
            queue.take(&mut commands, None);
            for command in commands.drain(..) {
                let Command::Truncate(settled) = command else { panic!("nobody pushed that") };
                settled.in_bundles.into_iter().for_each(|bundle| taken[bundle as usize / 10].push(bundle % 10));
            }
        }
        assert_eq!(taken, [[0, 1], [0, 1], [0, 1]]);
        pushers.into_iter().for_each(|pusher| pusher.join().expect("no panic"));
    });
}

/// Pushes two commands, with numbers from `first` on.
fn pusher(queue: &Arc<Queue>, first: u64) -> thread::JoinHandle<()> {
    let queue = Arc::clone(queue);
    let id = Id::new("a").expect("an id");
    let settled = move |n| Settled { ids: vec![(id, Position(1))], in_bundles: vec![first + n] };
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
