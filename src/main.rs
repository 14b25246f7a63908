//! The `forebay` program: arguments, and the exit code.

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match commands::arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            commands::write_err(&format!("{failure}\n"));
            failure.exit_code()
        }
    }
}
