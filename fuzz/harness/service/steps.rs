//! What may happen to a node, and how bytes say it.

use forebay::report::Marker;

/// Ids that steps use.
pub const IDS: usize = 5;
/// Steps that one input may have; what follows is left out.
pub const MAX_STEPS: usize = 64;
/// Bytes that say one step.
pub const STEP_BYTES: usize = 3;

/// How the nodes of one case are set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Fewer than there are ids, so that some share one.
    pub lanes: u16,
    /// Reports at which a flusher acts by itself.
    pub batch: usize,
    /// Rows of one transaction, and records of one entry.
    pub max_rows: usize,
    /// Backlog of one id.
    pub max_backlog: u64,
    /// Whether a node drains before it stops.
    pub drains: bool,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Reports arrive, in one array.
    Append(Append),
    /// A marker arrives; with `drains`, its sender waits until it is in the sink.
    Mark { id: usize, marker: Marker, waits: bool, drains: bool },
    /// All answers come that are due.
    Wait,
    /// Flushers and drainers get on a little.
    Breathe(u8),
    /// The sink refuses poison from now on, or takes it.
    Refuse(bool),
    /// A dead letter is tried again, the one at this place.
    Retry(usize),
    /// All are.
    RetryAll,
    /// One is discarded.
    Discard(usize),
    /// The sink is held against the model.
    Look,
    /// The node stops in order, and starts again.
    Restart,
    /// The node is killed, and starts again.
    Crash,
}

/// Reports that arrive in one array.
#[derive(Debug, Clone, Copy)]
pub struct Append {
    pub id: usize,
    /// Each for the next id.
    pub spread: bool,
    pub count: usize,
    pub numbered: Numbered,
    /// Every second one is refused by the sink, while that refuses.
    pub poison: bool,
    /// Each has an entry of its own.
    pub large: bool,
    pub waits: bool,
}

/// Who numbers reports.
#[derive(Debug, Clone, Copy)]
pub enum Numbered {
    ByNode,
    /// The client, with numbers that it used for nothing else.
    Anew,
    /// The client, from this number on, which it may have used.
    From(u64),
}

/// The case that an input says; `None` where it is too short.
pub fn decode(input: &[u8]) -> Option<(Setup, Vec<Step>)> {
    let (&first, rest) = input.split_first()?;
    let pick = |shift: u8, of: [usize; 4]| of[usize::from(first >> shift & 3)];
    let setup = Setup {
        lanes: 1 + u16::from(first & 1),
        batch: pick(1, [1, 3, 10, 1_000]),
        max_rows: pick(3, [2, 5, 1_000, 1_000]),
        max_backlog: pick(5, [4, 16, 1_000, 1_000]) as u64,
        drains: first >> 7 == 1,
    };
    let steps = rest.chunks_exact(STEP_BYTES).take(MAX_STEPS);
    Some((setup, steps.map(|bytes| step(bytes[0], bytes[1], bytes[2])).collect()))
}

fn step(kind: u8, a: u8, b: u8) -> Step {
    let flag = |bit: u8| b >> bit & 1 == 1;
    let id = usize::from(a & 7) % IDS;
    let marker = if flag(0) { Marker::Disconnected } else { Marker::Done };
    match kind % 16 {
        0..=5 => Step::Append(Append {
            id,
            spread: flag(0),
            count: 1 + usize::from(a >> 3 & 7),
            numbered: match b >> 1 & 3 {
                0 => Numbered::Anew,
                1 => Numbered::From(u64::from(b >> 6)),
                _ => Numbered::ByNode,
            },
            poison: flag(3),
            large: a >> 6 == 3,
            waits: flag(4) || flag(5),
        }),
        6 => Step::Mark { id, marker, waits: flag(1), drains: false },
        7 => Step::Mark { id, marker: Marker::Done, waits: true, drains: true },
        8 => Step::Wait,
        9 => Step::Breathe(a & 15),
        10 => Step::Refuse(flag(0)),
        11 => Step::Retry(usize::from(a)),
        12 if flag(0) => Step::RetryAll,
        12 => Step::Discard(usize::from(a)),
        13 => Step::Look,
        14 => Step::Restart,
        _ => Step::Crash,
    }
}
