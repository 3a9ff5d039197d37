//! The target `criu_image` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("criu_image");
