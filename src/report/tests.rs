//! What clients are promised about messages and replies.

use super::message::{Echo, Message, Op, Parsed, Rejected};
use super::{Id, Number, Refusal, RefusalKind, Rules, parse, reply};

const LIMIT: usize = 64 * 1024;

fn one(text: &str) -> Result<Message<'_>, Rejected<'_>> {
    match parse(text, LIMIT) {
        Parsed::One(result) => result,
        Parsed::Many(_) => panic!("not one message: {text}"),
    }
}

fn many(text: &str) -> Vec<Result<Message<'_>, Rejected<'_>>> {
    match parse(text, LIMIT) {
        Parsed::Many(results) => results,
        Parsed::One(result) => panic!("not an array: {text}: {result:?}"),
    }
}

fn id(text: &str) -> Id {
    Id::new(text).expect("an id")
}

/// `kind field` of the refusal, or `kind`.
fn refused(text: &str) -> String {
    let rejected = one(text).expect_err(text);
    let name = rejected.refusal.kind.name();
    rejected.refusal.field.map_or(name.to_owned(), |field| format!("{name} {field}"))
}

fn said(write: impl Fn(&mut Vec<u8>)) -> String {
    let mut buf = Vec::new();
    write(&mut buf);
    let text = String::from_utf8(buf).expect("UTF-8");
    serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    text
}

