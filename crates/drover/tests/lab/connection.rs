//! A client's connection and the server's data outlive moves.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::{Lab, Running, until, witness};

/// The address of the container that is watched.
const ADDRESS: &str = "10.77.0.50";

/// `drover-check redis` on the client: it uses the server all the time, and checks every answer.
pub struct Witness<'a> {
    lab: &'a Lab,
    check: Running,
}

impl<'a> Witness<'a> {
    /// Runs redis as `web` on n1, loads it, and begins to use it.
    pub fn of_redis(lab: &'a Lab, load_mib: u64) -> Self {
        Self::of_redis_at(lab, load_mib, ADDRESS)
    }

    fn of_redis_at(lab: &'a Lab, load_mib: u64, address: &str) -> Self {
        witness();
        lab.import("redis");
        lab.drover(format!("run --node n1 --name web --ip {address} -d redis")).well();
        let address = address.split('/').next().unwrap();
        let address = SocketAddr::new(address.parse().unwrap(), 6379);
        lab.await_log("web", "Ready to accept connections");
        let files = "--ready-file /run/ready --stop-file /run/stop";
        let check = format!("/opt/drover/drover-check redis --address {address} --load-mib {load_mib} {files} --json");
        let mut check = lab.start(format!("lab exec client -- {check}"));
        until("a loaded server", || {
            assert!(check.runs(), "the witness ended early");
            (lab.on("client", "test -e /run/ready").status == 0).then_some(())
        });
        Self { lab, check }
    }

    /// Ends the use; nothing must have been lost or wrong.
    #[track_caller]
    pub fn content(self) -> Value {
        self.lab.on("client", "touch /run/stop").well();
        let ended = self.check.end();
        let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
        assert_eq!(report["connection_survived"], true, "{report}");
        assert_eq!(report["data_intact"], true, "{report}");
        assert_eq!(ended.status, 0, "{report}");
        report
    }
}

#[test]
fn a_client_over_ipv6_stays_connected() {
    let lab = Lab::up();
    let witness = Witness::of_redis_at(&lab, 4, "fd77::50/64");
    for target in ["n2", "n1"] {
        lab.migrate("web", target);
    }
    witness.content();
}

#[test]
fn a_redis_client_stays_connected_over_four_moves() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 16);
    for target in ["n2", "n1", "n2", "n1"] {
        let report = lab.migrate("web", target);
        assert!(report["bytes_memory"].as_u64().unwrap() > 16 << 20, "{report}");
    }
    let report = witness.content();
    assert!(report["ops"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(lab.inspect("web")["generation"], 4);
}
