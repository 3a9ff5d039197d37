//! Two hosts and a client on one switch, all of them network namespaces: what passes a gate, what an announcement does,
//! and what is left afterwards. Needs root and the `ip` and `bridge` programs; passes vacuously without root.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use drover_model::Interface;
use drover_network::{Gate, Wire, remove};
use drover_sys::namespace::{create_network, in_network, remove_network};
use drover_sys::packet::PacketSocket;

const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must be heard.
const SILENCE: Duration = Duration::from_millis(300);

/// Hosts `n1`, `n2` and `client`, each with the uplink `up0`, on the bridge `br0` in the namespace `switch`.
struct Lab {
    directory: PathBuf,
}

impl Lab {
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let name = format!("drover-network-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { directory: std::env::temp_dir().join(name) };
        std::fs::create_dir(&lab.directory).unwrap();
        for host in ["switch", "n1", "n2", "client"] {
            create_network(&lab.path(host)).unwrap();
            lab.run(host, "ip link set lo up");
        }
        lab.run("switch", "ip link add br0 type bridge");
        lab.run("switch", "ip link set br0 address 02:00:00:00:00:01 up");
        for host in ["n1", "n2", "client"] {
            lab.run("switch", &format!("ip link add {host} type veth peer name up0"));
            lab.give_to(host);
            lab.run("switch", &format!("ip link set {host} master br0 up"));
            lab.run(host, "ip link set up0 up");
        }
        lab.run("client", "ip addr add 10.77.0.9/24 dev up0");
        lab.run("client", "ip addr add fd77::9/64 dev up0 nodad");
        Some(lab)
    }

