//! What the binary says of itself for those who package it: manual pages and completion scripts.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn drover(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_drover")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn every_command_has_a_manual_page_and_hidden_ones_have_none() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    drover(&["man", pages.to_str().unwrap()]);
    for command in ["", "-run", "-migrate", "-pong", "-image-import", "-lab-up", "-agent"] {
        let page = std::fs::read_to_string(pages.join(format!("drover{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "drover{command}.1: {page}");
    }
    assert!(!pages.join("drover-shim.1").exists() && !pages.join("drover-lab-host.1").exists());
}

#[test]
fn completion_scripts_name_the_commands_and_bash_can_read_its_own() {
    for shell in ["bash", "zsh", "fish"] {
        let script = drover(&["completions", shell]).stdout;
        let text = String::from_utf8_lossy(&script);
        assert!(["migrate", "stop-and-copy", "image"].iter().all(|word| text.contains(word)), "{shell}: {text}");
        if shell == "bash" {
            let mut reader = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            reader.stdin.take().unwrap().write_all(&script).unwrap();
            assert!(reader.wait().unwrap().success());
        }
    }
}
