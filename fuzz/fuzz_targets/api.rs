//! The target `api` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("api");
