//! The reading half of a session: frames in, appends and slots out.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::{Frame, Role, WebSocketError, after_handshake_split};
use tokio::io::AsyncRead;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::assembly::{Assembly, CloseFrame, Fault, Input};
use super::backend::Backend;
use super::intake::{Effect, Intake};
use super::listener::Connection;
use super::once::at_once;
use super::outbox::Outbox;
use super::presence::{Attendance, TooMany};
use super::replies::{KEPT_SLOTS, Outcome, SLOT_BYTES, Slot};
use super::source::{Heard, Source};
use crate::access::Grant;
use crate::config::Ingest;
use crate::journal::{Append, Content, Outlet};
use crate::report::parse::MAX_MESSAGES;
use crate::report::{Echo, Parsed, Refusal, RefusalKind, Rules, parse};

/// While the node stops, frames are taken until none came for this long: those that were under way get their refusal.
const GRACE_QUIET: Duration = Duration::from_millis(100);
/// While the node stops, frames are taken for at most this long.
const GRACE: Duration = Duration::from_secs(1);
/// Appends of frames that came together go to the backend together, up to so many.
const HANDED_OVER: usize = 64;

/// Why a session's reading ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a close frame to send.
    Close(CloseFrame),
    /// The client sends no more, but may still read.
    Eof,
    /// The client cannot be reached.
    Gone,
}

/// Reads one connection. It alone gives tickets.
pub(super) struct Reader<'a, K> {
    connection: &'a Connection<K>,
    grant: Grant,
    outbox: Arc<Outbox>,
    /// Cancelled when the node stops, or when the client cannot be written to.
    over: &'a CancellationToken,
    heard: Heard,
    attendance: Attendance,
    assembly: Assembly,
    next_ticket: u64,
    /// Bytes that the replies of the next frame may take without a reservation.
    spare: usize,
    /// Room for the slots of the next frame, so that not each allocates its own; empty.
    slots: Vec<Slot>,
    /// Appends of the frames that were there to be read, and the bytes that are reserved for them. Handed over before
    /// anything is waited for.
    appends: Vec<Append>,
    reserved: usize,
    pinged_at: Option<Instant>,
    /// Set once the node stops: when reading ends at the latest.
    grace_ends: Option<Instant>,
}

impl<'a, K: Backend> Reader<'a, K> {
    pub(super) fn new(
        connection: &'a Connection<K>,
        grant: Grant,
        outbox: Arc<Outbox>,
        over: &'a CancellationToken,
        heard: Heard,
    ) -> Self {
        let ingest = connection.ingest();
        Self {
            connection,
            grant,
            outbox,
            over,
            heard,
            attendance: Attendance::new(connection.presence(), ingest.max_ids_per_connection),
            assembly: Assembly::new(ingest.max_report_bytes),
            next_ticket: 0,
            spare: 0,
            slots: Vec::new(),
            appends: Vec::new(),
            reserved: 0,
            pinged_at: None,
            grace_ends: None,
        }
    }

    /// Reads until the connection is over; returns why, and the ids that it leaves.
    pub(super) async fn run(mut self, source: &mut Source<impl AsyncRead + Unpin>) -> (End, Attendance) {
        let grant = self.grant.clone();
        let end = tokio::select! {
            biased;
            read = self.read_all(source) => match read {
                Ok(never) => match never {},
                Err(end) => end,
            },
            () = grant.ends(), if cfg!(not(forebay_plant = "serve_the_withdrawn")) => withdrawn(),
        };
        self.hand_over();
        (end, self.attendance)
    }

