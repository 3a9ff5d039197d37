//! A lab for one test, and the `drover` command line in it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a command may take, and a condition to come true.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// The binary under test.
pub const DROVER: &str = env!("CARGO_BIN_EXE_drover");

/// Waits until `look` sees what is `awaited`.
pub fn until<T>(awaited: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "waited in vain: {awaited}");
        std::thread::sleep(PAUSE);
    }
}

/// Words of a command: those of one line, and perhaps a last one with spaces.
pub trait Words {
    /// The words.
    fn words(&self) -> Vec<String>;
}

impl Words for &str {
    fn words(&self) -> Vec<String> {
        self.split_whitespace().map(str::to_owned).collect()
    }
}

impl Words for String {
    fn words(&self) -> Vec<String> {
        self.as_str().words()
    }
}

impl<A: Words, B: AsRef<str>> Words for (A, B) {
    fn words(&self) -> Vec<String> {
        let mut words = self.0.words();
        words.push(self.1.as_ref().to_owned());
        words
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// What it printed; it must have been successful.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!(self.status, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its error in plain words with a hint; it must have failed.
    #[track_caller]
    pub fn refusal(self) -> String {
        self.refusal_with(1)
    }

    /// The same with another exit status.
    #[track_caller]
    fn refusal_with(self, status: i32) -> String {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.lines().any(|line| line.starts_with("cannot ")), "{}", self.stderr);
        for foreign in ["Os {", "Error(", "panicked", "RUST_BACKTRACE"] {
            assert!(!self.stderr.contains(foreign), "{}", self.stderr);
        }
        self.stderr
    }

    /// What it printed; it must have failed.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_eq!(self.status, 1, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// The same, when the user can do something about it.
    #[track_caller]
    pub fn hinted_refusal(self) -> String {
        self.hinted_refusal_with(1)
    }

    /// The same with another exit status.
    #[track_caller]
    pub fn hinted_refusal_with(self, status: i32) -> String {
        let error = self.refusal_with(status);
        assert!(error.lines().any(|line| line.starts_with("hint: ")), "no hint: {error}");
        error
    }
}

/// A command that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    streams: Vec<JoinHandle<String>>,
    /// Whether its input is what is typed on a terminal.
    typed: bool,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let read = |mut stream: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let streams = vec![read(Box::new(child.stdout.take().unwrap())), read(Box::new(child.stderr.take().unwrap()))];
        let stdin = child.stdin.take();
        Self { child, stdin, streams, typed: false }
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    /// Ends its standard input, waits for its end, and gives what it printed.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        // When its input ends `script` types a zero byte, which a program's terminal may show.
        let _typing = self.stdin.take().filter(|_| self.typed);
        let status: ExitStatus = until("the end of a command", || self.child.try_wait().unwrap());
        let mut streams = std::mem::take(&mut self.streams).into_iter().map(|stream| stream.join().unwrap());
        let (stdout, stderr) = (streams.next().unwrap(), streams.next().unwrap());
        let status = status.code().unwrap_or_else(|| panic!("killed: {status}\n{stdout}\n{stderr}"));
        Ended { status, stdout, stderr }
    }

    /// What ctrl-c sends.
    pub fn interrupt(&self) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.runs() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A lab of two nodes, gone when dropped, and also when the test is killed.
#[derive(Debug)]
pub struct Lab {
    name: String,
    /// Takes the lab away when its standard input ends, which it does with this process at the latest.
    undertaker: Child,
}

impl Lab {
    /// Brings it up with the image `toolbox` on both nodes.
    pub fn with_toolbox() -> Self {
        let lab = Self::up();
        lab.import("toolbox");
        lab
    }

    /// Brings it up.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// Brings it up with nodes that run other executables than this one (`NODE=FILE`), and the image `toolbox`.
    pub fn of_programs(programs: &[(&str, &Path)]) -> Self {
        let given = programs.iter().map(|(node, file)| format!(" --program {node}={}", file.display()));
        let lab = Self::up_as(&format!("lab up{}", given.collect::<String>()), &[]);
        lab.import("toolbox");
        lab
    }

