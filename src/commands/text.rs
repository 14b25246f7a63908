//! Text for people: ages, sizes, tables; nothing in it moves the cursor.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;

/// Text of clients or of the sink, with everything escaped that is not seen as itself: control characters, those
/// that turn the direction of writing, and the backslash, so that no escape can be feigned.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// JSON with the same value on one line.
pub fn json_line(json: &str) -> String {
    // Within strings JSON has these escaped.
    json.trim_end().replace(['\n', '\r', '\t'], " ")
}

/// JSON with the same value on one line, in which no string holds what [`shown`] escapes.
pub fn json_shown(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json_line(json).chars() {
        // Beyond ASCII, and DEL, JSON has only strings; below it has escaped them itself.
        if c < '\u{7f}' || c.escape_debug().len() == 1 {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                write!(shown, "\\u{unit:04x}").expect("a text can grow");
            }
        }
    }
    shown
}

/// A span of time in its two largest units: `12s`, `3m12s`, `4h05m`, `2d03h`.
pub fn age(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) as u64 } else { 0 };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// How long ago an instant of RFC 3339 was, or the text where it is none.
pub fn since(instant: &str) -> String {
    match humantime::parse_rfc3339_weak(instant) {
        // The node's clock may be ahead of this one.
        Ok(then) => age(SystemTime::now().duration_since(then).unwrap_or(Duration::ZERO).as_secs_f64()),
        Err(_) => shown(instant),
    }
}

/// Bytes, such as `1.5 KiB`.
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A number with its thousands apart: `1,234,567`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut apart = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

/// `1 report`, `2,000 reports`.
pub fn counted(count: u64, one: &str) -> String {
    format!("{} {one}{}", number(count), if count == 1 { "" } else { "s" })
}

/// A table whose columns are aligned.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// A column's title, and whether it holds numbers.
#[derive(Clone, Copy)]
pub enum Column {
    /// Text begins at the left.
    Left(&'static str),
    /// Numbers end at the right.
    Right(&'static str),
}

impl Table {
    /// An empty one.
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: a cell a column, already fit to be shown.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let titles =
            self.columns.iter().map(|&(Column::Left(title) | Column::Right(title))| title.to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&self.rows).collect();
        let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| width(at).unwrap_or(0)).collect();
        for line in lines {
            let mut text = String::new();
            for ((cell, column), &width) in line.iter().zip(&self.columns).zip(&widths) {
                let pad = " ".repeat(width - cell.chars().count());
                match column {
                    Column::Left(_) => write!(text, "{cell}{pad}  ")?,
                    Column::Right(_) => write!(text, "{pad}{cell}  ")?,
                }
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_move_the_cursor() {
        assert_eq!(shown("a\x1b[2Jb\r\n\u{9b}c\u{202e}d\\n"), "a\\u{1b}[2Jb\\r\\n\\u{9b}c\\u{202e}d\\\\n");
        assert_eq!(shown("it's \"ü\" 7°"), "it's \"ü\" 7°");
    }

    #[test]
    fn json_keeps_its_value_and_cannot_move_the_cursor_either() {
        let json = "{\"a\":\r\n\"\u{9b}2J \u{202e} \u{7f} ü \u{e0001} \\n\"}";
        let escaped = json_shown(json);
        assert_eq!(escaped, "{\"a\":  \"\\u009b2J \\u202e \\u007f ü \\udb40\\udc01 \\n\"}");
        let value = |text| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&escaped), value(json));
    }

    #[test]
    fn ages_sizes_and_numbers_are_short() {
        let ages = [-3.0, 12.9, 192.0, 14_700.0, 183_600.0, f64::NAN].map(age);
        assert_eq!(ages, ["0s", "12s", "3m12s", "4h05m", "2d03h", "0s"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([512, 1_536].map(size), ["512 B", "1.5 KiB"]);
        assert_eq!([counted(1, "id"), counted(2_000, "id")], ["1 id", "2,000 ids"]);
        assert_eq!(since("2999-01-01T00:00:00Z"), "0s");
        assert_eq!(since("no\ttime"), "no\\ttime");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[Column::Left("ID"), Column::Right("BACKLOG"), Column::Left("ERROR")]);
        table.row(vec!["a".into(), "7".into(), String::new()]);
        table.row(vec!["long-id".into(), "1,000".into(), "no".into()]);
        assert_eq!(table.to_string(), "ID       BACKLOG  ERROR\na              7\nlong-id    1,000  no\n");
    }
}
