//! The target `tar` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("tar");
