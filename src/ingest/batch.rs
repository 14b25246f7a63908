//! What leaves a connection in one write, and how it is written.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;
use fastwebsockets::{Frame, Payload};

use super::assembly::CloseFrame;
use super::replies::{EchoText, KEPT_SLOTS, Slot, Unit, Weight, encode_unit};
use crate::journal::{Dead, Drained};
use crate::report::reply;

/// Room for JSON that a large reply has grown past this is given back, in bytes.
pub(super) const KEPT_JSON: usize = 4 * 1024;

/// What follows a reply.
pub(super) struct Event {
    /// It follows the reply to this message.
    pub(super) ticket: u64,
    pub(super) what: What,
}

pub(super) enum What {
    Drained(EchoText, Drained),
    Dead(Dead),
}

/// What leaves in one write.
#[derive(Default)]
pub(super) struct Batch {
    /// What it counts for.
    pub(super) weight: Weight,
    /// Bytes that are encoded already; then there is nothing else.
    pub(super) rest: Vec<u8>,
    pub(super) units: Vec<Unit>,
    pub(super) slots: Vec<Slot>,
    pub(super) events: Vec<Event>,
    pub(super) pongs: VecDeque<Bytes>,
    pub(super) ping: bool,
    pub(super) close: Option<CloseFrame>,
    /// Nothing follows.
    pub(super) last: bool,
    pub(super) json: Vec<u8>,
}

impl Batch {
    /// Writes all frames of the batch, headers and all, behind what `out` has.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>) {
        if out.is_empty() {
            mem::swap(out, &mut self.rest);
        }
        for payload in &self.pongs {
            put(out, Frame::pong(Payload::Borrowed(payload)));
        }
        let mut from = 0;
        for unit in &self.units {
            self.json.clear();
            encode_unit(unit.array, &self.slots[from..from + unit.messages], &mut self.json);
            from += unit.messages;
            put(out, Frame::text(Payload::Borrowed(&self.json)));
        }
        for event in &self.events {
            self.json.clear();
            match &event.what {
                What::Drained(echo, Drained { reports, dead }) => {
                    reply::done(&mut self.json, &echo.get(), *reports, *dead);
                }
                What::Dead(Dead { key, kind }) => reply::dead(&mut self.json, key, *kind),
            }
            put(out, Frame::text(Payload::Borrowed(&self.json)));
        }
        if self.ping {
            put(out, Frame::new(true, fastwebsockets::OpCode::Ping, None, Payload::Borrowed(&[])));
        }
        if let Some(close) = &self.close {
            put(out, close.frame());
        }
        self.release();
    }

    /// Empties it for the next write.
    pub(super) fn clear(&mut self) {
        self.weight = Weight::default();
        self.release();
        self.pongs.clear();
        self.ping = false;
        self.close = None;
    }

    /// Lets go of what is encoded: the client may take it slowly.
    fn release(&mut self) {
        self.units.clear();
        self.units.shrink_to(KEPT_SLOTS);
        self.slots.clear();
        self.slots.shrink_to(KEPT_SLOTS);
        self.events.clear();
        self.events.shrink_to(KEPT_SLOTS);
        self.json.clear();
        self.json.shrink_to(KEPT_JSON);
    }
}

/// A server's frames are not masked, so a header has at most 10 bytes.
fn put(out: &mut Vec<u8>, mut frame: Frame<'_>) {
    let mut head = [0; 14];
    let len = frame.fmt_head(&mut head);
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(&frame.payload);
}