    async fn read_all(&mut self, source: &mut Source<impl AsyncRead + Unpin>) -> Result<Infallible, End> {
        let (mut socket, _) = after_handshake_split(source, tokio::io::sink(), Role::Server);
        socket.set_auto_close(false);
        socket.set_auto_pong(false);
        // The library refuses what is as long as its limit.
        socket.set_max_message_size(self.connection.ingest().max_report_bytes + 1);
        // Both are made once: a timer and a waiter for each frame would cost more than the frame.
        let over = self.over;
        let mut cancelled = std::pin::pin!(over.cancelled());
        let mut alarm = std::pin::pin!(sleep_until(self.heard.last() + self.quiet()));
        loop {
            self.wait_for_room(cancelled.as_mut()).await?;
            let mut sends_nothing = |_: Frame<'_>| std::future::ready(Ok::<(), Infallible>(()));
            // Not cancel-safe: whenever this is dropped before its end, nothing is read again.
            let read = std::pin::pin!(socket.read_frame(&mut sends_nothing));
            let frame = match self.next(read, cancelled.as_mut(), alarm.as_mut()).await? {
                Ok(frame) => frame,
                Err(WebSocketError::UnexpectedEOF) => return Err(End::Eof),
                Err(_) if self.heard.is_cut() => return Err(End::Close(too_slow())),
                Err(error) => return Err(Fault::of(&error).map_or(End::Gone, |fault| self.refuse(fault))),
            };
            if !self.grant.is_in_force() && cfg!(not(forebay_plant = "serve_the_withdrawn")) {
                return Err(withdrawn());
            }
            let input = self.assembly.accept(frame);
            self.heard.frame_ended(self.assembly.bytes());
            match input {
                // Who sends nothing but these must not hold up what came before.
                Ok(None | Some(Input::Pong)) => self.hand_over(),
                Ok(Some(Input::Ping(payload))) => {
                    self.hand_over();
                    self.outbox.pong(payload);
                }
                Ok(Some(Input::Close(reply))) => return Err(End::Close(reply)),
                Ok(Some(Input::Text(text))) => self.message(text, cancelled.as_mut()).await?,
                Err(fault) => return Err(self.refuse(fault)),
            }
        }
    }

    fn patience(&self) -> Duration {
        self.connection.ingest().idle_timeout
    }

    /// A client that is silent for so long is pinged.
    fn quiet(&self) -> Duration {
        self.connection.ingest().ping_interval.min(self.patience() / 2)
    }

    /// The end that a fault of the client means; a message that is too large is answered first.
    fn refuse(&mut self, fault: Fault) -> End {
        if fault == Fault::TooLarge {
            let mut intake = self.intake();
            intake.refuse(&Echo::default(), Refusal::too_large(self.connection.ingest().max_report_bytes));
            self.push(false, &mut intake);
        }
        End::Close(fault.close())
    }

    fn intake(&mut self) -> Intake {
        let outlet = Arc::clone(&self.outbox) as Arc<dyn Outlet>;
        // The clock was read when the bytes were: no further look at it for each frame.
        let mut intake = Intake::new(outlet, self.connection.peer(), self.next_ticket, self.heard.last());
        intake.slots = mem::take(&mut self.slots);
        intake
    }

    fn hand_over(&mut self) {
        if !self.appends.is_empty() {
            self.connection.service().append(mem::take(&mut self.appends), mem::take(&mut self.reserved));
        }
    }

    fn push(&mut self, array: bool, intake: &mut Intake) {
        self.connection.count_refused(&intake.slots);
        let first = self.next_ticket;
        self.next_ticket += intake.slots.len() as u64;
        self.outbox.push(array, first, &mut intake.slots, intake.reply_bytes);
        self.slots = mem::take(&mut intake.slots);
        self.slots.shrink_to(KEPT_SLOTS);
    }

    /// Waits while `max_in_flight` messages are unanswered or unwritten, or their replies take too much memory.
    async fn wait_for_room(&mut self, cancelled: Pin<&mut WaitForCancellationFuture<'_>>) -> Result<(), End> {
        if let Some(spare) = self.outbox.room_now() {
            self.spare = spare;
            return Ok(());
        }
        let outbox = Arc::clone(&self.outbox);
        self.spare = self.deaf(outbox.room(), cancelled).await?;
        Ok(())
    }

