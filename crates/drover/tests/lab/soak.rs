//! Hundreds of moves of a container that checks its own memory, in every mode and over every link. Not a part of the tests:
//! `make soak` runs it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::count::import_counter;
use crate::harness::Lab;
use crate::memory::{HYBRID, POST_COPY, PRE_COPY, STOP_AND_COPY, begin_torture, examine};

/// Links, and how long a thread pauses between two steps there, in microseconds: one that writes much faster than a link
/// carries has every page sent while it is frozen.
const LINKS: [(&str, u32); 3] = [("none", 200), ("1gbit", 500), ("100mbit", 5000)];

#[test]
#[ignore = "takes about a quarter of an hour: make soak"]
fn hundreds_of_moves_leave_every_page_as_it_was() {
    let moves = std::env::var("DROVER_SOAK_MOVES").map_or(100, |moves| moves.parse().expect("a number of moves"));
    println!("| Link | Mode | Moves | Downtime, median and longest (ms) |\n|---|---|---:|---:|");
    for (link, pause) in LINKS {
        let lab = Lab::up();
        import_counter(&lab);
        begin_torture(&lab, &format!("--mib 12 --threads 3 --children 2 --pause-us {pause}"));
        lab.drover(format!("lab link {link}")).well();
        let mut downtimes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for number in 0..moves {
            let ways = [PRE_COPY, POST_COPY, STOP_AND_COPY, HYBRID, ("", "auto")];
            let (way, _) = ways[number % ways.len()];
            let target = if number % 2 == 0 { "n2" } else { "n1" };
            let ended = lab.drover(format!("--json migrate box --to {target} {way}"));
            // A program that has found something wrong has ended, and says in its log what it was.
            assert_eq!(ended.status, 0, "move {number} {way}: {}\n{}", ended.stdout, lab.logs("box"));
            let report: Value = serde_json::from_str(&ended.stdout).expect("a report");
            let mode = report["mode"].as_str().unwrap_or_default().to_owned();
            downtimes.entry(mode).or_default().push(report["downtime_ms"].as_f64().unwrap_or(f64::NAN));
        }
        for (mode, mut downtimes) in downtimes {
            downtimes.sort_by(f64::total_cmp);
            let (median, longest) = (downtimes[downtimes.len() / 2], downtimes[downtimes.len() - 1]);
            println!("| {link} | {mode} | {} | {median:.0}, {longest:.0} |", downtimes.len());
        }
        let report: Value = examine(&lab);
        println!("| {link} | pages looked at: {} | {moves} | none wrong |", report["pages"]);
    }
}
