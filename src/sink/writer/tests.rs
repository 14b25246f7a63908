//! The writer against a scripted connection.
