//! What the documents name exists: paths, links, tests, commands and their options.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The top of the repository.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files below `directory` whose names end in `.EXTENSION`.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found
}

/// Every document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = files(&top().join("docs"), "md");
    for name in ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md", "CHANGELOG.md"] {
        paths.push(top().join(name));
    }
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// What stands between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn every_path_that_a_document_names_exists() {
    const BEGINNINGS: [&str; 4] = ["crates/", "scripts/", "contrib/", "docs/"];
    const FILES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md"];
    let mut missing = Vec::new();
    for (document, text) in documents() {
        for path in quoted(&text) {
            let is_path = BEGINNINGS.iter().any(|beginning| path.starts_with(beginning)) || FILES.contains(&path);
            if is_path && !top().join(path).exists() {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !document.with_file_name(link).exists() {
                missing.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let mut functions = BTreeSet::new();
    for path in files(&top().join("crates"), "rs") {
        for line in fs::read_to_string(path).unwrap().lines() {
            if let Some((_, rest)) = line.split_once("fn ") {
                functions.insert(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
            }
        }
    }
    let text = fs::read_to_string(top().join("SPECIFICATION.md")).unwrap();
    // Tests are sentences: two spaces at least.
    let is_test = |word: &&str| {
        word.matches('_').count() >= 2
            && word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
    };
    let named: Vec<&str> = quoted(&text).filter(is_test).collect();
    assert!(named.len() > 50, "{}", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !functions.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_command_of_the_tour_exists_with_its_options() {
    let text = fs::read_to_string(top().join("README.md")).unwrap();
    let commands: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("$ drover ")).collect();
    assert!(commands.len() > 5, "{commands:?}");
    for line in commands {
        let words: Vec<&str> = line.split(' ').take_while(|word| *word != "--").collect();
        let depth = if matches!(words[0], "lab" | "image") { 2 } else { 1 };
        let help = Command::new(env!("CARGO_BIN_EXE_drover")).args(&words[..depth]).arg("--help").output().unwrap();
        assert!(help.status.success(), "{line}");
        let help = String::from_utf8(help.stdout).unwrap();
        for option in words.iter().filter(|word| word.starts_with('-')) {
            assert!(help.contains(option), "{line}: {option}");
        }
    }
}
