//! `forebay top`: a live view of one node in the terminal.

mod draw;
mod poll;
mod view;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::streams::Sort;
use super::{Failure, client};
use poll::Polled;
use view::View;

/// How long a key may wait to be seen, and a figure to be drawn.
const FRAME: Duration = Duration::from_millis(100);

/// Flags of `forebay top`. Keys: `q`, Esc and Ctrl-C quit, `s` sorts by backlog or by age, space holds the view.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    client: client::Arguments,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Quit,
    Sort,
    Hold,
}

/// What the terminal's thread hears.
struct Heard {
    polled: watch::Receiver<Polled>,
    stopped: watch::Receiver<bool>,
    sort: watch::Sender<Sort>,
}

/// Shows the node until a key, or a signal, ends it.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.client.client()?;
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let what = "top needs a terminal; `forebay status` and `forebay streams` print the same once";
        return Err(Failure::Configuration(anyhow!(what)));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let (sort, sorts) = watch::channel(Sort::Backlog);
    let (stop, stopped) = watch::channel(false);
    let mut terminate = {
        let _runtime = runtime.enter();
        signal(SignalKind::terminate()).context("cannot listen for signals")?
    };
    runtime.spawn(async move {
        terminate.recv().await;
        stop.send_replace(true);
    });
    let view = View::new(client.node());
    let (told, polled) = watch::channel(Polled::default());
    runtime.spawn(poll::poll(client, sorts, told));
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let shown = show(&mut terminal, view, Heard { polled, stopped, sort });
    let restored = ratatui::try_restore().context("the terminal cannot be restored; `reset` does it");
    // A question that is under way is not waited for.
    runtime.shutdown_background();
    Ok(shown.and(restored)?)
}

fn show(terminal: &mut DefaultTerminal, mut view: View, mut heard: Heard) -> anyhow::Result<()> {
    while !*heard.stopped.borrow() {
        if heard.polled.has_changed().unwrap_or(false) {
            view.hear(heard.polled.borrow_and_update().clone());
        }
        terminal.draw(|frame| draw::draw(frame, &view, Instant::now())).context("cannot draw")?;
        if !event::poll(FRAME).context("the terminal cannot be read")? {
            continue;
        }
        let Event::Key(key) = event::read().context("the terminal cannot be read")? else { continue };
        match asked(key) {
            Some(Asked::Quit) => break,
            Some(Asked::Hold) => view.hold(),
            Some(Asked::Sort) => {
                view.sort = if view.sort == Sort::Backlog { Sort::Oldest } else { Sort::Backlog };
                heard.sort.send_replace(view.sort);
            }
            None => {}
        }
    }
    Ok(())
}

fn asked(key: KeyEvent) -> Option<Asked> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Asked::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Asked::Quit),
        KeyCode::Char('s') => Some(Asked::Sort),
        KeyCode::Char(' ') => Some(Asked::Hold),
        _ => None,
    }
}
