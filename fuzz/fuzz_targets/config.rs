//! The target `config` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("config");
