//! What a node answers, read no further than a client needs.

use serde::Deserialize;

/// One reply. Names and numbers borrow from the text; what else is in it is skipped.
#[derive(Debug, Deserialize)]
pub struct Reply<'a> {
    /// `ack` or `error`.
    pub op: &'a str,
    /// The id, as it was sent.
    #[serde(default)]
    pub id: Option<&'a str>,
    /// Who numbered the report.
    #[serde(default)]
    pub source: Option<u16>,
    /// Its number.
    #[serde(default)]
    pub seq: Option<u64>,
    /// The reference, as it was sent.
    #[serde(default, rename = "ref")]
    pub reference: Option<u64>,
    /// 200, or that of the error.
    #[serde(default)]
    pub code: u32,
    /// The error's name.
    #[serde(default)]
    pub error: Option<&'a str>,
    /// When to try again.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

/// What a report was told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// It is durable, under this source and number.
    Acked(u16, u64),
    /// Not kept; to be sent again, after so many milliseconds.
    Again(&'a str, u64),
    /// Not kept, and never will be.
    Refused(&'a str),
}

impl<'a> Reply<'a> {
    /// What the reply says about the report with this reference, whose id `is_id` knows.
    ///
    /// # Errors
    /// Why it is no reply to that.
    pub fn to(&self, is_id: impl Fn(&str) -> bool, reference: u64) -> Result<Told<'a>, String> {
        if self.reference.is_some_and(|found| found != reference) || self.id.is_some_and(|id| !is_id(id)) {
            return Err(format!("{self:?} came where the reply to ref {reference} was due"));
        }
        match (self.op, self.code, self.error) {
            ("ack", 200, None) if self.reference.is_some() && self.id.is_some() => match (self.source, self.seq) {
                (Some(source), Some(seq)) => Ok(Told::Acked(source, seq)),
                _ => Err(format!("{self:?} is an ack without a source or a seq")),
            },
            ("error", 429 | 503 | 507, Some(error)) => Ok(Told::Again(error, self.retry_after_ms.unwrap_or_default())),
            ("error", 400..=599, Some(error)) => Ok(Told::Refused(error)),
            _ => Err(format!("{self:?} is neither an ack nor an error")),
        }
    }
}

/// Reads the replies to one message: `reports` in an array, or one alone.
///
/// # Errors
/// Why the text is none.
pub fn read(text: &str, is_array: bool) -> Result<Vec<Reply<'_>>, String> {
    let read = match is_array {
        true => serde_json::from_str(text),
        false => serde_json::from_str(text).map(|reply| vec![reply]),
    };
    read.map_err(|error| format!("{error} in the reply {:?}", text.chars().take(200).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Result<Told<'_>, String> {
        read(text, false)?[0].to(|id| id == "a", 5)
    }

    #[test]
    fn acks_and_errors_are_told_apart() {
        let ack = told(r#"{"op":"ack","id":"a","source":3,"seq":9,"ref":5,"code":200}"#);
        assert_eq!(ack, Ok(Told::Acked(3, 9)));
        let full = r#"{"op":"error","id":"a","ref":5,"code":429,"error":"backlog_full","message":"a \"b\"","retry_after_ms":7}"#;
        assert_eq!(told(full), Ok(Told::Again("backlog_full", 7)));
        let bad = told(r#"{"op":"error","code":400,"error":"bad_json","message":""}"#);
        assert_eq!(bad, Ok(Told::Refused("bad_json")));
    }

    #[test]
    fn a_reply_to_something_else_is_no_reply() {
        for wrong in [
            r#"{"op":"ack","id":"a","source":3,"seq":9,"ref":6,"code":200}"#,
            r#"{"op":"ack","id":"b","source":3,"seq":9,"ref":5,"code":200}"#,
            r#"{"op":"ack","id":"a","source":3,"seq":9,"code":200}"#,
            r#"{"op":"ack","id":"a","source":3,"ref":5,"code":200}"#,
            r#"{"op":"ack","id":"a","source":3,"seq":9,"ref":5,"code":500}"#,
            r#"{"op":"done","id":"a","ref":5,"code":200}"#,
            r#"[{"op":"ack"}]"#,
            "ack",
        ] {
            assert!(told(wrong).is_err(), "{wrong}");
        }
    }
}
