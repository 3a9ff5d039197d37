//! The target `message` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("message");
