//! The target `layer_stream` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("layer_stream");
