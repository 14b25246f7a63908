//! What `GET /metrics` answers, as Prometheus reads it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::http;
use super::node::Node;

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The page.
    pub text: String,
    /// Value by series, labels and all, as it stands on the page.
    pub series: BTreeMap<String, f64>,
}

/// What a page says of a metric besides its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// The meaning.
    pub help: String,
    /// The names of its labels, in order; `le` is no label of a histogram's own.
    pub labels: Vec<String>,
}

impl Page {
    /// Asks the node.
    pub async fn of(node: &Node) -> Self {
        let answer = http::get(node.admin(), "/metrics").await.expect("the admin listener answers");
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
        Self::read(answer.text())
    }

    /// Reads a page.
    pub fn read(text: String) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            (series.to_owned(), value)
        };
        let series = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Self { text, series }
    }

    /// The value of a series.
    pub fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    /// Every metric with what the page says of it.
    pub fn abouts(&self) -> BTreeMap<String, About> {
        let mut abouts: BTreeMap<String, About> = BTreeMap::new();
        for line in self.text.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                abouts.entry(name.to_owned()).or_default().help = help.to_owned();
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                abouts.entry(name.to_owned()).or_default().kind = kind.to_owned();
            }
        }
        for series in self.series.keys() {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let about = abouts.get_mut(name);
            let Some(about) = about else { continue };
            let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
            about.labels = labels.map(|(name, _)| name.to_owned()).collect();
        }
        abouts
    }

    /// Every name that a query may use: for a histogram those of its parts.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.series.keys().map(|series| series.split('{').next().unwrap_or(series)).collect();
        names.dedup();
        names
    }
}

/// promtool (`tests/run.sh` installs it) with this input.
pub fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts; tests/run.sh installs it");
    // A promtool that takes no input closes it.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("promtool ends")
}

/// Fails with all that promtool said, unless it is content and silent about it.
pub fn assert_content(output: &Output) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool: {said}");
}