    /// Brings it up with so many nodes.
    pub fn of_nodes(nodes: u32) -> Self {
        Self::up_as(&format!("lab up --nodes {nodes}"), &[])
    }

    /// Brings it up, with these variables in the environment of its agents.
    pub fn up_with(variables: &[(&str, &str)]) -> Self {
        Self::up_as("lab up", variables)
    }

    fn up_as(up: &str, variables: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        check_machine();
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut undertaker = Command::new("/bin/sh");
        undertaker.args(["-c", "read -r _; exec \"$0\" lab down", DROVER]).env("DROVER_LAB", &name);
        undertaker.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // In a process group of its own: whoever ends the test does not end it.
        let undertaker = std::os::unix::process::CommandExt::process_group(&mut undertaker, 0).spawn().unwrap();
        let lab = Self { name, undertaker };
        let mut up = lab.command(up);
        up.envs(variables.iter().copied());
        Running::start(up).end().well();
        lab
    }

    /// Imports an image that `scripts/images.sh` made on both nodes.
    pub fn import(&self, image: &str) {
        let root = image_root(image);
        self.drover(format!("image import {image} {}", root.display())).well();
    }

    /// A command of `drover`.
    pub fn command(&self, words: impl Words) -> Command {
        let mut command = Command::new(DROVER);
        command.args(words.words()).env("DROVER_LAB", &self.name).env_remove("DROVER_CONTEXT");
        command
    }

    /// Runs `drover` to its end as one of the lab's users.
    #[track_caller]
    pub fn by(&self, user: &str, words: impl Words) -> Ended {
        let mut command = self.command(words);
        command.env("DROVER_CONTEXT", format!("/run/{}/users/{user}.json", self.mark()));
        Running::start(command).end()
    }

    /// Starts `drover`.
    pub fn start(&self, words: impl Words) -> Running {
        Running::start(self.command(words))
    }

    /// Starts `drover` on a terminal of 31 rows and 101 columns; both of its streams come as one.
    pub fn start_on_terminal(&self, line: &str) -> Running {
        let mut command = Command::new("script");
        command.args(["-qefc", &format!("stty rows 31 cols 101; exec {DROVER} {line}"), "/dev/null"]);
        command.env("DROVER_LAB", &self.name).env_remove("DROVER_CONTEXT").env("SHELL", "/bin/sh");
        let mut running = Running::start(command);
        running.typed = true;
        running
    }

    /// Runs `drover` to its end, with nothing to read.
    #[track_caller]
    pub fn drover(&self, words: impl Words) -> Ended {
        self.start(words).end()
    }

