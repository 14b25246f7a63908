//! What holds for every text and every valid message.

use proptest::prelude::*;

use super::message::{Op, Parsed};
use super::{Id, key, parse, reply, time};

const LIMIT: usize = 64 * 1024;

fn json(depth: u32) -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".*".prop_map(Into::into),
    ];
    leaf.prop_recursive(depth, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map("[a-h]{1,2}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// Text that is nearly a message: pieces of one, in any order.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "d800",
        "op",
        "\"op\":",
        "\"report\"",
        "\"done\"",
        "\"ping\"",
        "\"id\":",
        "7",
        "\"data\":",
        "{\"id\":7}",
        "\"ref\":",
        "\"time\":",
        "\"seq\":",
        "-",
        "1e5",
        "null",
        " ",
        "\n",
        "é",
        "{\"op\":\"report\",\"id\":7,\"data\":",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn check_replies(text: &str) {
    let results = match parse(text, LIMIT) {
        Parsed::One(result) => vec![result],
        Parsed::Many(results) => results,
    };
    let readable = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    for result in &results {
        assert!(readable || result.is_err(), "{text} is no JSON");
        let mut buf = Vec::new();
        match result {
            Ok(message) => reply::ack(&mut buf, &message.echo, None),
            Err(rejected) => reply::error(&mut buf, &rejected.echo, &rejected.refusal),
        }
        serde_json::from_slice::<&serde_json::value::RawValue>(&buf).expect("every reply is JSON");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        check_replies(&text);
    }

    #[test]
    fn no_text_that_is_nearly_a_message_makes_it_panic(text in nearly()) {
        check_replies(&text);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        check_replies(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_valid_report_is_read_as_it_was_said(
        name in "[A-Za-z0-9._:-]{1,64}",
        seq in prop::option::of(0..=key::MAX_EXACT),
        time in prop::option::of(-time::MAX_MICROS..=time::MAX_MICROS),
        code in any::<i32>(),
        reference in prop::option::of("[^\0]{0,16}"),
        data in prop::option::of(json(4)),
        pretty in any::<bool>(),
    ) {
        let data = data.map(|data| match pretty {
            true => serde_json::to_string_pretty(&data).expect("JSON"),
            false => data.to_string(),
        });
        let mut text = format!(r#"{{ "op" : "report", "id":"{name}","code":{code}"#);
        for (field, value) in [
            ("seq", seq.map(|seq| seq.to_string())),
            ("time", time.map(|t| {
                format!("{}{}.{:06}", if t < 0 { "-" } else { "" }, t.abs() / 1_000_000, t.abs() % 1_000_000)
            })),
            ("ref", reference.as_ref().map(|r| serde_json::to_string(r).expect("JSON"))),
            ("data", data.clone()),
        ] {
            if let Some(value) = value {
                text += &format!(",\n\t\"{field}\" : {value}");
            }
        }
        text.push('}');
        let Parsed::One(Ok(message)) = parse(&text, LIMIT) else { panic!("refused: {text}") };
        let expected = Op::Report { id: Id::new(&name).expect("an id"), seq, time, code, data: data.as_deref() };
        prop_assert_eq!(message.op, expected);
        let Op::Report { data: Some(kept), .. } = message.op else { return Ok(()) };
        prop_assert!(text.as_bytes().as_ptr_range().contains(&kept.as_ptr()), "data is a slice of the text");
    }
}
