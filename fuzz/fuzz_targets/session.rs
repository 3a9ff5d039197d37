//! The target `session` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("session");
