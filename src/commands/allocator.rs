//! Has the allocator give back what large messages took.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Where glibc reads its settings, at the start of a process and never again.
const VARIABLE: &str = "GLIBC_TUNABLES";
/// A block of at least 256 KiB is the system's again once it is free, and so are 4 MiB at the end of what smaller ones
/// are cut from. So glibc begins, too (at 128 KiB each), but each larger block that is freed raises its bounds, up to
/// 32 MiB, and what a crowd of large messages took then stays with the process: with 1,000 connections of which each
/// sent an array of reports 512 MiB and more, of which a quarter was in use. At 128 KiB a drain takes a fifth more CPU.
const SETTING: &str = "glibc.malloc.mmap_threshold=262144:glibc.malloc.trim_threshold=4194304";
/// Says which process was started again, so that none is twice: glibc takes its variable away from a program with
/// capabilities of its own.
const ONCE: &str = "GLIBC_TUNABLES_ARE_SET_FOR";

/// Runs the program again, in the same process, with that setting. Returns where somebody has chosen settings, and
/// where it cannot be run again: then all goes on as glibc would have it.
pub fn settle() {
    let own = std::process::id().to_string();
    let is_settled = std::env::var_os(VARIABLE).is_some() || std::env::var_os(ONCE).is_some_and(|pid| *own == pid);
    if is_settled || cfg!(not(target_env = "gnu")) || cfg!(forebay_plant = "keep_what_is_free") {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    // Where the loader was called with the program's name, that is the loader.
    if program.file_name().is_none_or(|name| name.to_string_lossy().starts_with("ld-")) {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("forebay"));
    // It comes back with an error alone.
    let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, SETTING).env(ONCE, own).exec();
}
