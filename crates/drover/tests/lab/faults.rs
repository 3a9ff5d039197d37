//! Some cells of the table of faults (docs/faults.md), those that end soon.

use std::process::Command;

use serde_json::Value;

use crate::harness::programs;

/// Some of each kind that is over soon. A CRIU that is killed is left to the whole table: what does not hold yet of it is said
/// in docs/faults.md.
const CELLS: [&str; 6] = [
    "freeze/source-agent",
    "copy/target-agent",
    "commit/source-node",
    "commit/target-node",
    "commit/cut-1s",
    "copy/flip-to-target",
];

#[test]
fn faults_in_the_middle_of_moves_lose_nothing_double_nothing_and_leave_nothing() {
    let lab = format!("t{}-faults", std::process::id());
    let mut command = Command::new(programs().join("drover-bench"));
    command.args(["faults", "--json", "--jobs", "2", "--lab", &lab, "--only", &CELLS.join(",")]);
    let output = command.output().unwrap();
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{error}");
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), CELLS.len(), "{error}");
    for row in rows {
        assert!(row["lost"] == false && row["doubled"] == false, "{row}");
        assert_eq!(row["leftovers"], Value::Array(Vec::new()), "{row}");
    }
}
