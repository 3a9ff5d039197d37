//! The target `delta_stream` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("delta_stream");
