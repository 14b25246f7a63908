//! Numbers from the command line (`--seconds 5`) or the environment (`BENCH_SECONDS=5`).

use std::collections::BTreeMap;

/// What may be given: a name, its default, what it means.
pub type Known = (&'static str, u64, &'static str);

/// What was given, defaults filled in.
#[derive(Debug, Clone)]
pub struct Options {
    values: BTreeMap<&'static str, u64>,
    /// Whether the last line of the output is JSON.
    pub json: bool,
}

impl Options {
    /// Reads the options; on an unknown one, or `--help`, prints them and exits.
    pub fn read(known: &[Known]) -> Self {
        let mut options = Self { values: BTreeMap::new(), json: std::env::var_os("BENCH_JSON").is_some() };
        for (name, default, _) in known {
            let variable = format!("BENCH_{}", name.to_uppercase().replace('-', "_"));
            let given = std::env::var(&variable).ok();
            let value = given.map_or(*default, |text| number(&text).unwrap_or_else(|| usage(known, &variable)));
            options.values.insert(name, value);
        }
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let flag = argument.strip_prefix("--").unwrap_or_default();
            match flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned()))) {
                // `cargo bench` adds it.
                ("bench", None) => {}
                ("json", None) => options.json = true,
                (name, value) => {
                    let known_name = known.iter().map(|(known, ..)| *known).find(|known| *known == name);
                    let name = known_name.unwrap_or_else(|| usage(known, &argument));
                    let value = value.or_else(|| arguments.next()).and_then(|text| number(&text));
                    options.values.insert(name, value.unwrap_or_else(|| usage(known, &argument)));
                }
            }
        }
        options
    }

    /// The value of an option that is known.
    pub fn get(&self, name: &str) -> u64 {
        self.values[name]
    }

    /// All of them, for the record.
    pub fn all(&self) -> &BTreeMap<&'static str, u64> {
        &self.values
    }
}

/// `1000000` or `1_000_000`.
fn number(text: &str) -> Option<u64> {
    text.replace('_', "").parse().ok()
}

fn usage(known: &[Known], argument: &str) -> ! {
    let asked = argument == "--help" || argument == "-h";
    if !asked {
        super::progress(&format!("{argument} is no option, or has no number"));
    }
    for (name, default, meaning) in known {
        super::progress(&format!("  --{name} N   {meaning} (default {default})"));
    }
    super::progress("  --json   one line of JSON at the end");
    std::process::exit(if asked { 0 } else { 2 });
}
