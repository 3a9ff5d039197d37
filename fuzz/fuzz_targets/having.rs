//! The target `having` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("having");
