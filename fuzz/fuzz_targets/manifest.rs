//! The target `manifest` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("manifest");
