//! Target `message`: messages of clients, and the replies to them.

use forebay::report::{Message, Number, Op, Parsed, Refusal, Rejected, parse, reply};
use serde_json::value::RawValue;

/// No panic; JSON exactly where serde_json sees JSON; `data` and echoes are slices of the input; replies are
/// JSON.
pub fn message(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // What serde_json takes as a value. Lone surrogates are taken as well: they follow the grammar.
    let json = serde_json::from_str::<&RawValue>(text).is_ok();
    for limit in [usize::MAX, 40] {
        match parse(text, limit) {
            Parsed::One(result) => {
                assert!(json || result.is_err());
                check(text, &result);
            }
            Parsed::Many(results) => {
                assert!(json, "only JSON is an array");
                let elements: Vec<&RawValue> = serde_json::from_str(text).expect("an array");
                assert_eq!(elements.len(), results.len());
                for (element, result) in elements.iter().zip(&results) {
                    check(text, result);
                    // Alone, it is read as it was in the array, but for where an error says that it stood.
                    if let (Parsed::One(alone), Ok(within)) = (parse(element.get(), limit), result) {
                        assert_eq!(alone.as_ref(), Ok(within));
                    }
                }
            }
        }
    }
}

fn check(text: &str, result: &Result<Message<'_>, Rejected<'_>>) {
    let slice = |part: &str| {
        let (whole, part) = (text.as_bytes().as_ptr_range(), part.as_bytes().as_ptr_range());
        assert!(whole.start <= part.start && part.end <= whole.end, "a slice of the input");
    };
    let mut buf = Vec::new();
    let echo = match result {
        Ok(message) => &message.echo,
        Err(rejected) => &rejected.echo,
    };
    [echo.id, echo.reference].into_iter().flatten().for_each(slice);
    match result {
        Ok(Message { op: Op::Report { seq, data, .. }, .. }) => {
            if let Some(data) = data {
                slice(data);
                serde_json::from_str::<&RawValue>(data).expect("data is JSON");
            }
            reply::ack(&mut buf, echo, seq.map(|seq| Number { source: 0, seq }));
        }
        Ok(Message { op: Op::Done { id }, .. }) => {
            for refusal in [Refusal::backlog_full(id, 1, 1), Refusal::journal_full("full", 1), Refusal::shutting_down()]
            {
                let mut buf = Vec::new();
                reply::error(&mut buf, echo, &refusal);
                is_json(&buf);
            }
            reply::done(&mut buf, echo, 1, 0);
        }
        Ok(Message { op: Op::Ping, .. }) => reply::pong(&mut buf, echo),
        Err(rejected) => {
            assert!(rejected.refusal.message.len() < 1024, "errors stay short");
            reply::error(&mut buf, echo, &rejected.refusal);
        }
    }
    is_json(&buf);
}

pub fn is_json(buf: &[u8]) {
    serde_json::from_slice::<&RawValue>(buf).expect("every reply is JSON");
}
