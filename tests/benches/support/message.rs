//! The reports that all systems get: 300 bytes as a whole message, each with an id and a `seq` of its own.

/// The whole message, in bytes.
pub const MESSAGE_BYTES: usize = 300;

/// The `seq` of an id's first report. All have as many digits, so that all messages have one length.
pub const FIRST_SEQ: u64 = 1_000_000_000;

/// The `time` of all of them.
pub const TIME: &str = "1714972800";

const HEAD: &str = r#"{"op":"report","id":""#;
const SEQ: &str = r#"","seq":"#;
const TAIL: &str = r#","code":0}"#;

/// The name of the id with this number, below ten million: 8 bytes.
pub fn id(number: u32) -> String {
    format!("s{number:07}")
}

/// The `data` of all reports, as long as the message needs it to be.
pub fn data() -> String {
    let time = format!(r#","time":"{TIME}","data":"#);
    let fixed = HEAD.len() + id(0).len() + SEQ.len() + digits(FIRST_SEQ).len() + time.len() + TAIL.len();
    let (open, close) = (r#"{"conn_ip":"10.0.0.1:5000","agent":""#, "\"}");
    let padding = "m4Vq-".chars().cycle().take(MESSAGE_BYTES - fixed - open.len() - close.len()).collect::<String>();
    format!("{open}{padding}{close}")
}

/// The first report of id 0, as text.
pub fn text() -> String {
    format!(r#"{HEAD}{}{SEQ}{},"time":"{TIME}","data":{}{TAIL}"#, id(0), digits(FIRST_SEQ), data())
}

/// A message whose id and `seq` are written over for each report, in what a protocol has before and after it.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    id_at: usize,
    seq_at: usize,
}

impl Template {
    /// The first report of id 0 between these bytes.
    pub fn new(before: &[u8], after: &[u8]) -> Self {
        let text = text();
        assert_eq!(text.len(), MESSAGE_BYTES);
        let id_at = before.len() + HEAD.len();
        let seq_at = id_at + id(0).len() + SEQ.len();
        Self { bytes: [before, text.as_bytes(), after].concat(), id_at, seq_at }
    }

    /// Puts one report at the end of `out`.
    pub fn write(&mut self, out: &mut Vec<u8>, id: u32, seq: u64) {
        put_digits(&mut self.bytes[self.id_at + 1..self.id_at + 8], u64::from(id));
        put_digits(&mut self.bytes[self.seq_at..self.seq_at + 10], seq);
        out.extend_from_slice(&self.bytes);
    }
}

fn digits(number: u64) -> String {
    number.to_string()
}

/// Writes the number in exactly the digits that there is room for.
pub fn put_digits(room: &mut [u8], mut number: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
