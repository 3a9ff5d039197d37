//! What a processor can do, as far as programs can have come to rely on it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The instructions of x86-64 that a program may have found with `CPUID`, by the names of `/proc/cpuinfo`
/// (`arch/x86/include/asm/cpufeatures.h`). On a processor without them it dies (SIGILL).
///
/// What is not here makes no difference to a program that has started: hints that others take for nothing (`prefetchw`),
/// promises about speed (`erms`, `fsrm`, `constant_tsc`), and what is the kernel's alone (`vmx`, `smep`, `ibrs`).
const INSTRUCTIONS: &[&str] = &[
    "3dnow",
    "3dnowext",
    "abm",
    "adx",
    "aes",
    "amx_bf16",
    "amx_complex",
    "amx_fp16",
    "amx_int8",
    "amx_tile",
    "avx",
    "avx10",
    "avx2",
    "avx512_4fmaps",
    "avx512_4vnniw",
    "avx512_bf16",
    "avx512_bitalg",
    "avx512_fp16",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_vp2intersect",
    "avx512_vpopcntdq",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512er",
    "avx512f",
    "avx512ifma",
    "avx512pf",
    "avx512vbmi",
    "avx512vl",
    "avx_ifma",
    "avx_ne_convert",
    "avx_vnni",
    "avx_vnni_int16",
    "avx_vnni_int8",
    "bmi1",
    "bmi2",
    "clflush",
    "clflushopt",
    "clwb",
    "clzero",
    "cmov",
    "cmpccxadd",
    "cx16",
    "cx8",
    "enqcmd",
    "f16c",
    "fma",
    "fma4",
    "fpu",
    "fsgsbase",
    "fxsr",
    "gfni",
    "lahf_lm",
    "mmx",
    "mmxext",
    "monitorx",
    "movbe",
    "movdir64b",
    "movdiri",
    "mwaitx",
    "ospke",
    "pclmulqdq",
    "pni",
    "popcnt",
    "raoint",
    "rdpid",
    "rdpru",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "serialize",
    "sha512",
    "sha_ni",
    "sm3",
    "sm4",
    "sse",
    "sse2",
    "sse4_1",
    "sse4_2",
    "sse4a",
    "ssse3",
    "tbm",
    "tsc",
    "user_shstk",
    "vaes",
    "vpclmulqdq",
    "waitpkg",
    "xgetbv1",
    "xop",
    "xsave",
    "xsavec",
    "xsaveopt",
];
/// No more of what a peer says is looked at, and no longer names.
const MOST: usize = 1024;
const LONGEST: usize = 64;

/// A machine's processors; the first one stands for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Processor {
    /// What it is called.
    pub model: String,
    /// What it can do that a program may have found out, by the names of `/proc/cpuinfo`.
    pub instructions: BTreeSet<String>,
}

impl Processor {
    /// From the text of `/proc/cpuinfo` (`proc_cpuinfo(5)`): of x86 the instructions, elsewhere all that is there to be found
    /// (`Features`, which are the `hwcap` bits that programs see).
    #[must_use]
    pub fn read(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
            line.map(str::trim)
        };
        let model = field("model name").or_else(|| field("CPU part")).unwrap_or("unknown").to_owned();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let instructions = match field("flags") {
            Some(flags) => words(flags).into_iter().filter(|flag| INSTRUCTIONS.contains(&flag.as_str())).collect(),
            None => field("Features").map(words).unwrap_or_default().into_iter().collect(),
        };
        Self { model, instructions }
    }

    /// What a program that has run on this one may use and `other` has not, in order.
    #[must_use]
    pub fn lacking_in(&self, other: &Self) -> Vec<&str> {
        let own = self.instructions.iter().take(MOST).filter(|name| name.len() <= LONGEST);
        own.filter(|name| !other.instructions.contains(*name)).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Some CPU @ 2.0GHz\n\
                        flags\t\t: fpu sse2 avx2 erms vmx constant_tsc\n\nprocessor\t: 1\nflags\t\t: fpu\n";

    #[test]
    fn only_what_a_program_can_have_come_to_rely_on_counts() {
        let here = Processor::read(HERE);
        assert_eq!(here.model, "Some CPU @ 2.0GHz");
        assert_eq!(here.instructions.iter().map(String::as_str).collect::<Vec<_>>(), ["avx2", "fpu", "sse2"]);
        let there = Processor::read("model name : Other\nflags : fpu sse2\n");
        assert_eq!(here.lacking_in(&there), ["avx2"]);
        assert!(there.lacking_in(&here).is_empty());
        assert!(here.lacking_in(&here).is_empty());
    }

    #[test]
    fn on_other_architectures_everything_that_programs_see_counts() {
        let arm = Processor::read("processor\t: 0\nFeatures\t: fp asimd sve\nCPU part\t: 0xd40\n");
        assert_eq!(arm.lacking_in(&Processor::read("Features : fp asimd\n")), ["sve"]);
        assert_eq!(Processor::read("").instructions.len(), 0);
    }
}
