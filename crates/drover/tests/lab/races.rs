//! Two who want something of one container at the same time, and those who go away in the middle.

use crate::connection::Witness;
use crate::harness::{Lab, until};

#[test]
fn a_program_executed_while_a_move_begins_comes_to_its_end() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    for (target, other) in [("n2", "n1"), ("n1", "n2"), ("n2", "n1")] {
        let moving = lab.start(format!("migrate box --to {target}"));
        let executed = lab.drover(("exec box sh -c", "echo in; sleep 1; echo out"));
        let moved = moving.end();
        // It waits for the container on its new node, or the move for it; or either says why not.
        match executed.status {
            0 => assert_eq!(executed.stdout, "in\nout\n"),
            _ => assert!(executed.stdout.is_empty() && executed.stderr.contains("hint:"), "{executed:?}"),
        }
        let node = if moved.status == 0 { target } else { other };
        assert_eq!(lab.inspect("box")["node"], node, "{moved:?}");
        if moved.status != 0 {
            assert!(moved.stderr.contains("hint:"), "{moved:?}");
            lab.migrate("box", target);
        }
    }
}

#[test]
fn what_was_asked_for_is_done_even_when_the_user_goes_away() {
    let lab = Lab::with_toolbox();
    for attempt in 0..6 {
        let name = format!("box{attempt}");
        let asking = lab.start(format!("run --node n1 --name {name} -d toolbox sleep 1000"));
        until("a container that is known", || (lab.drover(format!("inspect {name}")).status == 0).then_some(()));
        drop(asking);
        until("a container that runs", || (lab.inspect(&name)["state"] == "running").then_some(()));
        until("a name that is free", || {
            let removing = lab.start(format!("rm --force {name}"));
            let gone = lab.drover(format!("inspect {name}")).status != 0;
            drop(removing);
            gone.then_some(())
        });
    }
}

#[test]
fn a_move_is_undone_although_criu_hangs() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 32);
    lab.drover("lab link 100mbit").well();
    let id = lab.migrate_halfway("web", "n2", 4 << 20);
    // The process that dumps, found by what it is called and where it is.
    let stop = "for p in /proc/[0-9]*; do grep -qsx criu $p/comm && kill -STOP ${p#/proc/} && echo; done; true";
    assert_eq!(lab.on("n1", stop).well(), "\n", "one process dumps");
    lab.drover(format!("migrate --cancel {id}")).well();
    let report = lab.await_report(&id);
    assert_eq!(report["outcome"], "rolled_back", "{report}");
    assert_eq!(lab.drover("exec web redis-cli ping").well(), "PONG\n");
    lab.drover("lab link none").well();
    lab.migrate("web", "n2");
    witness.content();
}

#[test]
fn a_container_that_is_being_copied_does_not_notice_that_an_agent_is_killed() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 32);
    for killed in ["n2", "n1"] {
        lab.drover("lab link 100mbit").well();
        lab.copy_halfway("web", "n2", 4 << 20);
        lab.restart_agent(killed);
        lab.drover("lab link none").well();
        until("another attempt", || (lab.drover("migrate web --to n2").status == 0).then_some(()));
        lab.migrate("web", "n1");
    }
    witness.content();
}

#[test]
fn a_target_that_cannot_write_its_record_tries_until_it_can() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 32);
    lab.drover("lab link 100mbit").well();
    let id = lab.migrate_halfway("web", "n2", 4 << 20);
    let container = lab.id("web");
    // Where the new record is written first there is something that cannot be written to.
    let obstacle = format!("/var/lib/drover/containers/{container}/container.new");
    lab.on("n2", format!("mkdir {obstacle}")).well();
    lab.drover("lab link none").well();
    until("a decision that is not confirmed", || {
        let state = lab.json(format!("migrations {id}"));
        assert!(state["report"].is_null(), "{state}");
        state["delayed"].as_str().is_some_and(|why| why.contains("record")).then_some(())
    });
    let record = lab.inspect("web");
    assert_eq!((&record["node"], &record["state"]), (&"n2".into(), &"running".into()), "{record}");
    lab.on("n2", format!("rmdir {obstacle}")).well();
    assert_eq!(lab.await_report(&id)["outcome"], "moved");
    lab.migrate("web", "n1");
    witness.content();
}

#[test]
fn an_address_that_somebody_has_is_refused() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box --ip 10.77.0.50 -d toolbox sleep 1000").well();
    let refused = ["10.77.0.11", "10.77.0.12", "10.77.0.100", "10.77.0.50", "10.77.0.0", "10.77.255.255", "fd77::b/64"];
    for address in refused {
        let run = format!("run --node n2 --name other --ip {address} -d toolbox sleep 1000");
        let error = lab.drover(run).hinted_refusal_with(125);
        assert!(error.contains(address.trim_end_matches("/64")), "{error}");
    }
    assert_eq!(lab.json("ps -a").as_array().unwrap().len(), 1);
}

/// It was taken for the container that had been there: `rm` said that it had removed it.
#[test]
fn who_waits_to_change_a_container_that_leaves_is_told_so() {
    let lab = Lab::up();
    lab.import("redis");
    lab.drover("run --node n1 --name box -d redis").well();
    for (command, target) in [("rm box", "n2"), ("stop box", "n1"), ("migrate box --to n2 --node n1", "n2")] {
        let begun = lab.json(format!("migrate box --to {target} --detach"));
        let refusal = lab.drover(command).hinted_refusal();
        let known = ["not on this node any more", "something else is changing it"];
        assert!(known.iter().any(|reason| refusal.contains(reason)), "{command}: {refusal}");
        let report = lab.await_report(begun["id"].as_str().unwrap());
        assert_eq!(report["outcome"], "moved", "{report}");
        let record = lab.inspect("box");
        assert_eq!((&record["state"], &record["node"]), (&"running".into(), &target.into()), "{record}");
    }
}
