//! The target `frame` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("frame");
