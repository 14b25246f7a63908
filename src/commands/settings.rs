//! The flags that settings come from, and the file and the environment behind them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use forebay::Files;
use forebay::config::{Flags, Settings, Sources, shown_path};

use super::Failure;

/// Read where `--config` names no other file; it need not exist.
const DEFAULT_FILE: &str = "forebay.toml";

/// Flags of the commands that use all settings.
#[derive(Clone, clap::Args)]
pub struct Arguments {
    /// The configuration file; ./forebay.toml is read if it exists.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen for reports, such as 127.0.0.1:7001.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where to listen for operators, such as 127.0.0.1:7002.
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// The folder of the journal, and of the database where no other sink is set.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Where reports end: sqlite:PATH or mysql://user:password@host:3306/database.
    #[arg(long, value_name = "URL")]
    pub sink: Option<String>,
    /// Listen beyond this machine without tokens and TLS: whoever reaches a listener can then send reports, discard
    /// dead letters, and read everything on its way.
    #[arg(long)]
    pub allow_insecure_listen: bool,
}

impl Arguments {
    /// Names the file that is read, where none was named and the usual one exists: when it is read anew, it must still
    /// be there. Without it all would be as if nobody had set anything.
    pub fn settled(mut self) -> Self {
        let usual = Path::new(DEFAULT_FILE);
        if self.config.is_none() && usual.exists() {
            self.config = Some(usual.to_owned());
        }
        self
    }

    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`Failure::Configuration`] with every fault.
    pub fn load(self) -> Result<Settings, Failure> {
        let Self { config, listen, admin_listen, data_dir, sink, allow_insecure_listen } = self;
        load(config, Flags { listen, admin_listen, data_dir, sink, allow_insecure_listen })
    }
}

/// Reads the files that the settings name.
///
/// # Errors
/// [`Failure::Configuration`] with every file that cannot be read or is at fault.
pub fn files(settings: &Settings) -> Result<Files, Failure> {
    Files::read(settings).map_err(|faults| {
        let lines = faults.to_string().replace('\n', "\n  ");
        Failure::Configuration(anyhow::anyhow!("the configuration has faults in files that it names:\n  {lines}"))
    })
}

/// Reads and checks the settings from file, environment and flags.
pub fn load(config: Option<PathBuf>, flags: Flags) -> Result<Settings, Failure> {
    let file = match config {
        Some(path) => Some(read(&path).map_err(|error| unreadable(&path, error))?),
        None => match read(Path::new(DEFAULT_FILE)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(Path::new(DEFAULT_FILE), error)),
        },
    };
    // Text that is not UTF-8 becomes a value, or a name, that is refused.
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    Settings::load(&Sources { file, variables, flags }).map_err(|faults| {
        let count = match faults.0.len() {
            1 => "the configuration has a fault".to_owned(),
            n => format!("the configuration has {n} faults"),
        };
        let lines: String = faults.0.iter().map(|fault| format!("\n  {fault}")).collect();
        Failure::Configuration(anyhow::anyhow!("{count}:{lines}"))
    })
}

fn read(path: &Path) -> std::io::Result<(String, String)> {
    Ok((path.display().to_string(), std::fs::read_to_string(path)?))
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    let context = format!("cannot read the configuration file {}", shown_path(path));
    Failure::Configuration(anyhow::Error::new(error).context(context))
}
