//! Messages from frames, by RFC 6455 where the library is lenient: masks, fragments, control frames, close codes.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{CloseCode, Frame, OpCode, Payload, WebSocketError};

/// The longest payload of a control frame, in bytes (RFC 6455 5.5).
const MAX_CONTROL: usize = 125;

/// What a client's frame completes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A whole message, text or binary, valid UTF-8.
    Text(Bytes),
    /// A ping and its payload.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// The client closes; what it is answered.
    Close(CloseFrame),
}

/// A close frame: code and reason, or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CloseFrame {
    code: Option<u16>,
    reason: Cow<'static, str>,
}

impl CloseFrame {
    /// A close frame; `reason` is at most 123 bytes.
    pub(super) fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Some(code), reason: reason.into() }
    }

    pub(super) fn frame(&self) -> Frame<'_> {
        match self.code {
            Some(code) => Frame::close(code, self.reason.as_bytes()),
            None => Frame::close_raw(Payload::Borrowed(&[])),
        }
    }
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The protocol is broken: 1002.
    Protocol(&'static str),
    /// Text that is not UTF-8: 1007.
    Utf8,
    /// A message over `max_report_bytes`: 1009.
    TooLarge,
}

impl Fault {
    pub(super) fn close(self) -> CloseFrame {
        match self {
            Self::Protocol(what) => CloseFrame::new(1002, what),
            Self::Utf8 => CloseFrame::new(1007, "text is not UTF-8"),
            Self::TooLarge => CloseFrame::new(1009, "message is over max_report_bytes"),
        }
    }

    /// The fault behind an error of the library; `None` where the connection is lost.
    pub(super) fn of(error: &WebSocketError) -> Option<Self> {
        match error {
            WebSocketError::FrameTooLarge => Some(Self::TooLarge),
            WebSocketError::InvalidUTF8 => Some(Self::Utf8),
            WebSocketError::ReservedBitsNotZero => Some(Self::Protocol("reserved bits are set")),
            WebSocketError::ControlFrameFragmented => Some(Self::Protocol("control frame is fragmented")),
            WebSocketError::PingFrameTooLarge => Some(Self::Protocol("control frame is over 125 bytes")),
            WebSocketError::InvalidValue => Some(Self::Protocol("opcode does not exist")),
            WebSocketError::UnexpectedEOF | WebSocketError::IoError(_) => None,
            _ => Some(Self::Protocol("frame cannot be read")),
        }
    }
}

/// The message that is being received.
pub(super) struct Assembly {
    /// Largest message, all fragments added up, in bytes.
    max: usize,
    partial: Option<BytesMut>,
}

impl Assembly {
    pub(super) fn new(max: usize) -> Self {
        Self { max, partial: None }
    }

    /// Bytes of a message that has further fragments.
    pub(super) fn bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, BytesMut::len)
    }

    /// Takes the next frame, unmasked by the library, and returns what it completes.
    pub(super) fn accept(&mut self, mut frame: Frame<'_>) -> Result<Option<Input>, Fault> {
        // The mask stays set after unmasking, and with it the header's mask bit.
        let mut head = [0; 14];
        frame.fmt_head(&mut head);
        if head[1] & 0x80 == 0 {
            return Err(Fault::Protocol("client frames must be masked"));
        }
        let Frame { fin, opcode, .. } = frame;
        let control = matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong);
        if control && frame.payload.len() > MAX_CONTROL {
            return Err(Fault::Protocol("control frame is over 125 bytes"));
        }
        let payload = match frame.payload {
            Payload::Bytes(bytes) => bytes,
            other => BytesMut::from(&*other),
        };
        match opcode {
            OpCode::Ping => Ok(Some(Input::Ping(payload.freeze()))),
            OpCode::Pong => Ok(Some(Input::Pong)),
            OpCode::Close => close_reply(&payload).map(|reply| Some(Input::Close(reply))),
            OpCode::Binary if cfg!(forebay_plant = "text_alone") => Err(Fault::Protocol("binary frame")),
            // JSON is taken however it is framed: many a client's library sends bytes by default.
            OpCode::Binary | OpCode::Text => self.text(fin, payload),
            OpCode::Continuation => self.continuation(fin, &payload),
        }
    }

    fn text(&mut self, fin: bool, payload: BytesMut) -> Result<Option<Input>, Fault> {
        if self.partial.is_some() {
            return Err(Fault::Protocol("new message inside an unfinished one"));
        }
        if payload.len() > self.max {
            return Err(Fault::TooLarge);
        }
        if fin {
            return whole(payload).map(Some);
        }
        // Copied, so that a slow message does not hold the read buffer.
        self.partial = Some(BytesMut::from(&*payload));
        Ok(None)
    }

    fn continuation(&mut self, fin: bool, payload: &[u8]) -> Result<Option<Input>, Fault> {
        let Some(mut message) = self.partial.take() else {
            return Err(Fault::Protocol("continuation of no message"));
        };
        if message.len() + payload.len() > self.max {
            return Err(Fault::TooLarge);
        }
        message.extend_from_slice(payload);
        if fin {
            return whole(message).map(Some);
        }
        self.partial = Some(message);
        Ok(None)
    }
}

