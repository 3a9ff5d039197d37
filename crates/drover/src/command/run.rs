//! `drover run`.

use std::process::ExitCode;

use clap::Args;
use drover_api::{ClientError, KillRequest, RunRequest};
use drover_model::{Bytes, ContainerName, InvalidMount, Limits, NodeName, RestartPolicy, TmpfsMount};
use tokio::signal::unix::{SignalKind, signal};

use super::exec::check_input;
use super::{exit_code, open};
use crate::cluster::{Cluster, Located};
use crate::failure::{Cause, Doing, Failure};
use crate::follow::{Follower, wait};
use crate::print::Printer;
use crate::session::{Ended, Seat};
use crate::{names, unit};

/// The exit status when there is no container whose status could be passed on; as other container engines have it.
const NOT_STARTED: u8 = 125;

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The node to run on; needed when there is more than one
    #[arg(long)]
    node: Option<NodeName>,
    /// The container's name; by default two words
    #[arg(long)]
    name: Option<ContainerName>,
    /// An address, with or without prefix length; by default one from the node's pool
    #[arg(long = "ip", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Memory limit, as in 512m
    #[arg(long, value_name = "BYTES")]
    memory: Option<Bytes>,
    /// Limit of processors, as in 0.5
    #[arg(long, value_parser = unit::cpus)]
    cpus: Option<u32>,
    /// Limit of tasks
    #[arg(long, value_name = "N")]
    pids_limit: Option<u32>,
    /// Set an environment variable: KEY=VALUE, or KEY to pass it on
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// UID[:GID], or a name in the image
    #[arg(short, long)]
    user: Option<String>,
    /// Host name inside; by default the container's name
    #[arg(long)]
    hostname: Option<String>,
    /// no, on-failure[:N], unless-stopped or always
    #[arg(long, default_value = "no", value_name = "POLICY")]
    restart: RestartPolicy,
    /// Mount a volume: NAME:/PATH[:ro]; a local one that does not exist is made, and travels with the container
    #[arg(short, long = "volume", value_name = "NAME:/PATH[:ro]")]
    volumes: Vec<String>,
    /// Mount a file system in memory: /PATH[:size=64m,mode=1777]
    #[arg(long, value_name = "/PATH[:size=64m,mode=1777]")]
    tmpfs: Vec<TmpfsMount>,
    /// Do not wait for it to end
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open, and pass ours on
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short = 't', long = "tty")]
    terminal: bool,
    /// The image
    image: String,
    /// The program and its arguments; by default the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The argument of `--env`.
pub fn variable(text: &str) -> Result<String, String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => (text, std::env::var(text).map_err(|_| format!("{text} is not set here"))?),
    };
    if key.is_empty() { Err("it has no name".into()) } else { Ok(format!("{key}={value}")) }
}

impl RunArgs {
    fn request(self, name: ContainerName) -> Result<RunRequest, InvalidMount> {
        let volumes = self.volumes.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(RunRequest {
            name,
            image: self.image,
            args: self.command,
            env: self.env,
            cwd: self.workdir,
            user: self.user,
            hostname: self.hostname,
            addresses: self.addresses,
            gateways: Vec::new(),
            mac: None,
            limits: Limits { memory: self.memory, cpu_millis: self.cpus, pids: self.pids_limit },
            restart: self.restart,
            terminal: self.terminal,
            stdin_open: self.interactive,
            volumes,
            tmpfs: self.tmpfs,
        })
    }
}

/// Makes a container; without `--detach` stays with it until its program has ended, and passes its status on.
pub async fn execute(args: RunArgs, printer: Printer) -> Result<ExitCode, Failure> {
    let (detach, interactive, terminal) = (args.detach, args.interactive, args.terminal);
    let (cluster, located) = begin(args, printer).await.map_err(|failure| failure.with_status(NOT_STARTED))?;
    if detach {
        printer.either(&located.record, || located.record.spec.name.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if interactive || terminal {
        converse(&cluster, located, interactive, terminal, printer).await
    } else {
        watch(&cluster, located, printer).await
    }
}

/// Has the node make the container.
async fn begin(args: RunArgs, printer: Printer) -> Result<(Cluster, Located), Failure> {
    let image = args.image.clone();
    let action = || format!("run {image}");
    if !args.detach {
        check_input(args.interactive, args.terminal).doing(action)?;
    }
    let cluster = open(printer, action)?;
    let client = cluster.one(args.node.as_ref()).doing(action)?.clone();
    let name = args.name.clone().or_else(|| names::generate(&mut rand::rng()));
    let name = name.ok_or(Cause::Invalid("no name could be made up")).doing(action)?;
    let request = args.request(name).doing(action)?;
    let record = client.run(&request).await.doing(action)?;
    Ok((cluster, Located { client, record }))
}

/// Connects the user to the program.
async fn converse(
    cluster: &Cluster,
    located: Located,
    interactive: bool,
    terminal: bool,
    printer: Printer,
) -> Result<ExitCode, Failure> {
    let name = located.record.spec.name.clone();
    let mut seat = Seat::take(interactive, terminal).doing(|| format!("attach to {name}"))?;
    match seat.attend(cluster, located.clone(), true).await {
        Ok(Ended::Exited(status)) => Ok(exit_code(status)),
        Ok(_) => Ok(ExitCode::SUCCESS),
        // It ended before we were attached: its log and its status are still there.
        Err(failure) if failure.is_refused() => {
            drop(seat);
            watch(cluster, located, printer).await
        }
        Err(failure) => Err(failure),
    }
}

/// Prints the program's output, all of it, and waits for its end. Signals are passed on; the third one leaves it.
async fn watch(cluster: &Cluster, located: Located, printer: Printer) -> Result<ExitCode, Failure> {
    let action = || format!("wait for {}", located.record.spec.name);
    let mut interrupted = signal(SignalKind::interrupt()).doing(action)?;
    let mut terminated = signal(SignalKind::terminate()).doing(action)?;
    let mut follower = Follower::new(cluster, printer);
    let mut left = 2;
    let (last, status) = {
        let printing = async {
            follower.follow(located.clone(), None).await?;
            // The log has ended; the status is still to come.
            std::future::pending::<Result<(), Failure>>().await
        };
        let waiting = wait(cluster, located.clone());
        tokio::pin!(printing, waiting);
        loop {
            let number = tokio::select! {
                ended = &mut waiting => break ended?,
                failed = &mut printing => failed.map(|()| 0)?,
                _ = interrupted.recv() => 2,
                _ = terminated.recv() => 15,
            };
            if left == 0 {
                return Ok(exit_code(128 + number));
            }
            left -= 1;
            if let Err(error) = pass_on(cluster, &located, number).await {
                cluster.warn(&error);
            }
        }
    };
    match follower.catch_up(&last).await {
        Err(failure) if failure.is_refused() => {}
        done => done?,
    }
    Ok(exit_code(status))
}

async fn pass_on(cluster: &Cluster, located: &Located, signal: i32) -> Result<(), ClientError> {
    let id = &located.record.spec.id;
    let client = match cluster.locate_again(id).await {
        Ok(Some(again)) => again.client,
        _ => located.client.clone(),
    };
    client.kill(id.as_str(), &KillRequest { signal }).await
}
