//! What every target's program does: the body of that name, with memory bounded from the beginning.

pub use libfuzzer_sys;

/// The program of a target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(init: drover_fuzzing::bound_memory(), |bytes: &[u8]| {
            static BODY: std::sync::LazyLock<drover_fuzzing::Body> =
                std::sync::LazyLock::new(|| drover_fuzzing::body($name).expect("a target of this name"));
            let _ = BODY(bytes);
        });
    };
}