fn whole(message: BytesMut) -> Result<Input, Fault> {
    match std::str::from_utf8(&message) {
        Ok(_) => Ok(Input::Text(message.freeze())),
        Err(_) => Err(Fault::Utf8),
    }
}

/// The answer to a client's close frame: its own code.
fn close_reply(payload: &[u8]) -> Result<CloseFrame, Fault> {
    let (code, reason) = match payload {
        [] => return Ok(CloseFrame { code: None, reason: Cow::Borrowed("") }),
        [_] => return Err(Fault::Protocol("close code has one byte")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if std::str::from_utf8(reason).is_err() {
        return Err(Fault::Utf8);
    }
    if !CloseCode::from(code).is_allowed() {
        return Err(Fault::Protocol("close code is not allowed"));
    }
    Ok(CloseFrame::new(code, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(fin: bool, opcode: OpCode, payload: &[u8]) -> Frame<'static> {
        Frame::new(fin, opcode, Some([1, 2, 3, 4]), Payload::Bytes(BytesMut::from(payload)))
    }

    fn protocol(result: Result<Option<Input>, Fault>) -> bool {
        matches!(result, Err(Fault::Protocol(_)))
    }

    #[test]
    fn fragments_are_joined_around_control_frames() {
        let mut assembly = Assembly::new(10);
        assert_eq!(assembly.accept(frame(false, OpCode::Text, b"ab")), Ok(None));
        assert_eq!(assembly.accept(frame(true, OpCode::Ping, b"p")), Ok(Some(Input::Ping(Bytes::from_static(b"p")))));
        assert_eq!(assembly.accept(frame(false, OpCode::Continuation, "é".as_bytes())), Ok(None));
        let whole = assembly.accept(frame(true, OpCode::Continuation, b"c"));
        assert_eq!(whole, Ok(Some(Input::Text(Bytes::from_static("abéc".as_bytes())))));
        assert!(protocol(assembly.accept(frame(true, OpCode::Continuation, b"c"))));
    }

    #[test]
    fn a_binary_message_is_taken_like_text_and_is_utf8_too() {
        let mut assembly = Assembly::new(10);
        let whole = Ok(Some(Input::Text(Bytes::from_static("é".as_bytes()))));
        assert_eq!(assembly.accept(frame(true, OpCode::Binary, "é".as_bytes())), whole);
        assert_eq!(assembly.accept(frame(false, OpCode::Binary, &"é".as_bytes()[..1])), Ok(None));
        assert!(protocol(Assembly::new(10).accept(frame(true, OpCode::Continuation, b"c"))));
        assert_eq!(assembly.accept(frame(true, OpCode::Continuation, &"é".as_bytes()[1..])), whole);
        assert_eq!(assembly.accept(frame(true, OpCode::Binary, b"\xff")), Err(Fault::Utf8));
    }

    #[test]
    fn the_sum_of_fragments_is_capped() {
        let mut assembly = Assembly::new(4);
        assert!(matches!(assembly.accept(frame(true, OpCode::Text, b"abcd")), Ok(Some(_))));
        assert_eq!(assembly.accept(frame(true, OpCode::Text, b"abcde")), Err(Fault::TooLarge));
        assert_eq!(assembly.accept(frame(false, OpCode::Text, b"abc")), Ok(None));
        assert_eq!(assembly.accept(frame(true, OpCode::Continuation, b"de")), Err(Fault::TooLarge));
    }

    #[test]
    fn broken_frames_are_refused() {
        let mut assembly = Assembly::new(1000);
        let unmasked = Frame::new(true, OpCode::Text, None, Payload::Bytes(BytesMut::from("a")));
        assert!(protocol(assembly.accept(unmasked)));
        assert!(protocol(assembly.accept(frame(true, OpCode::Continuation, b"a"))));
        assert!(protocol(assembly.accept(frame(true, OpCode::Pong, &[0; 126]))));
        assert!(protocol(assembly.accept(frame(true, OpCode::Close, &[3]))));
        assert_eq!(assembly.accept(frame(true, OpCode::Text, b"\xff")), Err(Fault::Utf8));
        assert_eq!(assembly.accept(frame(false, OpCode::Text, b"a")), Ok(None));
        assert!(protocol(assembly.accept(frame(true, OpCode::Text, b"a"))));
    }

    #[test]
    fn a_close_is_answered_with_its_code() {
        let close = |payload: &[u8]| Assembly::new(9).accept(frame(true, OpCode::Close, payload));
        assert_eq!(close(&[3, 232, b'x']), Ok(Some(Input::Close(CloseFrame::new(1000, "")))));
        assert_eq!(close(&[]), Ok(Some(Input::Close(CloseFrame { code: None, reason: "".into() }))));
        for refused in [999u16, 1005, 1006, 1015, 5000] {
            assert!(protocol(close(&refused.to_be_bytes())), "{refused}");
        }
        assert_eq!(close(&[3, 232, 0xff]), Err(Fault::Utf8));
    }

    #[test]
    fn every_close_reason_fits_a_control_frame() {
        for fault in [Fault::Utf8, Fault::TooLarge, Fault::Protocol("new message inside an unfinished one")] {
            assert!(fault.close().frame().payload.len() <= MAX_CONTROL);
        }
    }
}
