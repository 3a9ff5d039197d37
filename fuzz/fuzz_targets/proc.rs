//! The target `proc` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("proc");
