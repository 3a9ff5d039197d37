//! The target `cgroup` of `drover_fuzzing::TARGETS`.
#![no_main]

drover_fuzz::target!("cgroup");