    /// Moves `up0` from the switch to a host, by the process id of a program that runs there meanwhile.
    fn give_to(&self, host: &str) {
        let mut holder = in_network(&self.path(host), || Command::new("sleep").arg("60").spawn().unwrap()).unwrap();
        self.run("switch", &format!("ip link set up0 netns {}", holder.id()));
        holder.kill().unwrap();
        holder.wait().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn run(&self, host: &str, command: &str) -> String {
        in_network(&self.path(host), || run(command)).unwrap()
    }

    fn wire(&self, host: &str, name: &str, interface: &Interface, gate: Gate) -> Wire {
        let start = Instant::now();
        let path = self.path(name);
        let wire = in_network(&self.path(host), || Wire::create(&path, "up0", Some(interface), gate)).unwrap().unwrap();
        println!("wire made in {:?}", start.elapsed());
        wire
    }

    /// The switch's port behind which it believes a MAC to be.
    fn port_of(&self, interface: &Interface) -> Option<String> {
        let table = self.run("switch", "bridge fdb show br br0");
        let mac = interface.mac.to_string();
        let line = table.lines().find(|line| line.starts_with(&mac))?.to_owned();
        Some(line.split_whitespace().nth(2).unwrap().to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["c1", "c2"] {
            let _ = remove(&self.path(name));
        }
        for host in ["client", "n1", "n2", "switch"] {
            let _ = remove_network(&self.path(host));
        }
        std::fs::remove_dir(&self.directory).unwrap();
    }
}

fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn interface() -> Interface {
    Interface {
        mac: "02:1d:70:00:00:32".parse().unwrap(),
        addresses: vec!["10.77.0.50/24".parse().unwrap(), "fd77::50/64".parse().unwrap()],
        gateways: vec!["10.77.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
    }
}

fn listen(netns: &Path, address: &str) -> TcpListener {
    in_network(netns, || TcpListener::bind(address)).unwrap().unwrap()
}

fn connect(lab: &Lab, address: &str, timeout: Duration) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    in_network(&lab.path("client"), || TcpStream::connect_timeout(&address, timeout)).unwrap()
}

/// Frames from the container that the client hears until nothing came for [`SILENCE`].
fn heard(socket: &PacketSocket, interface: &Interface) -> usize {
    let mut frame = [0; 128];
    let mut count = 0;
    let end = Instant::now() + SILENCE;
    while Instant::now() < end {
        match socket.receive(&mut frame, SILENCE) {
            Ok(length) if length >= 14 && frame[6..12] == interface.mac.0 => count += 1,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    count
}

fn ear(lab: &Lab) -> PacketSocket {
    in_network(&lab.path("client"), || {
        let link = run("ip -o link show up0");
        PacketSocket::listening(link.split(':').next().unwrap().parse().unwrap()).unwrap()
    })
    .unwrap()
}

#[test]
fn an_address_that_somebody_has_is_found_out() {
    let Some(lab) = Lab::new() else { return };
    let interface = Interface {
        mac: "02:1d:70:00:00:44".parse().unwrap(),
        addresses: vec!["10.77.0.50/24".parse().unwrap(), "fd77::50/64".parse().unwrap()],
        gateways: vec![],
    };
    let wire = lab.wire("n2", "c1", &interface, Gate::Open);
    lab.run("n1", "ip addr add 10.77.0.1/24 dev up0");
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<std::net::IpAddr>>();
    let asked = addresses(&["10.77.0.1", "10.77.0.9", "10.77.0.50", "10.77.0.51", "fd77::9", "fd77::50", "fd77::51"]);
    let taken = || in_network(&lab.path("n1"), || drover_network::taken("up0", &asked)).unwrap().unwrap();
    let mut found = taken();
    found.sort();
    assert_eq!(found, addresses(&["10.77.0.1", "10.77.0.9", "10.77.0.50", "fd77::9", "fd77::50"]));
    wire.set_gate(Gate::Closed).unwrap();
    assert!(!taken().contains(&asked[2]), "whoever stands behind a closed gate is silent");
    let missing = in_network(&lab.path("n1"), || drover_network::taken("nolink0", &asked)).unwrap();
    assert_eq!(missing.unwrap_err().to_string(), "cannot find the uplink nolink0 on this node");
}

#[test]
fn a_connection_outlives_a_closed_gate_and_its_peer_hears_nothing() {
    let Some(lab) = Lab::new() else { return };
    let interface = interface();
    let wire = lab.wire("n1", "c1", &interface, Gate::Open);
    for (bind, to) in [("10.77.0.50:80", "10.77.0.50:80"), ("[fd77::50]:80", "[fd77::50]:80")] {
        let listener = listen(wire.netns(), bind);
        let mut client = connect(&lab, to, PATIENCE).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"before").unwrap();
        let mut text = [0; 6];
        server.read_exact(&mut text).unwrap();

        wire.set_gate(Gate::Closed).unwrap();
        let ear = ear(&lab);
        client.write_all(b"during").unwrap();
        server.write_all(b"answer").unwrap();
        // Also one that asks for a port where nobody listens gets no reset, and one that listens does not answer.
        let port = to.replace(":80", ":81");
        assert_eq!(connect(&lab, &port, SILENCE).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(connect(&lab, to, SILENCE).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(heard(&ear, &interface), 0);
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.read(&mut text).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing came in either");
        server.set_nonblocking(false).unwrap();

        wire.set_gate(Gate::Open).unwrap();
        server.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"during");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"answer");
        assert_eq!(connect(&lab, &port, PATIENCE).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn loopback_goes_on_behind_a_closed_gate() {
    let Some(lab) = Lab::new() else { return };
    let wire = lab.wire("n1", "c1", &interface(), Gate::Closed);
    for address in ["127.0.0.1:80", "[::1]:80", "10.77.0.50:80"] {
        let listener = listen(wire.netns(), address);
        in_network(wire.netns(), || TcpStream::connect_timeout(&address.parse().unwrap(), PATIENCE)).unwrap().unwrap();
        listener.accept().unwrap();
    }
}

#[test]
fn an_announcement_moves_the_mac_to_the_new_host_at_once() {
    let Some(lab) = Lab::new() else { return };
    let interface = interface();
    let source = lab.wire("n1", "c1", &interface, Gate::Open);
    source.announce(&interface).unwrap();
    assert_eq!(lab.port_of(&interface).as_deref(), Some("n1"));
    let target = lab.wire("n2", "c2", &interface, Gate::Closed);
    assert_eq!(lab.port_of(&interface).as_deref(), Some("n1"), "a closed gate is silent from the start");

    source.set_gate(Gate::Closed).unwrap();
    let ear = ear(&lab);
    target.set_gate(Gate::Open).unwrap();
    let start = Instant::now();
    target.announce(&interface).unwrap();
    println!("announced in {:?}", start.elapsed());
    assert_eq!(lab.port_of(&interface).as_deref(), Some("n2"));
    assert!(heard(&ear, &interface) >= 6, "two forms of ARP and one advertisement, twice");
    let neighbours = lab.run("client", "ip neigh show dev up0");
    println!("{neighbours}");

    let _listener = listen(target.netns(), "10.77.0.50:80");
    connect(&lab, "10.77.0.50:80", PATIENCE).unwrap();
}

#[test]
fn the_link_is_as_the_interface_says() {
    let Some(lab) = Lab::new() else { return };
    lab.run("n1", "ip link set up0 mtu 1400");
    let wire = lab.wire("n1", "c1", &interface(), Gate::Open);
    let show = |command: &str| in_network(wire.netns(), || run(command)).unwrap();
    let link = show("ip -d link show eth0");
    for part in ["mtu 1400", "02:1d:70:00:00:32", "macvlan mode bridge", "UP"] {
        assert!(link.contains(part), "{part} in {link}");
    }
    let addresses = show("ip addr show eth0");
    assert!(addresses.contains("10.77.0.50/24") && addresses.contains("fd77::50/64"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
    assert!(show("ip route").contains("default via 10.77.0.1 dev eth0"));
    assert!(show("ip -6 route").contains("default via fe80::1 dev eth0"));
    let settings = show("sysctl -n net.ipv6.conf.eth0.accept_dad net.ipv4.ip_unprivileged_port_start");
    assert_eq!(settings, "0\n0\n");
    assert!(show("ip link show lo").contains("LOOPBACK,UP"));
}

#[test]
fn a_creation_that_fails_leaves_nothing_and_a_removal_may_be_repeated() {
    let Some(lab) = Lab::new() else { return };
    let path = lab.path("c1");
    let failing = |uplink: &str, interface: &Interface| {
        in_network(&lab.path("n1"), || Wire::create(&path, uplink, Some(interface), Gate::Open)).unwrap().unwrap_err()
    };
    assert_eq!(failing("none0", &interface()).to_string(), "cannot find the uplink none0 on this node");
    assert!(!path.exists());
    let mut impossible = interface();
    impossible.gateways.push("10.77.0.2".parse().unwrap());
    println!("{:?}", failing("up0", &impossible));
    assert!(!path.exists());

    // The MAC is free again at once, also while a socket keeps the namespace.
    let wire = lab.wire("n1", "c1", &interface(), Gate::Open);
    let _socket = listen(wire.netns(), "10.77.0.50:80");
    remove(&path).unwrap();
    remove(&path).unwrap();
    assert!(!path.exists());
    Wire::open(&path).unwrap_err();
    lab.wire("n1", "c1", &interface(), Gate::Open);
    in_network(&lab.path("n1"), || Wire::create(&path, "up0", None, Gate::Open)).unwrap().unwrap_err();
    assert!(path.exists(), "what was there before is not touched by a creation that fails");
    // A plain file is what a creation leaves that was killed half-way.
    std::fs::write(lab.path("c2"), "").unwrap();
    remove(&lab.path("c2")).unwrap();
    assert!(!lab.path("c2").exists());
}

#[test]
fn without_an_interface_there_is_only_loopback() {
    let Some(lab) = Lab::new() else { return };
    let wire =
        in_network(&lab.path("n1"), || Wire::create(&lab.path("c1"), "up0", None, Gate::Closed)).unwrap().unwrap();
    wire.set_gate(Gate::Open).unwrap();
    wire.announce(&interface()).unwrap();
    let links = in_network(wire.netns(), || run("ip -o link")).unwrap();
    assert_eq!(links.lines().count(), 1, "{links}");
}

#[test]
fn the_gate_is_fast() {
    let Some(lab) = Lab::new() else { return };
    let wire = lab.wire("n1", "c1", &interface(), Gate::Open);
    let mut times: Vec<Duration> = (0..200)
        .map(|round| {
            let start = Instant::now();
            wire.set_gate(if round % 2 == 0 { Gate::Closed } else { Gate::Open }).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("gate: median {:?}, 99th of 100 {:?}, longest {:?}", times[100], times[198], times[199]);
    let start = Instant::now();
    let again = Wire::open(wire.netns()).unwrap();
    println!("reached again in {:?}", start.elapsed());
    again.set_gate(Gate::Closed).unwrap();
    let start = Instant::now();
    drop(again);
    println!("dropped in {:?}", start.elapsed());
    assert!(times[100] < Duration::from_millis(20), "{:?}", times[100]);
    in_network(wire.netns(), || run("nft delete table netdev drover_gate")).unwrap();
    wire.set_gate(Gate::Closed).unwrap();
    let rules = in_network(wire.netns(), || run("nft list ruleset")).unwrap();
    assert_eq!(rules.matches("policy drop").count(), 2, "{rules}");
}
