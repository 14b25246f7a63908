//! Descriptors that no connection gets, so that a crowd of them never keeps the journal from opening a file: it would
//! end the node.

use std::io;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, getrlimit};

/// The highest numbers of descriptors are left to files, and to connections to the sink. The system gives the lowest
/// number that is free, so a connection that has one of them shows that all others are taken.
const RESERVED: u64 = 64;

/// The socket, unless it has one of the numbers that are reserved.
///
/// # Errors
/// Then; the socket is closed.
pub(super) fn leave<T: AsRawFd>(socket: T) -> io::Result<T> {
    let number = u64::try_from(socket.as_raw_fd()).expect("an open descriptor has a number");
    match getrlimit(Resource::Nofile).current {
        Some(limit) if is_reserved(number, limit) && cfg!(not(forebay_plant = "take_every_descriptor")) => {
            let limit = limit.to_string();
            Err(io::Error::other(format!(
                "the process may open {limit} files, and what is left is for the journal (ulimit -n)"
            )))
        }
        _ => Ok(socket),
    }
}

fn is_reserved(number: u64, limit: u64) -> bool {
    number >= limit - RESERVED.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_numbers_are_reserved_and_few_where_there_are_few() {
        assert_eq!([is_reserved(959, 1024), is_reserved(960, 1024)], [false, true]);
        assert_eq!([is_reserved(23, 32), is_reserved(24, 32)], [false, true]);
    }
}
