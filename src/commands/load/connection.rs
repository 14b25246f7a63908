//! One connection: sends what is due, books what it is told, and comes back when it is lost.
//!
//! Invariants:
//! 1. Replies are held against the reports in the order in which they were sent; one that does not fit ends the load.
//! 2. A report that its client numbered is sent until it is acknowledged or refused for good, also over the next
//!    connection. One that the node numbers is sent again only after a refusal: else it could become two rows.
//! 3. Unacknowledged reports are at most the window, those that wait to be sent again among them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::either::Either;

use super::super::route::Stream;
use super::alarm::Alarm;
use super::arguments::{Numbering, Plan};
use super::ledger::{Part, key_digest};
use super::message::{Share, Template, reference};
use super::reply::{self, Reply, Told};
use super::shared::Shared;

/// An open WebSocket.
pub type Socket = WebSocketStream<Stream>;

/// The first and the longest wait before a lost connection is made anew.
const KNOCK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// How long a node may take over the handshake, or over the end of a connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The longest that a node's `retry_after_ms` is waited for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Bytes that are read at a time: some 150 acks. The library's own default takes 128 KiB a connection.
const READ_BUFFER: usize = 16 * 1024;

/// Opens a WebSocket.
///
/// # Errors
/// Why there is none.
pub async fn connect(plan: &Plan) -> anyhow::Result<Socket> {
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let opening = async {
        let stream = plan.route.connect().await?;
        let local = match &stream {
            Either::Left(plain) => plain.local_addr(),
            Either::Right(tls) => tls.get_ref().0.local_addr(),
        };
        plan.addresses.lock().expect("no holder panics").insert(local?.ip().to_canonical());
        let opened = client_async_with_config(plan.request.clone(), stream, Some(config)).await;
        let (socket, _) = opened.map_err(|error| refused(error, plan))?;
        Ok(socket)
    };
    tokio::time::timeout(HANDSHAKE, opening).await?
}

/// Why the handshake was for nothing.
fn refused(error: tungstenite::Error, plan: &Plan) -> anyhow::Error {
    let advice = match &error {
        tungstenite::Error::Http(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
            let shown = plan.request.headers().contains_key(AUTHORIZATION);
            Some(if shown { "the token of --token-file is not taken" } else { "give --token-file" })
        }
        tungstenite::Error::Http(answer) if answer.status() == StatusCode::FORBIDDEN => {
            Some("the token of --token-file may not send reports")
        }
        _ => None,
    };
    match advice {
        Some(advice) => anyhow::anyhow!("{error}; {advice}"),
        None => error.into(),
    }
}

/// A report that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// Which of the connection's reports.
    nth: u64,
    reference: u64,
    /// When it was to be sent the first time.
    due: Instant,
}

/// How a conversation ended.
enum Ended {
    /// Nothing is left to do.
    Done,
    /// The connection is gone.
    Lost,
    /// No ack came for too long.
    GaveUp,
    /// The node said what it never should, or the client cannot go on.
    Broken(String),
}

/// One connection and its reports.
pub struct Connection {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    number: u64,
    share: Share,
    template: Template,
    alarm: Alarm,
    /// The next new report, and the one after the last.
    next: u64,
    end: u64,
    messages: u64,
    /// Sent, and no reply yet.
    outstanding: VecDeque<Sent>,
    /// How many reports each of the messages without a reply has.
    lengths: VecDeque<usize>,
    /// To be sent again.
    again: VecDeque<Sent>,
    /// Nothing is sent before this, as the node asked.
    not_before: Option<Instant>,
    /// The last ack, or the first report that waited for one.
    progress: Instant,
    part: Part,
}

impl Connection {
    /// Connection number `number`, and what it is to send.
    pub fn new(plan: Arc<Plan>, shared: Arc<Shared>, number: u64) -> Self {
        let share = Share::new(number, plan.connections, plan.shape.ids);
        Self {
            share,
            template: plan.template.clone(),
            alarm: Alarm::default(),
            next: 0,
            end: plan.reports(number),
            messages: 0,
            outstanding: VecDeque::new(),
            lengths: VecDeque::new(),
            again: VecDeque::new(),
            not_before: None,
            progress: shared.start,
            part: Part::new(share, plan.shape.numbering),
            plan,
            shared,
            number,
        }
    }

