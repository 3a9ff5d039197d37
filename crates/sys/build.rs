//! Builds the libraries that are loaded into other programs (`interpose/`): they are a part of the binary.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=interpose");
    build("interpose/library.rs", "interpose.so");
    build("interpose/restoring.rs", "restoring.so");
}

fn build(source: &str, name: &str) {
    let wanted = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let library = PathBuf::from(wanted("OUT_DIR")).join(name);
    let mut rustc = Command::new(wanted("RUSTC"));
    rustc.args(["--edition=2024", "--crate-type=cdylib", "--crate-name=interpose", "-Cpanic=abort", "-Copt-level=2"]);
    rustc.args(["-Cstrip=symbols", "-Dwarnings", source]).arg("--target").arg(wanted("TARGET"));
    // What is missing shows here, and not when a program does not start.
    rustc.args(["-Clink-arg=-Wl,--no-undefined", "-Clink-arg=-lc"]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let built = rustc.arg("-o").arg(&library).status().expect("rustc runs");
    assert!(built.success(), "{source} cannot be built");
}
