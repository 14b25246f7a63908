//! A program in a terminal of its own: a pty of 80 by 24, and what a person would see on it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::fd::OwnedFd;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::node::{FOREBAY, without_settings};
use super::wait::eventually;

/// A usual terminal.
const ROWS: NonZero<u16> = NonZero::new(24).expect("24 is not 0");
const COLUMNS: NonZero<u16> = NonZero::new(80).expect("80 is not 0");

/// The program and its terminal. Dropping it kills the program.
pub struct Terminal {
    keyboard: File,
    line: OwnedFd,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
    child: Child,
}

impl Terminal {
    /// Starts the program with these arguments.
    pub fn start(arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pty");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("the pty is ours");
        let name = ptsname(&master, Vec::new()).expect("the pty has a name");
        let open = File::options().read(true).write(true).open(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let line = OwnedFd::from(open.expect("the terminal opens"));
        tcsetwinsize(&line, Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 })
            .expect("a size");
        let before = tcgetattr(&line).expect("a terminal has attributes");
        let end = || line.try_clone().expect("a descriptor can be doubled");
        // The kernel kills the program when the test's thread ends, however it ends.
        let mut command = without_settings(Command::new("setpriv"));
        command.args(["--pdeathsig", "KILL", "--", FOREBAY]).args(arguments).env("TERM", "xterm-256color");
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("setpriv (util-linux) starts the program");
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let (mut output, drawn) = (keyboard.try_clone().expect("a descriptor can be doubled"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with an error once nobody has the terminal open any more.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                drawn.lock().expect("no thread panics while it draws").process(&bytes[..count]);
            }
        });
        Self { keyboard, line, before, screen, child }
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.screen.lock().expect("no thread panics while it draws").screen().contents()
    }

    /// Waits until the screen has all of these; returns it.
    pub async fn shows(&self, parts: &[&str]) -> String {
        let shown = eventually("the screen to show what it should", async || {
            let text = self.text();
            match parts.iter().find(|&&part| !text.contains(part)) {
                None => Ok(text),
                Some(part) => Err(format!("there is no {part:?} on it:\n{text}")),
            }
        });
        shown.await
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the program.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = async || {
            let status = self.child.try_wait().expect("a child can be waited for");
            status.ok_or_else(|| "it still runs".to_owned())
        };
        eventually("the program to end", ended).await
    }

    /// Waits until the terminal is as it was before the program, and panics where it stays otherwise.
    pub async fn is_restored(&self) {
        let now = tcgetattr(&self.line).expect("a terminal has attributes");
        assert_eq!(now.local_modes, self.before.local_modes, "echo and line editing");
        assert_eq!((now.input_modes, now.output_modes), (self.before.input_modes, self.before.output_modes));
        // What the program wrote last may still be on its way.
        let restored = eventually("the screen to be given back", async || {
            let parser = self.screen.lock().expect("no thread panics while it draws");
            let screen = parser.screen();
            match (screen.alternate_screen(), screen.hide_cursor()) {
                (false, false) => Ok(()),
                (alternate, hidden) => Err(format!("alternate screen: {alternate}, cursor hidden: {hidden}")),
            }
        });
        restored.await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
