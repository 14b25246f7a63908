//! From text to messages. One pass over the JSON; nothing is allocated for a valid message without escapes.
//!
//! The grammar is checked by serde_json, whose way past a value that is only kept or skipped is a loop: `data` may be
//! nested as deeply as it likes.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use super::field::{self, OpName};
use super::message::{Echo, MAX_ECHOED_ID_BYTES, Message, Op, Parsed, Rejected};
use super::reply::Refusal;

/// Messages in one array or request, at most. A frame of 96 KiB cannot hold as many valid ones.
pub const MAX_MESSAGES: usize = 65_536;

/// What is held to while messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of one message.
    pub max_message: usize,
    /// Messages of an array.
    pub max_messages: usize,
    /// Whether `id` and `data.id` must agree where both are there. Else `data.id` is looked at only where `id` is
    /// missing.
    pub same_id: bool,
}

impl From<usize> for Rules {
    /// Messages of at most so many bytes, and the default for everything else.
    fn from(max_message: usize) -> Self {
        Self { max_message, max_messages: MAX_MESSAGES, same_id: false }
    }
}

/// Reads one message, or an array of them.
///
/// Never fails as a whole: what cannot be read becomes a [`Rejected`] in the place where its reply belongs. A text that
/// is not JSON is one rejected message, even where it starts like an array.
pub fn parse(text: &str, rules: impl Into<Rules>) -> Parsed<'_> {
    let rules = rules.into();
    match after_space(text).as_bytes().first() {
        Some(b'[') => match array(text, rules) {
            Ok(messages) => Parsed::Many(messages),
            Err(refusal) => Parsed::One(Err(refusal.into())),
        },
        Some(b'{') => Parsed::One(match object(text) {
            Ok(fields) => message(&fields, text.len(), rules),
            Err(error) => Err(Refusal::not_json(&error).into()),
        }),
        Some(_) => Parsed::One(Err(match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => not_an_object(raw.get()),
            Err(error) => Refusal::not_json(&error),
        }
        .into())),
        None => Parsed::One(Err(Refusal::bad_json("the message is empty: send a JSON object".to_owned()).into())),
    }
}

impl From<Refusal> for Rejected<'_> {
    fn from(refusal: Refusal) -> Self {
        Self { echo: Echo::default(), refusal }
    }
}

fn not_an_object(raw: &str) -> Refusal {
    Refusal::bad_json(format!("a message must be a JSON object, not {}", field::excerpt(raw)))
}

/// The text without JSON's white space at its start.
fn after_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\n', '\t', '\r'])
}

fn object(text: &str) -> serde_json::Result<Fields<'_>> {
    let mut deserializer = Deserializer::from_str(text);
    let fields = deserializer.deserialize_map(FieldsVisitor)?;
    deserializer.end()?;
    Ok(fields)
}

/// The messages of an array.
///
/// # Errors
/// One refusal for all where the text is not JSON, or the array has too many.
fn array(text: &str, rules: Rules) -> Result<Vec<Result<Message<'_>, Rejected<'_>>>, Refusal> {
    let broken = || match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Refusal::bad_json("the message cannot be read as a JSON array".to_owned()),
        Err(error) => Refusal::not_json(&error),
    };
    let mut messages = Vec::new();
    let mut rest = after_space(&after_space(text)[1..]);
    let end = rest.strip_prefix(']');
    while end.is_none() {
        if messages.len() == rules.max_messages {
            return Err(Refusal::too_many(rules.max_messages));
        }
        let (length, one) = element(rest, rules).ok_or_else(broken)?;
        messages.push(one);
        rest = after_space(&rest[length..]);
        match rest.as_bytes().first() {
            Some(b',') => rest = after_space(&rest[1..]),
            Some(b']') => break,
            _ => return Err(broken()),
        }
    }
    let after = end.unwrap_or_else(|| &rest[1..]);
    if after_space(after).is_empty() { Ok(messages) } else { Err(broken()) }
}

/// The element at the start of `rest`, and its length in bytes; `None` where there is no JSON value.
fn element(rest: &str, rules: Rules) -> Option<(usize, Result<Message<'_>, Rejected<'_>>)> {
    let mut unreadable = None;
    if rest.starts_with('{') {
        let mut objects = Deserializer::from_str(rest).into_iter::<Fields<'_>>();
        match objects.next()? {
            Ok(fields) => {
                let length = objects.byte_offset();
                return Some((length, message(&fields, length, rules)));
            }
            Err(error) => unreadable = Some(Refusal::not_json(&error)),
        }
    }
    let mut values = Deserializer::from_str(rest).into_iter::<&RawValue>();
    let raw = values.next()?.ok()?.get();
    let refusal = unreadable.unwrap_or_else(|| not_an_object(raw));
    Some((values.byte_offset(), Err(refusal.into())))
}