    /// Waits without listening to the client.
    async fn deaf<T>(
        &mut self,
        wait: impl Future<Output = T>,
        mut cancelled: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<T, End> {
        self.hand_over();
        let mut wait = std::pin::pin!(wait);
        let mut waited = None;
        if self.grace_ends.is_none() {
            tokio::select! {
                value = wait.as_mut() => waited = Some(value),
                () = cancelled.as_mut() => self.begin_grace()?,
            }
        }
        let value = match (waited, self.grace_ends) {
            (Some(value), _) => value,
            (None, end) => {
                let end = end.unwrap_or_else(Instant::now);
                timeout_at(end, wait).await.map_err(|_| going_away())?
            }
        };
        if self.outbox.is_gone() {
            return Err(End::Gone);
        }
        // Its silence said nothing.
        self.heard.touch();
        Ok(value)
    }

    fn begin_grace(&mut self) -> Result<(), End> {
        if self.outbox.is_gone() {
            return Err(End::Gone);
        }
        self.grace_ends = Some(Instant::now() + GRACE);
        Ok(())
    }

    /// Waits for the next frame, minding the node's stop and the client's silence.
    async fn next<T>(
        &mut self,
        mut read: Pin<&mut impl Future<Output = T>>,
        mut cancelled: Pin<&mut WaitForCancellationFuture<'_>>,
        mut alarm: Pin<&mut Sleep>,
    ) -> Result<T, End> {
        if !self.appends.is_empty() {
            if let Some(frame) = at_once(read.as_mut()).await {
                return Ok(frame);
            }
            self.hand_over();
        }
        while self.grace_ends.is_none() {
            tokio::select! {
                biased;
                () = cancelled.as_mut() => self.begin_grace()?,
                frame = read.as_mut() => return Ok(frame),
                () = alarm.as_mut() => self.mind_silence(alarm.as_mut())?,
            }
        }
        let now = Instant::now();
        let end = self.grace_ends.unwrap_or(now);
        if now >= end || self.outbox.is_gone() {
            return Err(going_away());
        }
        timeout_at(end.min(now + GRACE_QUIET), read).await.map_err(|_| going_away())
    }

    /// Asks a client that is silent for a sign of life, as often as proxies on the way may want to see one, and gives
    /// up
    /// one that gave none.
    fn mind_silence(&mut self, alarm: Pin<&mut Sleep>) -> Result<(), End> {
        let last = self.heard.last();
        let (now, patience, quiet) = (Instant::now(), self.patience(), self.quiet());
        if now >= last + patience {
            tracing::debug!(?patience, "client is silent, connection closed");
            return Err(End::Close(CloseFrame::new(1001, "idle for longer than idle_timeout")));
        }
        let asked = self.pinged_at.filter(|at| *at > last);
        let mut next = asked.unwrap_or(last) + quiet;
        if now >= next {
            self.outbox.ping();
            self.pinged_at = Some(now);
            next = now + quiet;
        }
        alarm.reset(next.min(last + patience));
        Ok(())
    }

    /// Takes one whole message of the socket: one message of the protocol or an array of them.
    async fn message(
        &mut self,
        text: Bytes,
        mut cancelled: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<(), End> {
        let (mut array, mut intake) = self.sort(&text)?;
        while intake.reply_bytes > self.spare && !self.outbox.try_reserve(intake.reply_bytes) {
            // What is sorted is counted nowhere, so the text alone waits.
            let bytes = intake.reply_bytes;
            drop(intake);
            let outbox = Arc::clone(&self.outbox);
            self.deaf(outbox.reserve(bytes), cancelled.as_mut()).await?;
            (array, intake) = self.sort(&text)?;
        }
        let queued = intake.queued_bytes(&text).min(self.connection.ingest().max_queued_bytes);
        if !intake.appends.is_empty() {
            let mut reserving = std::pin::pin!(self.connection.service().reserve(queued));
            if at_once(reserving.as_mut()).await.is_none() {
                self.hand_over();
                let reserved = tokio::select! {
                    biased;
                    () = reserving => true,
                    () = cancelled, if self.grace_ends.is_none() => false,
                };
                if !reserved {
                    self.begin_grace()?;
                    intake.refuse_appends(&Refusal::shutting_down());
                }
                // As in `deaf`: nobody listened meanwhile.
                self.heard.touch();
            }
        }
        let appended = intake.slots.iter_mut().filter(|slot| matches!(slot.outcome, Outcome::Waiting));
        for (append, slot) in intake.appends.iter().zip(appended) {
            slot.pending = match append.content {
                Content::Report(_) => Some(self.attendance.reported(&append.id)),
                Content::Marker(_) => self.attendance.done(&append.id),
            };
        }
        self.push(array, &mut intake);
        if intake.appends.is_empty() {
            return Ok(());
        }
        self.appends.append(&mut intake.appends);
        self.reserved += queued;
        if self.appends.len() >= HANDED_OVER {
            self.hand_over();
        }
        Ok(())
    }

    fn sort(&mut self, text: &Bytes) -> Result<(bool, Intake), End> {
        let Ok(readable) = std::str::from_utf8(text) else { return Err(End::Close(Fault::Utf8.close())) };
        let mut intake = self.intake();
        let Self { attendance, outbox, connection, grant, grace_ends, .. } = self;
        let ingest = connection.ingest();
        let (mut dones, mut pending) = (None, 0);
        let mut gate = |effect: Effect| {
            if grace_ends.is_some() {
                return Err(Refusal::shutting_down());
            }
            grant.admit(effect.id())?;
            match effect {
                Effect::Report(id) => attendance.admit(&id).map_err(|limit| too_many_ids(limit, ingest)),
                Effect::Done(_) => {
                    let waiting = *dones.get_or_insert_with(|| outbox.waiting_dones());
                    connection.dones().admit(waiting + pending, pending)?;
                    pending += 1;
                    Ok(())
                }
            }
        };
        let most = ingest.max_reply_bytes_per_connection;
        let array = match parse(readable, rules(ingest)) {
            Parsed::One(item) => {
                intake.take(text, item, &mut gate);
                false
            }
            Parsed::Many(items) => {
                for item in items {
                    intake.take(text, item, &mut gate);
                    if intake.reply_bytes > most {
                        intake.refuse_all(too_many_replies(most));
                        return Ok((false, intake));
                    }
                }
                true
            }
        };
        Ok((array, intake))
    }
}

fn too_slow() -> CloseFrame {
    CloseFrame::new(1013, "a large message came too slowly while memory was short: send it again later")
}

fn withdrawn() -> End {
    End::Close(CloseFrame::new(1008, "the token was changed or withdrawn: connect again"))
}

fn going_away() -> End {
    End::Close(CloseFrame::new(1001, "the node is stopping"))
}

/// What messages of a WebSocket are held to. An array of more messages than the replies of a connection may take is not
/// read to its end.
fn rules(ingest: &Ingest) -> Rules {
    let max_messages = (ingest.max_reply_bytes_per_connection / SLOT_BYTES).min(MAX_MESSAGES);
    Rules { max_message: ingest.max_report_bytes, max_messages, same_id: ingest.same_id }
}

fn too_many_replies(limit: usize) -> Refusal {
    let message = format!(
        "the replies to this array would take more than {limit} bytes of memory (max_reply_bytes_per_connection): \
         send it in parts"
    );
    Refusal { kind: RefusalKind::TooLarge, field: None, message, retry_after_ms: None }
}

fn too_many_ids(which: TooMany, ingest: &Ingest) -> Refusal {
    let message = match which {
        TooMany::Here => format!(
            "this connection has reported for {} ids (max_ids_per_connection): report for further ids over another one",
            ingest.max_ids_per_connection
        ),
        TooMany::Everywhere => format!(
            "all connections have reported for {} ids (max_ids), and none may report for a further one before some end",
            ingest.max_ids
        ),
    };
    Refusal { kind: RefusalKind::BacklogFull, field: None, message, retry_after_ms: None }
}
