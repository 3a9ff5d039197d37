//! A small command line over the lab's functions, for trying and testing the lab without the rest of Drover.
//!
//! `lab up NODES [RATE|none] [AGENT COMMAND...]`, `lab down`, `lab status`, `lab exec HOST CMD...`,
//! `lab agent HOST start|stop`, `lab link RATE|none`; `lab lab-host --spec FILE` is the hosts' own.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use drover_lab::UpRequest;
use drover_model::{Bandwidth, Explained};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err((error, hint)) => {
            eprintln!("lab: {}", Explained::from_chain(&*error));
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

type Failure = (Box<dyn Error>, Option<String>);

/// Keeps an error's hint beside it.
macro_rules! hinted {
    ($result:expr) => {
        $result.map_err(|error| {
            let hint = error.hint();
            (Box::<dyn Error>::from(error), hint)
        })
    };
}

fn run() -> Result<ExitCode, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &words[..] {
        ["lab-host", "--spec", spec] => hinted!(drover_lab::host_main(Path::new(spec)))?,
        ["up", nodes, rest @ ..] => {
            let nodes = nodes.parse().map_err(unhinted)?;
            let link = rate(rest.first().copied().unwrap_or("none"))?;
            let mut request = UpRequest::of(&std::env::current_exe().map_err(unhinted)?, nodes, link);
            request.agent =
                rest.get(1..).filter(|words| !words.is_empty()).map(|words| words.iter().map(|&w| w.into()).collect());
            let lab = hinted!(drover_lab::up(&request))?;
            println!("{} after {} ms", if lab.already { "already up" } else { "up" }, lab.took.as_millis());
            lab.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        }
        ["down"] => println!("{:?}", hinted!(drover_lab::down())?),
        ["status"] => match hinted!(drover_lab::status())? {
            Some(status) => println!("{}", serde_json::to_string_pretty(&status).map_err(unhinted)?),
            None => println!("down"),
        },
        ["exec", host, _, ..] => {
            let status = hinted!(drover_lab::exec(host, &arguments[2..]))?;
            return Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(128)).unwrap_or(1)));
        }
        ["agent", host, change] => hinted!(drover_lab::set_agent(host, *change == "start"))?,
        ["link", wanted] => hinted!(drover_lab::set_link(rate(wanted)?))?,
        _ => return Err((format!("no such command: {words:?}").into(), Some("see the first lines of lab.rs".into()))),
    }
    Ok(ExitCode::SUCCESS)
}

fn rate(text: &str) -> Result<Option<Bandwidth>, Failure> {
    if text == "none" { Ok(None) } else { text.parse().map(Some).map_err(unhinted) }
}

fn unhinted(error: impl Error + 'static) -> Failure {
    (Box::new(error), None)
}