/// The known fields of one message: raw JSON text.
#[derive(Default)]
struct Fields<'a> {
    op: Option<&'a str>,
    id: Option<&'a str>,
    seq: Option<&'a str>,
    reference: Option<&'a str>,
    time: Option<&'a str>,
    code: Option<&'a str>,
    data: Option<&'a str>,
    duplicated: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn slot(&mut self, key: FieldName) -> Option<(&'static str, &mut Option<&'a str>)> {
        Some(match key {
            FieldName::Op => ("op", &mut self.op),
            FieldName::Id => ("id", &mut self.id),
            FieldName::Seq => ("seq", &mut self.seq),
            FieldName::Ref => ("ref", &mut self.reference),
            FieldName::Time => ("time", &mut self.time),
            FieldName::Code => ("code", &mut self.code),
            FieldName::Data => ("data", &mut self.data),
            FieldName::Unknown => return None,
        })
    }

    fn has_duplicate(&self, field: &str) -> bool {
        self.duplicated == Some(field)
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum FieldName {
    Op,
    Id,
    Seq,
    Ref,
    Time,
    Code,
    Data,
    #[serde(other)]
    Unknown,
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key()? {
            let Some((name, slot)) = fields.slot(key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<&RawValue>()?.get();
            if slot.replace(value).is_some() && fields.duplicated.is_none() {
                fields.duplicated = Some(name);
            }
        }
        Ok(fields)
    }
}

impl<'de> serde::Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The message that the fields make; `length` is that of its text, in bytes.
fn message<'a>(fields: &Fields<'a>, length: usize, rules: Rules) -> Result<Message<'a>, Rejected<'a>> {
    let op = field::op(fields.op);
    let data_id = match op {
        Ok(OpName::Ping) => None,
        _ if fields.id.is_some() && !rules.same_id => None,
        _ => fields.data.and_then(field::data_id),
    };
    let reference = fields.reference.map(field::reference).transpose();
    let echo = Echo {
        id: fields
            .id
            .or(data_id)
            .filter(|raw| raw.len() <= MAX_ECHOED_ID_BYTES && field::can_echo(raw) && !fields.has_duplicate("id")),
        reference: reference.as_ref().ok().copied().flatten().filter(|_| !fields.has_duplicate("ref")),
    };
    let checked = || {
        if length > rules.max_message {
            return Err(Refusal::too_large(rules.max_message));
        }
        if let Some(name) = fields.duplicated {
            return Err(Refusal::bad_field(name, format!("{name} is there more than once: send it once")));
        }
        let name = op?;
        reference?;
        operation(name, fields, data_id)
    };
    match checked() {
        Ok(op) => Ok(Message { echo, op }),
        Err(refusal) => Err(Rejected { echo, refusal }),
    }
}

/// Reads every known field, wherever it stands: one that cannot be read is refused even where `op` has no use for it.
fn operation<'a>(name: OpName, fields: &Fields<'a>, data_id: Option<&'a str>) -> Result<Op<'a>, Refusal> {
    let id = match name {
        OpName::Ping => fields.id.map(|raw| field::id("id", raw)).transpose()?,
        _ => Some(stream(fields.id, data_id)?),
    };
    let seq = fields.seq.map(field::seq).transpose()?;
    let time = fields.time.map(field::time).transpose()?;
    let code = fields.code.map(field::code).transpose()?.unwrap_or(0);
    Ok(match (name, id) {
        (OpName::Report, Some(id)) => Op::Report { id, seq, time, code, data: fields.data },
        (OpName::Done, Some(id)) => Op::Done { id },
        _ => Op::Ping,
    })
}

/// The id: `id`, or `data.id` where it is missing. Where both are given, they must agree.
fn stream(id: Option<&str>, data_id: Option<&str>) -> Result<super::Id, Refusal> {
    match (id, data_id) {
        (Some(raw), None) => field::id("id", raw),
        (None, Some(raw)) => field::id("data.id", raw),
        (Some(raw), Some(other)) => {
            let id = field::id("id", raw)?;
            if field::id("data.id", other) == Ok(id) { Ok(id) } else { Err(Refusal::id_mismatch(raw, other)) }
        }
        (None, None) => {
            let message = "id is missing: name the stream with id, or with id in data, as a string or an integer";
            Err(Refusal::bad_field("id", message.to_owned()))
        }
    }
}
