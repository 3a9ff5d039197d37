//! Nodes of two releases: containers go between them, and nodes are updated under containers that run.
//!
//! `make compat OLD=REVISION` builds the other release and names its executable in `DROVER_OLD`. Without that both are
//! this one, which leaves what every update has to get through: an executable that is exchanged under its shims.

use std::fs;
use std::path::{Path, PathBuf};

use crate::doubt::{count_in, counts_on, in_doubt, outcome};
use crate::harness::{DROVER, Lab};

/// The executable of the old release.
fn old() -> PathBuf {
    std::env::var_os("DROVER_OLD").map_or_else(|| PathBuf::from(DROVER), PathBuf::from)
}

/// What a node has as `/opt/drover`: an executable that can be exchanged.
#[derive(Debug)]
struct Installed(tempfile::TempDir);

impl Installed {
    fn new(release: &Path) -> Self {
        let installed = Self(tempfile::tempdir().unwrap());
        installed.exchange(release);
        installed
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("drover")
    }

    /// As a package manager does it: what runs keeps the file that it was started from.
    fn exchange(&self, release: &Path) {
        let new = self.0.path().join("drover.new");
        fs::copy(release, &new).unwrap();
        fs::rename(new, self.program()).unwrap();
    }
}

#[test]
fn a_container_goes_from_the_old_release_to_the_new_and_back() {
    let installed = Installed::new(&old());
    let lab = Lab::of_programs(&[("n1", &installed.program())]);
    assert_eq!(lab.on("n1", "ls /opt/drover").well(), "drover\n", "n1 runs its own program");
    lab.drover("volume create data --node n1").well();
    let script =
        "echo kept >/data/kept; echo layer >/root/layer; n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done";
    let run =
        "run --node n1 --name web --ip 10.77.0.50/24 --memory 64m --restart always -v data:/data -d toolbox sh -c";
    lab.drover((run, script)).well();
    lab.await_log("web", "20\n");
    for mode in ["pre-copy", "stop-and-copy", "post-copy"] {
        for target in ["n2", "n1"] {
            let report = lab.json(format!("migrate web --to {target} --mode {mode}"));
            assert_eq!(report["outcome"], "moved", "{report}");
            assert_eq!(lab.inspect("web")["node"], target);
            assert_eq!(lab.inside("web", "cat /data/kept /root/layer"), "kept\nlayer\n");
            counts_on(&lab);
        }
    }
    lab.drover("stop -t 0 web").well();
    lab.drover("rm web").well();
}

#[test]
fn nodes_are_updated_and_put_back_under_containers_that_run() {
    let installed = [Installed::new(&old()), Installed::new(&old())];
    let programs = installed.each_ref().map(Installed::program);
    let lab = Lab::of_programs(&[("n1", &programs[0]), ("n2", &programs[1])]);
    count_in(&lab);
    lab.drover("run --node n2 --name stays -d toolbox sleep 1000").well();
    let process = lab.inspect("stays")["pid"].clone();
    let (new, old) = (PathBuf::from(DROVER), old());
    // The last two put the old release back, on nodes whose files the new one has written meanwhile.
    for (node, release) in [("n1", &new), ("n2", &new), ("n2", &old), ("n1", &old)] {
        installed[usize::from(node == "n2")].exchange(release);
        lab.restart_agent(node);
        counts_on(&lab);
        assert_eq!(lab.inspect("stays")["pid"], process, "after {node}");
        for target in ["n2", "n1"] {
            lab.migrate("web", target);
            assert_eq!(lab.inside("web", "echo inside"), "inside\n");
            counts_on(&lab);
        }
    }
    assert!(lab.json("migrations").as_array().unwrap().iter().all(|state| state["report"]["outcome"] == "moved"));
}

#[test]
fn a_migration_in_doubt_ends_although_both_nodes_are_updated_meanwhile() {
    let installed = [Installed::new(&old()), Installed::new(&old())];
    let programs = installed.each_ref().map(Installed::program);
    let lab = Lab::of_programs(&[("n1", &programs[0]), ("n2", &programs[1])]);
    count_in(&lab);
    let id = in_doubt(&lab);
    for (node, installed) in ["n1", "n2"].into_iter().zip(&installed) {
        installed.exchange(Path::new(DROVER));
        lab.drover(format!("lab agent {node} stop")).well();
        lab.drover(format!("lab agent {node} start")).well();
    }
    lab.on("n2", "ip link set eth0 up").well();
    assert_eq!(outcome(&lab, &id).0, "moved");
    assert_eq!(lab.inspect("web")["node"], "n2");
    counts_on(&lab);
}
