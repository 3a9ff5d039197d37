//! Users and the programs that they run: terminals, exit statuses, and agents that go away.

use std::time::{Duration, Instant};

use crate::harness::{Lab, until};

#[test]
fn a_program_on_a_terminal_that_ends_at_once_passes_its_status_on() {
    let lab = Lab::with_toolbox();
    for (number, options) in ["-it", "-t", "-it", "-t"].iter().enumerate() {
        let name = format!("box{number}");
        let line = format!("run --node n1 --name {name} {options} toolbox sh -c 'echo hello; exit 7'");
        let ended = lab.start_on_terminal(&line).end();
        assert_eq!((ended.status, ended.stdout.trim_end()), (7, "hello"), "{ended:?}");
        // Whoever asks next is told the same, and why nobody can attach.
        assert_eq!(lab.inspect(&name)["state"], "exited");
        let error = lab.start_on_terminal(&format!("attach {name}")).end();
        assert!(error.status == 1 && error.stdout.contains("it is exited (7)"), "{error:?}");
    }
}

#[test]
fn ctrl_p_ctrl_q_detaches_from_a_terminal_without_input() {
    let lab = Lab::with_toolbox();
    let script = "until test \"$(stty size)\" = '31 101'; do sleep 0.01; done; echo attached; sleep 1000";
    lab.drover(("run --node n1 --name box -dt toolbox sh -c", script)).well();
    let mut session = lab.start_on_terminal("attach box");
    // The size comes with the keys' listener.
    lab.await_log("box", "attached");
    session.write("ignored\u{10}\u{11}");
    assert_eq!(session.end().status, 0);
    assert_eq!(lab.inspect("box")["state"], "running");
}

#[test]
fn a_terminal_needs_an_input_that_is_one() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name other -dit toolbox sh").well();
    for line in ["run --node n1 --name box -it toolbox sh", "exec -it other sh", "attach other"] {
        let refused = lab.drover(line);
        assert_eq!(refused.status, if line.starts_with("run") { 125 } else { 1 }, "{refused:?}");
        assert!(refused.stderr.contains("the input device is not a terminal\nhint: "), "{refused:?}");
    }
    assert_eq!(lab.json("ps -a").as_array().unwrap().len(), 1);
    // An empty input that is no terminal has its end.
    let mut cat = lab.command("run --node n1 --name cat -i toolbox cat");
    assert!(cat.stdin(std::process::Stdio::null()).status().unwrap().success());
}

#[test]
fn a_program_on_a_terminal_finds_its_kind_in_the_environment() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -dt toolbox sleep 1000").well();
    assert_eq!(lab.inside("box", "echo $TERM"), "xterm\n");
    lab.drover("run --node n1 --name plain -d toolbox sleep 1000").well();
    assert_eq!(lab.inside("plain", "echo [$TERM]"), "[]\n");
    for (options, kind) in [("-t", "xterm"), ("-t -e TERM=vt100", "vt100")] {
        let printed = lab.drover((format!("exec {options} plain sh -c"), "echo $TERM")).well();
        assert_eq!(printed.trim_end(), kind);
    }
}

#[test]
fn exec_finds_a_user_by_name_like_run() {
    let lab = Lab::with_toolbox();
    let ids = "echo $(id -u):$(id -g)";
    let of_run = lab.drover(("run --node n1 --name box -u nobody toolbox sh -c", ids)).well();
    lab.drover("run --node n1 --name other -d toolbox sleep 1000").well();
    assert_eq!(lab.drover(("exec -u nobody other sh -c", ids)).well(), of_run);
    let error = lab.drover("exec -u no-such-user other true").hinted_refusal();
    assert!(error.contains("no-such-user"), "{error}");
}

#[test]
fn a_program_that_cannot_be_run_has_the_status_of_shells() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    for (program, status) in [("nosuch", 127), ("/no/such", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        for line in ["exec box", "exec -t box", "run --node n1 --name other toolbox", "run --node n1 -t toolbox"] {
            let refused = lab.drover(format!("{line} {program}"));
            assert_eq!(refused.status, status, "{line}: {refused:?}");
            let error = refused.stderr;
            assert!(error.starts_with(&format!("cannot run {program} in ")) && error.contains("\nhint: "), "{error}");
            assert!(!error.contains("runc") && !error.contains('"') && refused.stdout.is_empty(), "{error}");
        }
    }
    assert_eq!(lab.drover("run --node n1 no-such-image").status, 125);
    assert_eq!(lab.json("ps -a").as_array().unwrap().len(), 1);
}

#[test]
fn those_who_are_attached_are_told_in_plain_words_that_the_agent_went_away() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    for signal in ["TERM", "KILL"] {
        let sessions = [lab.start("attach box"), lab.start(("exec box sh -c", "echo begun >/begun; sleep 1000"))];
        until("a program that runs", || (lab.drover("exec box test -e /begun").status == 0).then_some(()));
        end_agent(&lab, signal);
        for session in sessions {
            let error = session.end().hinted_refusal();
            assert!(error.contains("the agent of n1 went away") && !error.contains("TLS"), "{error}");
        }
        lab.restart_agent("n1");
        lab.inside("box", "rm /begun");
    }
    assert_eq!(lab.inspect("box")["state"], "running");
}

#[test]
fn an_agent_that_stops_does_not_wait_for_those_who_wait() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -d toolbox sh -c", "echo begun; sleep 1000")).well();
    let _waiting = [lab.start("logs -f box"), lab.start("attach box")];
    let mut run =
        lab.start(("run --node n1 --name other toolbox sh -c", "echo begun; until test -e /end; do :; done; exit 5"));
    until("a program that runs", || lab.drover("logs other").stdout.contains("begun").then_some(()));
    let begun = Instant::now();
    end_agent(&lab, "TERM");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(run.runs());
    lab.restart_agent("n1");
    // Who waits asks the next agent.
    lab.let_end("other");
    assert_eq!(run.end().status, 5);
}

/// Ends the agent of n1 by a signal, for good.
#[track_caller]
fn end_agent(lab: &Lab, signal: &str) {
    let script = format!(
        "cd /run/drover-lab && touch agent.stopped && kill -{signal} $(cat agent.pid)
         while test -e agent.pid; do sleep 0.05; done"
    );
    lab.on("n1", script).well();
}
