//! RFC 6455 as a client and its judge see it: written again, so that it can be held against the server's.

/// How what a client sent ends for its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client sends no more.
    Eof,
    /// The client closed: the code that it must get back.
    Closed(Option<u16>),
    /// The client broke a rule: any of these codes is proper (of two faults of a frame either may be seen first).
    Broken(&'static [u16]),
}

/// The whole text messages that `bytes` carry, and how they end. A message has at most `max` bytes.
pub fn messages(mut bytes: &[u8], max: usize) -> (Vec<String>, End) {
    let mut whole = Vec::new();
    let mut partial: Option<Vec<u8>> = None;
    loop {
        let frame = match Frame::read(bytes, max) {
            Ok(Some((frame, rest))) => {
                bytes = rest;
                frame
            }
            Ok(None) => return (whole, End::Eof),
            Err(codes) => return (whole, End::Broken(codes)),
        };
        let mut message = match (frame.opcode, partial.take()) {
            // Text that is not UTF-8 is refused before it is seen that it must not be there.
            (1 | 2, Some(_)) => return (whole, End::Broken(&[1002, 1007])),
            (1 | 2, None) => Vec::new(),
            (0, Some(before)) => before,
            (0, None) => return (whole, End::Broken(&[1002])),
            (8, _) => return (whole, close(&frame.payload)),
            (_, before) => {
                partial = before;
                continue;
            }
        };
        message.extend_from_slice(&frame.payload);
        if message.len() > max {
            return (whole, End::Broken(&[1009]));
        }
        if !frame.fin {
            partial = Some(message);
            continue;
        }
        match String::from_utf8(message) {
            Ok(text) => whole.push(text),
            Err(_) => return (whole, End::Broken(&[1007])),
        }
    }
}

fn close(payload: &[u8]) -> End {
    match payload {
        [] => End::Closed(None),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let allowed = matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999);
            match (allowed, std::str::from_utf8(reason)) {
                (true, Ok(_)) => End::Closed(Some(code)),
                (true, Err(_)) => End::Broken(&[1007]),
                (false, _) => End::Broken(&[1002, 1007]),
            }
        }
        [_] => End::Broken(&[1002]),
    }
}

/// One frame.
pub struct Frame {
    /// Whether it is the last of its message.
    pub fin: bool,
    /// What it is.
    pub opcode: u8,
    /// Its payload, unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame that a client's bytes begin with; `None` where they end before it does.
    fn read(bytes: &[u8], max: usize) -> Result<Option<(Self, &[u8])>, &'static [u16]> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (fin, opcode, masked) = (first & 0x80 != 0, first & 0x0f, second & 0x80 != 0);
        if first & 0x70 != 0 || (3..8).contains(&opcode) || opcode > 10 {
            return Err(&[1002]);
        }
        let Some((length, rest)) = length(second & 0x7f, rest) else { return Ok(None) };
        let Some((mask, rest)) = rest.split_at_checked(if masked { 4 } else { 0 }) else { return Ok(None) };
        let control = opcode >= 8;
        if control && (!fin || opcode == 9 && length > 125) {
            return Err(&[1002]);
        }
        // A pong or close of this length breaks two rules; the server names this one.
        if length > max as u64 {
            return Err(&[1009]);
        }
        let Some((payload, rest)) = rest.split_at_checked(length as usize) else { return Ok(None) };
        if control && length > 125 {
            return Err(&[1002]);
        }
        if !masked {
            // Text that is not UTF-8 may be seen to be none first.
            return Err(&[1002, 1007]);
        }
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        Ok(Some((Self { fin, opcode, payload }, rest)))
    }
}

fn length(short: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    match short {
        126 => rest.split_first_chunk::<2>().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest)),
        127 => rest.split_first_chunk::<8>().map(|(length, rest)| (u64::from_be_bytes(*length), rest)),
        short => Some((short.into(), rest)),
    }
}

/// The frames of a server: unmasked, whole, each with the shortest length. A last one that is cut off is left out.
pub fn replies(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert!(first & 0xf0 == 0x80 && matches!(first & 0x0f, 1 | 8 | 9 | 10), "a frame that a server does not send");
        let Some((length, rest)) = length(*second, rest) else { break };
        assert!(second & 0x80 == 0 && (*second < 126 || length > 125) && (*second < 127 || length > 65_535));
        let Some((payload, rest)) = rest.split_at_checked(length as usize) else { break };
        frames.push((first & 0x0f, payload));
        bytes = rest;
    }
    frames
}

/// A client's frame, masked with zeros.
pub fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(long).expect("inputs are short").to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}
