//! The target `page_stream` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("page_stream");
