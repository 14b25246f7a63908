//! The engine from outside: the real program, real sockets, a real database. One module a promise; each test shows
//! one thing that the contract says and knows nothing of the engine's inside.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
mod alerts;
mod claims;
mod commands;
mod consumers;
mod crash;
mod crowd;
mod damage;
mod dead_letters;
mod descriptors;
mod disconnect;
mod done;
mod durable;
mod edges;
mod errors;
mod events;
mod exactly_once;
mod flushing;
mod forged;
mod frames;
mod fronts;
mod ids;
mod limits;
mod load;
mod memory;
mod metrics;
mod moves;
mod openapi;
mod oracle;
mod outage;
mod poison;
mod positions;
mod post;
mod proxies;
mod races;
mod reload;
mod remote;
mod secrets;
mod service;
mod set_aside;
mod settings;
mod shippers;
mod shutdown;
mod sinks;
mod starts;
mod streams;
mod tls;
mod told;
mod top;
mod traces;
mod wire;
