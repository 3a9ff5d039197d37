//! The target `page_index` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("page_index");