    /// Sends all reports, or until the load stops and all that was sent is answered; what became of them.
    pub async fn run(mut self, socket: Socket) -> Part {
        let mut socket = Some(socket);
        while let Some(open) = socket.take() {
            match self.converse(open).await {
                Ended::Done => break,
                Ended::Lost => {
                    self.lost();
                    if self.is_finished() {
                        break;
                    }
                    socket = self.reconnect().await;
                }
                Ended::GaveUp => {
                    self.shared.gave_up.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ended::Broken(what) => {
                    self.shared.broken(what);
                    break;
                }
            }
        }
        let left = self.outstanding.iter().chain(&self.again).map(|sent| sent.nth);
        self.part.unknown.extend(left);
        self.part.sent = self.next;
        self.part
    }

    async fn converse(&mut self, mut socket: Socket) -> Ended {
        let shared = Arc::clone(&self.shared);
        let mut stopped = pin!(shared.stop.cancelled());
        let mut check = tokio::time::interval((self.plan.patience / 4).min(Duration::from_secs(5)));
        loop {
            if shared.stop.is_cancelled() {
                self.stop();
            }
            let due = match self.send(&mut socket) {
                Ok(due) => due,
                Err(_) => return Ended::Lost,
            };
            if self.is_finished() {
                close(socket).await;
                return Ended::Done;
            }
            tokio::select! {
                biased;
                received = receive(&mut socket) => match self.hear(received, &mut socket) {
                    None => {}
                    Some(ended) => return ended,
                },
                rang = self.alarm.until(due) => if let Err(error) = rang {
                    return Ended::Broken(format!("a timer cannot be had: {error}; raise the limit of open files (ulimit -n)"));
                },
                () = &mut stopped, if self.end > self.next => {}
                _ = check.tick() => if self.is_stuck() {
                    return Ended::GaveUp;
                },
            }
        }
    }

    /// Sends what is due and has room; when to send again, where that is a matter of time.
    fn send(&mut self, socket: &mut Socket) -> tungstenite::Result<Option<Instant>> {
        let now = Instant::now();
        if let Some(until) = self.not_before {
            if now < until {
                return Ok(Some(until));
            }
            self.not_before = None;
        }
        loop {
            let room = self.plan.in_flight - self.outstanding.len();
            if !self.again.is_empty() {
                let count = self.plan.array.min(room).min(self.again.len());
                if count == 0 {
                    return Ok(None);
                }
                let reports: Vec<Sent> = self.again.drain(..count).collect();
                self.shared.resent.fetch_add(count as u64, Ordering::Relaxed);
                self.send_message(socket, reports)?;
                continue;
            }
            let count = (self.plan.array as u64).min(self.end - self.next) as usize;
            if count == 0 || room < count {
                return Ok(None);
            }
            let due = self.due().unwrap_or(now);
            if due > now {
                return Ok(Some(due));
            }
            let reports = (self.next..self.next + count as u64).map(|nth| Sent { nth, reference: 0, due }).collect();
            self.next += count as u64;
            self.shared.sent.fetch_add(count as u64, Ordering::Relaxed);
            self.send_message(socket, reports)?;
        }
    }

    /// When the next new message is due, where there is a rate.
    fn due(&self) -> Option<Instant> {
        let due = self.plan.due(self.number, self.next / self.plan.array as u64)?;
        Some(self.shared.start + due)
    }

    /// Queues one message; it leaves when the socket is next asked for what came.
    fn send_message(&mut self, socket: &mut Socket, reports: Vec<Sent>) -> tungstenite::Result<()> {
        if self.outstanding.is_empty() && self.again.is_empty() {
            self.progress = Instant::now();
        }
        let is_array = self.plan.array > 1;
        let mut text = Vec::with_capacity(reports.len() * (self.plan.shape.size + 1) + 1);
        self.lengths.push_back(reports.len());
        for (at, mut sent) in reports.into_iter().enumerate() {
            if is_array {
                text.push(if at == 0 { b'[' } else { b',' });
            }
            sent.reference = reference(self.messages);
            self.messages += 1;
            self.template.write(&mut text, self.share.id(sent.nth), self.share.number(sent.nth), sent.reference);
            self.outstanding.push_back(sent);
        }
        if is_array {
            text.push(b']');
        }
        self.shared.bytes_sent.fetch_add(text.len() as u64, Ordering::Relaxed);
        let text = String::from_utf8(text).expect("a template and its digits are ASCII");
        socket.start_send_unpin(Message::text(text))
    }

    /// Books what came, and what else is there by now.
    fn hear(&mut self, received: Option<tungstenite::Result<Message>>, socket: &mut Socket) -> Option<Ended> {
        let mut received = Some(received);
        while let Some(message) = received {
            match message {
                Some(Ok(Message::Text(text))) => {
                    if let Err(what) = self.book(&text) {
                        return Some(Ended::Broken(format!("the node broke the protocol: {what}")));
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(_) | Message::Frame(_))) => {
                    return Some(Ended::Broken("the node broke the protocol: a binary message".to_owned()));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Some(Ended::Lost),
            }
            received = socket.next().now_or_never();
        }
        None
    }

    /// Books the replies to the oldest message.
    fn book(&mut self, text: &str) -> Result<(), String> {
        self.shared.bytes_received.fetch_add(text.len() as u64, Ordering::Relaxed);
        let length = self.lengths.pop_front().ok_or("a reply came, and nothing waits for one")?;
        let replies = reply::read(text, self.plan.array > 1 && !text.starts_with('{'))?;
        if replies.len() != length && !text.starts_with('{') {
            return Err(format!("{} replies came to an array of {length}", replies.len()));
        }
        // An array that cannot be read as a whole has one error for all of it.
        let replies = (0..length).map(|at| &replies[at.min(replies.len() - 1)]);
        let mut acked = Vec::with_capacity(length);
        let booked = replies.into_iter().try_for_each(|reply| self.book_one(reply, &mut acked));
        if !acked.is_empty() {
            self.progress = Instant::now();
            self.shared.acks(self.number, acked.into_iter());
        }
        booked
    }

    /// Books the reply to the oldest report. Where it is no reply to that, the report stays without one.
    fn book_one(&mut self, reply: &Reply<'_>, acked: &mut Vec<Instant>) -> Result<(), String> {
        let sent = *self.outstanding.front().ok_or("a reply came, and nothing waits for one")?;
        let id = self.share.id(sent.nth);
        let told = reply.to(|text| self.plan.shape.number_of(text) == Some(id), sent.reference)?;
        match told {
            Told::Acked(source, seq) => {
                self.check_key(sent, source, seq)?;
                acked.push(sent.due);
            }
            Told::Again(error, wait) => {
                self.shared.error(error);
                let until = Instant::now() + Duration::from_millis(wait).min(MAX_WAIT);
                self.not_before = self.not_before.max(Some(until));
                self.again.push_back(sent);
            }
            Told::Refused(error) => {
                self.shared.error(error);
                self.part.refused.push(sent.nth);
            }
        }
        self.outstanding.pop_front();
        Ok(())
    }

    /// Whether an ack has the number that the report was sent with, or one of the node's.
    fn check_key(&mut self, sent: Sent, source: u16, seq: u64) -> Result<(), String> {
        let number = self.share.number(sent.nth);
        match self.plan.shape.numbering {
            Numbering::Client if (source, seq) == (0, number) => {}
            Numbering::Server if source != 0 => {
                let keys = &mut self.part.keys[self.share.own(sent.nth) as usize];
                *keys = keys.wrapping_add(key_digest(number, source, seq));
            }
            _ => return Err(format!("an ack has source {source} and seq {seq} for report {number}")),
        }
        Ok(())
    }

    /// Sorts out what had no reply when the connection was lost.
    fn lost(&mut self) {
        self.lengths.clear();
        self.not_before = None;
        if self.outstanding.is_empty() && self.again.is_empty() {
            self.progress = Instant::now();
        }
        match self.plan.shape.numbering {
            Numbering::Client => {
                for sent in std::mem::take(&mut self.outstanding).into_iter().rev() {
                    self.again.push_front(sent);
                }
            }
            Numbering::Server => self.part.unknown.extend(self.outstanding.drain(..).map(|sent| sent.nth)),
        }
    }

    /// Knocks until the node is there again; `None` where there is nothing left to do, or it takes too long.
    async fn reconnect(&mut self) -> Option<Socket> {
        let mut wait = KNOCK.0;
        loop {
            if self.shared.stop.is_cancelled() {
                self.stop();
            }
            if self.is_finished() {
                return None;
            }
            if let Ok(socket) = connect(&self.plan).await {
                self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
                return Some(socket);
            }
            if self.progress.elapsed() > self.plan.patience {
                self.shared.gave_up.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(KNOCK.1);
        }
    }

    /// Nothing new is sent any more; counts what should have been.
    fn stop(&mut self) {
        let due = self.plan.due_within(self.number, self.shared.start.elapsed());
        let unsent = due.map_or(0, |due| due.min(self.end).saturating_sub(self.next));
        self.shared.unsent.fetch_add(unsent, Ordering::Relaxed);
        self.end = self.end.min(self.next);
    }

    fn is_finished(&self) -> bool {
        self.next >= self.end && self.outstanding.is_empty() && self.again.is_empty()
    }

    fn is_stuck(&self) -> bool {
        let waits = !self.outstanding.is_empty() || !self.again.is_empty();
        waits && self.progress.elapsed() > self.plan.patience
    }
}

/// Sends what is queued, as far as the node takes it, and waits for what comes: neither waits for the other.
async fn receive(socket: &mut Socket) -> Option<tungstenite::Result<Message>> {
    poll_fn(|context| match socket.poll_flush_unpin(context) {
        Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
        Poll::Ready(Ok(())) | Poll::Pending => socket.poll_next_unpin(context),
    })
    .await
}

/// Closes in order; what the node still says does not matter.
async fn close(mut socket: Socket) {
    let closing = async {
        if socket.close(None).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = tokio::time::timeout(HANDSHAKE, closing).await;
}
