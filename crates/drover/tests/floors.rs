//! The house's structure, held to by a test: which crate may use which, where unsafe code may be, how files begin.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate and its floor. An arrow goes down: a crate uses crates on lower floors alone.
const FLOORS: [(&str, u8); 19] = [
    ("drover-model", 0),
    ("drover-sys", 0),
    ("drover-packing", 1),
    ("drover-protocol", 2),
    ("drover-api", 2),
    ("drover-container", 2),
    ("drover-memory", 2),
    ("drover-disk", 2),
    ("drover-network", 2),
    ("drover-registry", 2),
    ("drover-cluster", 3),
    ("drover-engine", 3),
    ("drover-sim", 3),
    ("drover-agent", 4),
    ("drover-lab", 4),
    ("drover", 5),
    ("drover-checker", 5),
    ("drover-bench", 5),
    ("drover-fuzzing", 5),
];

/// The crates that decide and do nothing: no clock, no socket, no thread, no file.
const PURE: [&str; 3] = ["drover-model", "drover-protocol", "drover-sim"];

/// What a pure crate may use from outside: nothing that could reach the world.
const PURE_DEPENDENCIES: [&str; 8] =
    ["bytes", "ipnet", "proptest", "serde", "serde_json", "thiserror", "time", "utoipa"];

/// What a pure crate's code must not name, although the standard library has it.
const PURE_FORBIDDEN: [&str; 8] =
    ["std::fs", "std::process", "std::thread", "std::env", "Instant::now", "SystemTime::now", "TcpStream", "UdpSocket"];

/// The witness: it uses no crate of ours, and none of ours uses it.
const WITNESS: &str = "drover-checker";

/// The one crate with unsafe code.
const UNSAFE: &str = "drover-sys";

/// One crate of the workspace as cargo describes it.
struct Package {
    name: String,
    directory: PathBuf,
    dependencies: Vec<String>,
}

fn workspace() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let package = |value: &Value| Package {
        name: text(&value["name"]),
        directory: Path::new(&text(&value["manifest_path"])).parent().expect("a directory").to_owned(),
        dependencies: value["dependencies"].as_array().expect("a list").iter().map(|d| text(&d["name"])).collect(),
    };
    metadata["packages"].as_array().expect("a list").iter().map(package).collect()
}

fn floors() -> BTreeMap<&'static str, u8> {
    FLOORS.into_iter().collect()
}

/// All Rust files of a crate.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn every_crate_has_a_floor_and_every_floor_a_crate() {
    let mut crates: Vec<String> = workspace().into_iter().map(|package| package.name).collect();
    let mut known: Vec<String> = floors().into_keys().map(str::to_owned).collect();
    crates.sort();
    known.sort();
    assert_eq!(crates, known);
}

#[test]
fn no_arrow_runs_up_or_along_a_floor() {
    let floors = floors();
    for package in workspace() {
        let floor = floors[package.name.as_str()];
        for dependency in &package.dependencies {
            if let Some(other) = floors.get(dependency.as_str()) {
                assert!(*other < floor, "{} (floor {floor}) uses {dependency} (floor {other})", package.name);
            }
        }
    }
}

#[test]
fn the_witness_stands_alone() {
    let floors = floors();
    for package in workspace() {
        for dependency in &package.dependencies {
            let ours = floors.contains_key(dependency.as_str());
            // Wrappers of system calls say nothing about containers.
            let stranger = !ours || dependency == "drover-sys";
            assert!(package.name != WITNESS || stranger, "{WITNESS} uses {dependency}");
            assert_ne!(dependency, WITNESS, "{} uses it", package.name);
        }
    }
}

#[test]
fn crates_that_decide_cannot_reach_the_world() {
    let floors = floors();
    for package in workspace().iter().filter(|package| PURE.contains(&package.name.as_str())) {
        for dependency in &package.dependencies {
            let pure = if floors.contains_key(dependency.as_str()) {
                PURE.contains(&dependency.as_str())
            } else {
                PURE_DEPENDENCIES.contains(&dependency.as_str())
            };
            assert!(pure, "{} uses {dependency}", package.name);
        }
        for file in rust_files(&package.directory.join("src")) {
            let text = fs::read_to_string(&file).expect("a readable file");
            for word in PURE_FORBIDDEN {
                assert!(!text.contains(word), "{} names {word}", file.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_but_in_sys() {
    let packages = workspace();
    let root = packages[0].directory.ancestors().nth(2).expect("crates/NAME lies in the workspace");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a readable manifest");
    assert!(manifest.lines().any(|line| line.trim() == r#"unsafe_code = "forbid""#), "the workspace allows it");
    for package in &packages {
        let manifest = fs::read_to_string(package.directory.join("Cargo.toml")).expect("a readable manifest");
        let mut lines = manifest.lines().skip_while(|line| line.trim() != "[lints]").skip(1);
        let inherits = lines.next().is_some_and(|line| line.trim() == "workspace = true");
        assert!(inherits || package.name == UNSAFE, "{} does not take the workspace's lints", package.name);
    }
}

#[test]
fn every_file_says_first_what_it_is() {
    for package in workspace() {
        for file in rust_files(&package.directory) {
            let text = fs::read_to_string(&file).expect("a readable file");
            assert!(text.starts_with("//! "), "{} does not begin with a `//!` line", file.display());
        }
    }
}
