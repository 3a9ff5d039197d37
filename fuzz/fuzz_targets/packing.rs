//! The target `packing` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("packing");
