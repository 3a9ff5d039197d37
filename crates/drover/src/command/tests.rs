//! The contract of the command line: what parses, and what is a usage error.

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_line_of_the_contract_parses() {
    for line in [
        "drover lab up",
        "drover lab up --nodes 3 --link 100mbit",
        "drover lab up --link none",
        "drover lab exec n1 -- ip addr show",
        "drover lab down",
        "drover lab status --json",
        "drover lab-host --spec /tmp/spec",
        "drover shim /run/drover/shim.json",
        "drover agent --config f.toml",
        "drover agent features --json",
        "drover agent features --node n1",
        "drover agent features --here",
        "drover image import web ./root",
        "drover image import web root.tar --node n1",
        "drover image ls",
        "drover image rm web",
        "drover run --node n1 --name web --ip 10.0.0.5 --ip fd00::5/64 --memory 512m --cpus 1.5 --pids-limit 9 -e K=V \
         -w /srv -u 5:5 --hostname h --restart on-failure:3 -d image",
        "drover run -it image sh -c ls -la --json",
        "drover ps -a",
        "drover ps --json",
        "drover ps -aq",
        "drover --json inspect web",
        "drover logs -f --tail 5 web",
        "drover exec -it web sh -i",
        "drover exec web ls -la",
        "drover attach web --node n2",
        "drover stats",
        "drover stats web --no-stream",
        "drover start web",
        "drover stop -t 3 web",
        "drover kill -s SIGHUP web",
        "drover rm -f web db",
        "drover run -v data:/srv -v conf:/etc/x:ro --tmpfs /cache --tmpfs /tmp:size=64m,mode=1777 image",
        "drover volume create data --node n1 --driver local",
        "drover volume create data --driver nfs --source server:/data -o vers=4.2 -o hard --lost stop",
        "drover volume ls",
        "drover volume inspect data",
        "drover volume rm data --node n1",
        "drover volume prune",
        "drover migrate web --to n2",
        "drover migrate web --to n2 --mode stop-and-copy --detach",
        "drover migrate --cancel 0a1b",
        "drover migrate --resolve target 0a1b --yes",
        "drover migrate web --resolve source",
        "drover migrate web --to n2 --priority high",
        "drover node ls",
        "drover node drain n1",
        "drover node drain n1 --to n2,n3 --parallel 2 --mode post-copy --priority low --detach --json",
        "drover node undrain n1",
        "drover migrations",
        "drover migrations 0a1b",
        "drover pong web --nodes n1,n2 --count 3 --dwell 500ms",
        "drover pong web --nodes n1,n2,n3 --random --seed 7",
        "drover cluster init --dir d --name n1 --address 192.0.2.11 --cluster home --admin alice --certificate-days 7",
        "drover cluster show --json",
        "drover node token --ttl 1h --name n3",
        "drover node join --token - --name n3 --address 192.0.2.13:7780 --dir d --pool 10.0.3.0/24 --prefix 16",
        "drover node remove n3",
        "drover node renew n3",
        "drover user add bob --role owner --output bob.json",
        "drover user role bob operator",
        "drover user revoke bob",
        "drover user renew",
        "drover audit --node n1 --tail 5 --json",
        "drover volume create data --node n1 --owner alice",
        "drover completions bash",
        "drover man out",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn usage_errors_have_status_two() {
    for line in [
        "drover",
        "drover migrate web",
        "drover migrate --cancel 0a --to n2",
        "drover migrate --resolve source --cancel 0a",
        "drover migrate web --resolve source --to n2",
        "drover migrate web --to n2 --yes",
        "drover migrate web --to n2 --mode teleport",
        "drover migrate web --to n2 --priority 7",
        "drover migrate --cancel 0a --priority high",
        "drover node",
        "drover node drain",
        "drover node drain n1 --parallel 0",
        "drover run",
        "drover run --memory 1.5g image",
        "drover run --name a/b image",
        "drover kill -s NOPE web",
        "drover pong web --nodes n1,n2 --seed 3",
        "drover pong web --nodes n1,n2 --dwell 3",
        "drover pong web --nodes n1,n2 --count 0",
        "drover run --restart on-failure:0 image",
        "drover run --tmpfs cache image",
        "drover volume create a/b",
        "drover volume create a --driver ftp",
        "drover volume create a --lost never",
        "drover lab exec n1",
        "drover lab up --nodes 0",
        "drover rm",
        "drover cluster init --dir d --name n1 --address 0.0.0.0",
        "drover user add bob --role root",
        "drover node join --name n3 --address 192.0.2.13",
        "drover exec web",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    assert_eq!(parse("drover --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
}

#[test]
fn what_follows_the_image_belongs_to_the_program() {
    let Command::Run(args) = parse("drover run -d image ls --json -d").unwrap().command else { panic!() };
    assert!(format!("{args:?}").contains(r#"command: ["ls", "--json", "-d"]"#), "{args:?}");
}