#[test]
fn the_report_of_the_contract_is_read_and_answered_to_the_letter() {
    let data = r#"{"conn_ip":"10.0.0.1:5000","id":7}"#;
    let text = format!(r#"{{"op":"report","id":7,"seq":42,"ref":"a1","time":"1714972800","data":{data},"code":0}}"#);
    let message = one(&text).expect("valid");
    let (seq, time) = (Some(42), Some(1_714_972_800_000_000));
    assert_eq!(message.op, Op::Report { id: id("7"), seq, time, code: 0, data: Some(data) });
    let number = Number { source: 0, seq: 42 };
    assert_eq!(
        said(|buf| reply::ack(buf, &message.echo, Some(number))),
        r#"{"op":"ack","id":7,"source":0,"seq":42,"ref":"a1","code":200}"#
    );
    let refusal = Refusal { message: "…".to_owned(), ..Refusal::backlog_full(&id("7"), 10, 500) };
    assert_eq!(
        said(|buf| reply::error(buf, &message.echo, &refusal)),
        r#"{"op":"error","id":7,"ref":"a1","code":429,"error":"backlog_full","message":"…","retry_after_ms":500}"#
    );
}

#[test]
fn the_done_of_the_contract_is_read_and_answered_to_the_letter() {
    let message = one(r#"{"op":"done","id":7,"ref":"a2"}"#).expect("valid");
    assert_eq!(message.op, Op::Done { id: id("7") });
    assert_eq!(said(|buf| reply::ack(buf, &message.echo, None)), r#"{"op":"ack","id":7,"ref":"a2","code":200}"#);
    assert_eq!(
        said(|buf| reply::done(buf, &message.echo, 42, 0)),
        r#"{"op":"done","id":7,"ref":"a2","code":200,"reports":42,"dead":0}"#
    );
}

#[test]
fn a_ping_needs_nothing_else() {
    let message = one(r#" {"op":"ping"} "#).expect("valid");
    assert_eq!((message.op, message.echo), (Op::Ping, Echo::default()));
    assert_eq!(said(|buf| reply::pong(buf, &message.echo)), r#"{"op":"pong","code":200}"#);
    let message = one(r#"{"op":"ping","ref":-3,"id":"x"}"#).expect("valid");
    assert_eq!(said(|buf| reply::pong(buf, &message.echo)), r#"{"op":"pong","id":"x","ref":-3,"code":200}"#);
}

#[test]
fn a_bad_field_is_named_with_what_it_was_and_what_is_allowed() {
    let rejected = one(r#"{"op":"report","id":"a","ref":1,"seq":"4\n2"}"#).expect_err("seq is text");
    assert_eq!(
        said(|buf| reply::error(buf, &rejected.echo, &rejected.refusal)),
        concat!(
            r#"{"op":"error","id":"a","ref":1,"code":400,"error":"bad_field","field":"seq","message":"seq is \"4\\n2\": "#,
            r#"it must be an integer from 0 to 9007199254740991, without quotes or fraction"}"#
        )
    );
    let long = format!(r#"{{"op":"report","id":"{}"}}"#, "é".repeat(100));
    let rejected = one(&long).expect_err("the id is too long");
    assert_eq!(
        rejected.refusal.message,
        format!("id \"{}…: it is 200 bytes long; an id has 1 to 64 characters", "é".repeat(39))
    );
}

#[test]
fn each_field_is_held_to_its_type_and_range() {
    for (fields, expected) in [
        (r#""id":1"#, "bad_field op"),
        (r#""op":null,"id":1"#, "bad_field op"),
        (r#""op":1,"id":1"#, "bad_field op"),
        (r#""op":"Report","id":1"#, "unknown_op"),
        (r#""op":"","id":1"#, "unknown_op"),
        (r#""op":"report""#, "bad_field id"),
        (r#""op":"done""#, "bad_field id"),
        (r#""op":"done","data":[{"id":1}]"#, "bad_field id"),
        (r#""op":"report","id":null"#, "bad_field id"),
        (r#""op":"report","id":null,"data":{"id":1}"#, "bad_field id"),
        (r#""op":"ping","id":null"#, "bad_field id"),
        (r#""op":"report","id":1.0"#, "bad_field id"),
        (r#""op":"report","id":1e2"#, "bad_field id"),
        (r#""op":"report","id":true"#, "bad_field id"),
        (r#""op":"report","id":{}"#, "bad_field id"),
        (r#""op":"report","id":"""#, "bad_field id"),
        (r#""op":"report","id":"a b""#, "bad_field id"),
        (r#""op":"report","data":{"id":1.5}"#, "bad_field data.id"),
        (r#""op":"report","id":1,"seq":null"#, "bad_field seq"),
        (r#""op":"report","id":1,"seq":-1"#, "bad_field seq"),
        (r#""op":"report","id":1,"seq":1.0"#, "bad_field seq"),
        (r#""op":"report","id":1,"seq":"1""#, "bad_field seq"),
        (r#""op":"report","id":1,"seq":9007199254740992"#, "bad_field seq"),
        (r#""op":"report","id":1,"ref":null"#, "bad_field ref"),
        (r#""op":"report","id":1,"ref":1.5"#, "bad_field ref"),
        (r#""op":"report","id":1,"ref":18446744073709551616"#, "bad_field ref"),
        (r#""op":"report","id":1,"ref":["a"]"#, "bad_field ref"),
        (r#""op":"report","id":1,"time":null"#, "bad_field time"),
        (r#""op":"report","id":1,"time":"""#, "bad_field time"),
        (r#""op":"report","id":1,"time":"now""#, "bad_field time"),
        (r#""op":"report","id":1,"time":1e11"#, "bad_field time"),
        (r#""op":"report","id":1,"code":null"#, "bad_field code"),
        (r#""op":"report","id":1,"code":"0""#, "bad_field code"),
        (r#""op":"report","id":1,"code":2147483648"#, "bad_field code"),
        (r#""op":"report","id":1,"code":1.5"#, "bad_field code"),
        (r#""op":"report","id":1,"id":1"#, "bad_field id"),
        (r#""op":"report","id":1,"data":1,"\u0064ata":1"#, "bad_field data"),
        (r#""op":"report","op":"report","id":1"#, "bad_field op"),
    ] {
        assert_eq!(refused(&format!("{{{fields}}}")), expected, "{fields}");
    }
    let too_long = format!(r#"{{"op":"ping","ref":"{}"}}"#, "x".repeat(65));
    assert_eq!(refused(&too_long), "bad_field ref");
    let longest = format!(r#"{{"op":"ping","ref":"{}"}}"#, r"\u0041".repeat(64));
    assert!(one(&longest).is_ok());
    let extremes =
        r#"{"op":"report","id":-7,"seq":9007199254740991,"code":-2147483648,"ref":18446744073709551615,"time":-1e10}"#;
    let expected = Op::Report {
        id: id("-7"),
        seq: Some(super::key::MAX_EXACT),
        time: Some(-10_000_000_000_000_000),
        code: i32::MIN,
        data: None,
    };
    assert_eq!(one(extremes).expect("valid").op, expected);
}

#[test]
fn what_is_not_json_is_refused_as_a_whole() {
    for text in [
        "",
        " ",
        "7",
        "null",
        "\"a\"",
        "{",
        "{}x",
        "{} {}",
        r#"{"op":"ping",}"#,
        r#"{"op":ping}"#,
        "[",
        "[}",
        "[1",
        "[1,]",
        "[,]",
        "[1]x",
        "[1 2]",
        r#"[{"op":"ping"},{"op":"ping"]"#,
        r#"[{"op":"ping"}}"#,
        "[01]",
        "\u{feff}{}",
        "{\"a\nb\":1}",
        r#"{"op":"report","id":1,"data":{"a":01}}"#,
        r#"{"op":"report","id":1,"data":"\x"}"#,
        r#"{"op":"report","id":"\ud800"}"#,
        r#"{"op":"\ud800"}"#,
        r#"{"op":"ping","ref":"\udc00"}"#,
        r#"{"\ud800":1}"#,
    ] {
        assert_eq!(refused(text), "bad_json", "{text:?}");
    }
}

#[test]
fn unknown_fields_and_the_order_of_fields_do_not_matter() {
    let text = r#"{"x":[{}],"data":null,"code":5,"y":{"op":1},"\u006fp":"\u0072eport","z":1e999,"id":"\u0037"}"#;
    let message = one(text).expect("valid");
    let expected = Op::Report { id: id("7"), seq: None, time: None, code: 5, data: Some("null") };
    assert_eq!(message.op, expected);
    assert_eq!(message.echo.id, Some(r#""\u0037""#), "as sent");
}

#[test]
fn the_id_in_data_counts_where_there_is_no_other_and_where_they_must_agree_may_not_differ() {
    let same = Rules { same_id: true, ..LIMIT.into() };
    let strictly = |text: &str| match parse(text, same) {
        Parsed::One(result) => result.err().map(|rejected| rejected.refusal.kind),
        Parsed::Many(_) => panic!("one message"),
    };
    for data in [r#"{"id":7}"#, r#"{"id":"7"}"#, r#"{"a":{"id":8},"\u0069d":7}"#, r#"{"id":8,"\ud800":1,"id":7}"#] {
        let report = format!(r#"{{"op":"report","data":{data}}}"#);
        let expected = Op::Report { id: id("7"), seq: None, time: None, code: 0, data: Some(data) };
        assert_eq!(one(&report).expect("valid").op, expected, "{data}");
        assert!(one(&report).expect("valid").echo.id.is_some());
        let done = format!(r#"{{"op":"done","data":{data}}}"#);
        assert_eq!(one(&done).expect("valid").op, Op::Done { id: id("7") }, "{data}");
        let both = format!(r#"{{"op":"report","data":{data},"id":"7"}}"#);
        assert_eq!(one(&both).expect("valid").op, expected, "{data}");
        assert_eq!(strictly(&both), None);
        let differ = format!(r#"{{"op":"report","data":{data},"id":70}}"#);
        let expected = Op::Report { id: id("70"), seq: None, time: None, code: 0, data: Some(data) };
        assert_eq!(one(&differ).expect("id wins").op, expected, "{data}");
        assert_eq!(strictly(&differ), Some(RefusalKind::IdMismatch), "{data}");
    }
    for invalid in ["7.0", "true", "[7]", "\"\"", "\"7 \"", "\"\\ud800\""] {
        let text = format!(r#"{{"op":"report","id":7,"data":{{"id":{invalid}}}}}"#);
        assert!(one(&text).is_ok(), "payloads have ids of their own: {invalid}");
        assert_eq!(strictly(&text), Some(RefusalKind::IdMismatch), "{invalid}");
    }
    for absent in [r#"{"id":null}"#, r#"{"Id":8}"#, r#"[{"id":8}]"#, r#""id""#, "null", "8"] {
        let text = format!(r#"{{"op":"report","id":7,"data":{absent}}}"#);
        assert!(one(&text).is_ok(), "{absent}");
    }
}

#[test]
fn an_error_repeats_id_and_ref_wherever_they_could_be_read() {
    for (text, echoed_id, echoed_ref) in [
        (r#"{"id":7,"ref":"r"}"#, Some("7"), Some("\"r\"")),
        (r#"{"op":"nope","data":{"id":"x"},"ref":1}"#, Some("\"x\""), Some("1")),
        (r#"{"op":"report","id":1.5,"ref":1}"#, Some("1.5"), Some("1")),
        (r#"{"op":"report","id":{},"ref":[]}"#, None, None),
        (r#"{"op":"report","id":"\ud800","ref":2}"#, None, Some("2")),
        (r#"{"op":"report","id":1,"id":2,"ref":3}"#, None, Some("3")),
        (r#"{"op":"report","id":1,"ref":2,"ref":3}"#, Some("1"), None),
    ] {
        assert_eq!(one(text).expect_err(text).echo, Echo { id: echoed_id, reference: echoed_ref }, "{text}");
    }
    let long = format!(r#"{{"op":"report","id":"{}"}}"#, "x".repeat(255));
    assert_eq!(one(&long).expect_err("too long").echo, Echo::default());
}

#[test]
fn an_array_is_answered_element_by_element() {
    assert_eq!(many(" [ ] "), vec![]);
    let text = r#" [ {"op":"ping","ref":1} ,7,[{"op":"ping"}],{"op":"x","ref":2},"\ud800",1e999,null,{"\ud800":1},{"op":"ping"}] "#;
    let kinds: Vec<_> = many(text).iter().map(|one| one.as_ref().err().map(|r| r.refusal.kind)).collect();
    let bad = Some(RefusalKind::BadJson);
    assert_eq!(kinds, [None, bad, bad, Some(RefusalKind::UnknownOp), bad, bad, bad, bad, None]);
}

#[test]
fn a_message_over_the_limit_is_refused_alone() {
    let text = r#"[{"op":"ping","ref":1},{"op":"ping","ref":22}]"#;
    let Parsed::Many(results) = parse(text, 21) else { panic!("an array") };
    assert!(results[0].is_ok());
    let rejected = results[1].as_ref().expect_err("22 bytes");
    assert_eq!((rejected.refusal.kind, rejected.echo.reference), (RefusalKind::TooLarge, Some("22")));
    assert!(matches!(parse(r#"{"op":"ping"}"#, 12), Parsed::One(Err(r)) if r.refusal.kind == RefusalKind::TooLarge));
}

#[test]
fn an_array_of_too_many_messages_is_refused_as_a_whole() {
    let most = format!("[{}0]", "0,".repeat(super::parse::MAX_MESSAGES - 1));
    assert_eq!(many(&most).len(), super::parse::MAX_MESSAGES);
    let more = format!("[{}0]", "0,".repeat(super::parse::MAX_MESSAGES));
    assert_eq!(refused(&more), "too_large");
}

#[test]
fn data_may_be_nested_as_deeply_as_it_likes() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", r#"{"id":"#.repeat(100_000), "}".repeat(100_000));
    let valid = format!(r#"{{"op":"report","unknown":{deep},"id":7,"data":{{"x":{deep}}}}}"#);
    for text in [valid.clone(), format!("[{valid}]"), format!(r#"{{"op":"report","id":7,"data":{deep}}}"#)] {
        let result = match parse(&text, usize::MAX) {
            Parsed::One(result) => result,
            Parsed::Many(results) => results.into_iter().next().expect("one"),
        };
        assert!(result.is_ok());
    }
    for field in ["op", "id", "seq", "ref", "time", "code"] {
        let text = format!(r#"{{"op":"report","id":7,"{field}":{objects}}}"#);
        assert!(matches!(parse(&text, usize::MAX), Parsed::One(Err(_))), "{field}");
    }
    let text = format!(r#"{{"op":"report","data":{objects}}}"#);
    assert!(matches!(parse(&text, usize::MAX), Parsed::One(Err(r)) if r.refusal.field == Some("data.id")));
    assert!(matches!(parse(&deep, usize::MAX), Parsed::Many(results) if results.len() == 1));
}

#[test]
fn every_refusal_says_on_the_wire_what_it_is() {
    let id = id("a");
    for (refusal, code) in [
        (Refusal::too_large(65_536), 413),
        (Refusal::too_many(10), 413),
        (Refusal::backlog_full(&id, 10, 500), 429),
        (Refusal::shutting_down(), 503),
        (Refusal::journal_full("the journal holds \"8 GiB\" (max_bytes)", 500), 507),
    ] {
        let text = said(|buf| reply::error(buf, &Echo::default(), &refusal));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&value["code"], &value["error"]), (&code.into(), &refusal.kind.name().into()));
        assert_eq!(value["message"], refusal.message);
        assert_eq!(value.get("retry_after_ms").and_then(|ms| ms.as_u64()), refusal.retry_after_ms);
    }
}
