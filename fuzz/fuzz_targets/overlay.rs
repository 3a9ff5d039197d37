//! The target `overlay` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("overlay");
