//! The dashboard in a real browser: clicked through as an operator does, against a running node.

#[path = "../support/mod.rs"]
mod support;

mod actions;
mod driver;
mod lists;
mod looks;
mod outages;
mod page;