    /// What `drover … --json` printed; it must have been successful.
    #[track_caller]
    pub fn json(&self, words: impl AsRef<str>) -> Value {
        let printed = self.drover(format!("--json {}", words.as_ref())).well();
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// Runs a script on a host to its end.
    #[track_caller]
    pub fn on(&self, host: &str, script: impl AsRef<str>) -> Ended {
        self.drover((format!("lab exec {host} -- sh -c"), script))
    }

    /// Runs a script in a container; what it printed.
    #[track_caller]
    pub fn inside(&self, container: &str, script: impl AsRef<str>) -> String {
        self.drover((format!("exec {container} sh -c"), script)).well()
    }

    /// Makes the file for which a container's program waits to end. When that ends at once the kernel ends all that is in
    /// the container with it, the one that has just made the file too (137).
    #[track_caller]
    pub fn let_end(&self, container: &str) {
        let ended = self.drover(format!("exec {container} touch /end"));
        assert!(matches!(ended.status, 0 | 137), "{ended:?}");
    }

    /// The directory with its hosts' files, below that of all labs.
    pub fn directory(&self) -> String {
        format!("lab-{}", self.name)
    }

    /// What every name on the machine that belongs to this lab has in it.
    pub fn mark(&self) -> String {
        format!("drover-lab-{}", self.name)
    }

    /// Kills a node's agent, if it runs, and starts it again; returns when it answers.
    #[track_caller]
    pub fn restart_agent(&self, node: &str) {
        self.drover(format!("lab agent {node} stop")).well();
        self.drover(format!("lab agent {node} start")).well();
        until("an answer of the agent", || (self.drover(format!("ps -a --node {node}")).status == 0).then_some(()));
    }

    /// Lets so many moves leave a node, and as many come to it, at one time.
    #[track_caller]
    pub fn limit(&self, node: &str, moves: u32) {
        self.allow(node, &format!("outgoing = {moves}\nincoming = {moves}"));
    }

    /// Sets what the configuration of a node's agent says of migrations; once.
    #[track_caller]
    pub fn allow(&self, node: &str, migrations: &str) {
        self.on(node, format!("printf '\n[migrations]\n{migrations}\n' >>/etc/drover/agent.toml")).well();
        self.restart_agent(node);
    }

    /// A container's record.
    #[track_caller]
    pub fn inspect(&self, container: &str) -> Value {
        self.json(format!("inspect {container}"))
    }

    /// A container's id.
    #[track_caller]
    pub fn id(&self, container: &str) -> String {
        self.inspect(container)["spec"]["id"].as_str().unwrap().to_owned()
    }

    /// A container's log.
    #[track_caller]
    pub fn logs(&self, container: &str) -> String {
        self.drover(format!("logs {container}")).well()
    }

    /// Waits until a container's log has `text`; the log.
    #[track_caller]
    pub fn await_log(&self, container: &str, text: &str) -> String {
        until(&format!("{text:?} in the log of {container}"), || {
            Some(self.logs(container)).filter(|log| log.contains(text))
        })
    }

    /// Waits until a container's program has ended for good; its status.
    #[track_caller]
    pub fn await_exit(&self, container: &str) -> i64 {
        until(&format!("the end of {container}"), || {
            let record = self.inspect(container);
            (record["state"] == "exited").then(|| record["status"].as_i64().unwrap())
        })
    }

    /// Moves a container; the report.
    #[track_caller]
    pub fn migrate(&self, container: &str, target: &str) -> Value {
        let report = self.json(format!("migrate {container} --to {target}"));
        assert_eq!(report["outcome"], "moved", "{report}");
        assert_eq!(self.inspect(container)["node"], target);
        report
    }

    /// Begins to move a container and waits until at least `bytes` have crossed; the migration's id.
    #[track_caller]
    pub fn migrate_halfway(&self, container: &str, target: &str, bytes: u64) -> String {
        self.halfway(container, target, "stop-and-copy", bytes)
    }

    /// The same while its memory crosses and it runs.
    #[track_caller]
    pub fn copy_halfway(&self, container: &str, target: &str, bytes: u64) -> String {
        self.halfway(container, target, "pre-copy", bytes)
    }

    #[track_caller]
    fn halfway(&self, container: &str, target: &str, mode: &str, bytes: u64) -> String {
        let begun = self.json(format!("migrate {container} --to {target} --mode {mode} --detach"));
        let id = begun["id"].as_str().unwrap().to_owned();
        until("bytes that have crossed", || {
            let state = self.json(format!("migrations {id}"));
            assert!(state["report"].is_null(), "it ended too early: {state}");
            (state["bytes_sent"].as_u64().unwrap() >= bytes).then_some(())
        });
        id
    }

    /// Waits for the end of a migration; the report.
    #[track_caller]
    pub fn await_report(&self, migration: &str) -> Value {
        until("the end of a migration", || {
            let state = self.json(format!("migrations {migration}"));
            Some(state["report"].clone()).filter(|report| !report.is_null())
        })
    }

    /// What a node's agent has said.
    pub fn agent_log(&self, node: &str) -> String {
        let path = home().join(self.directory()).join(node).join("agent.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// What each thread of the lab waits for in the kernel, a line each; those that run are in no call.
    fn threads(&self) -> String {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let list = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let of_lab = |process: &PathBuf| read(process.join("cgroup")).contains(&format!("/{}/", self.mark()));
        let threads =
            list(Path::new("/proc")).filter(of_lab).flat_map(|process| list(&process.join("task")).collect::<Vec<_>>());
        let line = |thread: PathBuf| {
            format!("{} {} {}", thread.display(), read(thread.join("comm")).trim(), read(thread.join("wchan")))
        };
        threads.map(line).collect::<Vec<_>>().join("\n")
    }

    /// Everything on `host` that has a container's id in its name: files, mounts, cgroups, processes, links.
    #[track_caller]
    pub fn traces(&self, host: &str, id: &str) -> String {
        // The script must not find itself.
        let (head, last) = id.split_at(id.len() - 1);
        let script = format!(
            "find /run /var/lib/drover /sys/fs/cgroup -path /var/lib/drover/copies -prune -o -name '*{head}[{last}]*' -print 2>/dev/null
             grep '{head}[{last}]' /proc/mounts
             for process in /proc/[0-9]*; do
               tr '\\0' ' ' 2>/dev/null <$process/cmdline | grep '{head}[{last}]'
             done
             true"
        );
        self.on(host, script).well()
    }
}

impl Lab {
    /// Prints the last lines of every container's log: a program that found something wrong has said there what it was.
    fn print_logs(&self) {
        let names = self.command("ps --all --quiet").output().map(|output| output.stdout).unwrap_or_default();
        for name in String::from_utf8_lossy(&names).lines() {
            eprintln!("--- log of {name}");
            let _ = self.command(format!("logs --tail 20 {name}")).stdout(std::io::stderr()).status();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in ["n1", "n2"] {
                let log = self.agent_log(host);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- agent of {host}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
            eprintln!("--- moves");
            let _ = self.command("migrations --json").stdout(std::io::stderr()).status();
            self.print_logs();
            eprintln!("--- threads\n{}", self.threads());
        }
        drop(self.undertaker.stdin.take());
        let _ = self.undertaker.wait();
    }
}

/// The directory of labs, base and cache.
pub fn home() -> PathBuf {
    std::env::var_os("DROVER_HOME").map_or_else(|| PathBuf::from("/var/lib/drover"), PathBuf::from)
}

/// The root of an image that `scripts/images.sh` made.
pub fn image_root(image: &str) -> PathBuf {
    let root = home().join("cache/images").join(image);
    assert!(root.exists(), "these tests need the image {image} in {}: run scripts/images.sh", root.display());
    root
}

/// Where the programs are that are built together with the binary under test.
pub fn programs() -> PathBuf {
    let directory = Path::new(DROVER).parent().expect("a program is in a directory").to_owned();
    for program in ["drover-bench", "drover-check"] {
        let path = directory.join(program);
        assert!(path.exists(), "these tests need {}: build with --workspace", path.display());
    }
    check_machine();
    directory
}

/// The witness, beside the binary under test: hosts see both in /opt/drover.
pub fn witness() -> PathBuf {
    let path = Path::new(DROVER).with_file_name("drover-check");
    assert!(path.exists(), "these tests need {}: build with --workspace", path.display());
    path
}

/// The program that shares memory.
pub fn sharer() -> PathBuf {
    let path = Path::new(DROVER).with_file_name("examples").join("sharer");
    assert!(path.exists(), "these tests need {}: build with --workspace --all-targets", path.display());
    path
}

fn check_machine() {
    assert!(rustix::process::geteuid().is_root(), "these tests make labs: run them as root");
    let base = home().join("base/.drover-base");
    assert!(base.exists(), "these tests need the lab's base ({}): run scripts/install-base.sh", base.display());
}
