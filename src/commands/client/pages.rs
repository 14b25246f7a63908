//! Lists of the admin API, followed from page to page.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::super::text::{counted, number};
use super::Client;

/// The most that the API gives on a page.
const MAX_PAGE: u64 = 1000;

/// What stands behind `?` in a URL.
#[derive(Debug, Clone, Default)]
pub struct Query(String);

impl Query {
    /// With one more pair, where there is a value.
    pub fn with(mut self, name: &str, value: Option<&str>) -> Self {
        let Some(value) = value else { return self };
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => self.0.push(char::from(byte)),
                _ => write!(self.0, "%{byte:02X}").expect("a text can grow"),
            }
        }
        self
    }

    /// The text, with its `?` where there is any.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paged {
    /// Entries that were given.
    pub count: u64,
    /// Whether there are more than the limit.
    pub has_more: bool,
    /// How many there are in all, where the API says it.
    pub total: Option<u64>,
}

impl Paged {
    /// What stands below a table: how many it shows, of how many.
    pub fn footer(self, one: &str) -> String {
        let Self { count, has_more, total } = self;
        match (has_more, total) {
            (false, _) => counted(count, one),
            (true, Some(total)) => format!("{} of {}; --limit shows more", number(count), counted(total, one)),
            (true, None) => format!("{}, and there are more; --limit shows them", counted(count, one)),
        }
    }
}

impl Client {
    /// The first entries of the list `name` at `path`, read.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn first<T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query,
        name: &str,
        limit: u64,
    ) -> anyhow::Result<Vec<T>> {
        let mut entries = Vec::new();
        let take = |entry: &RawValue| {
            entries.push(self.read(entry.get())?);
            Ok(())
        };
        self.list(path, query, name, Some(limit), take).await?;
        Ok(entries)
    }

    /// Gives each entry of the list `name` at `path` to `take`, as its JSON, `limit` at most.
    ///
    /// # Errors
    /// Where a page is not answered or is none, or what `take` says.
    pub async fn list(
        &self,
        path: &str,
        query: Query,
        name: &str,
        limit: Option<u64>,
        mut take: impl FnMut(&RawValue) -> anyhow::Result<()>,
    ) -> anyhow::Result<Paged> {
        let (mut count, mut after) = (0, None::<String>);
        loop {
            let rest = limit.map_or(MAX_PAGE, |limit| (limit - count).min(MAX_PAGE));
            let page = query.clone().with("limit", Some(&rest.to_string())).with("after", after.as_deref());
            let answer = self.get(&format!("{path}{}", page.as_str())).await?;
            let odd = |error| self.odd(&error, &answer);
            let page: HashMap<&str, &RawValue> = serde_json::from_str(&answer).map_err(odd)?;
            let missing = || odd(serde::de::Error::custom("no such list"));
            let entries: Vec<&RawValue> =
                serde_json::from_str(page.get(name).ok_or_else(missing)?.get()).map_err(odd)?;
            let next: Option<String> = match page.get("next") {
                Some(next) => serde_json::from_str(next.get()).map_err(odd)?,
                None => None,
            };
            let total = page.get("total").and_then(|total| serde_json::from_str(total.get()).ok());
            count += entries.len() as u64;
            entries.into_iter().try_for_each(&mut take)?;
            let is_full = limit.is_some_and(|limit| count >= limit);
            // A node that gives the same page for ever is not followed.
            if next.is_none() || is_full || next == after {
                return Ok(Paged { count, has_more: next.is_some(), total });
            }
            after = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_carries_any_text() {
        let query = Query::default().with("id", None).with("after", Some("a b&c=%ü")).with("limit", Some("1"));
        assert_eq!(query.as_str(), "?after=a%20b%26c%3D%25%C3%BC&limit=1");
        assert_eq!(Query::default().as_str(), "");
    }
}
