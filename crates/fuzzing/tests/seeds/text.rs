//! Seeds that people could read, or nearly.

use drover_api::{SessionInput, SessionOutput, stream};
use drover_model::Digest;
use drover_protocol::{ToSource, ToTarget, encode};
use drover_registry::{Blob, Manifest};
use serde_json::{Value, json};

use super::Seeds;

fn digest(byte: u8) -> Digest {
    Digest::from_sha256([byte; 32])
}

fn spec() -> Value {
    json!({
        "id": "2d0f6ab81c9e", "name": "web", "image": "redis", "image_digest": digest(7),
        "process": { "args": ["redis-server"], "env": ["A=b"], "cwd": "/", "uid": 999, "gid": 999, "terminal": false,
                     "stdin_open": true },
        "limits": { "memory": 536_870_912, "cpu_millis": 500, "pids": null },
        "interface": { "mac": "02:1d:70:00:00:32", "addresses": ["10.77.1.147/16"], "gateways": ["10.77.0.1"] },
        "hostname": "web", "restart": "on-failure:3", "created_at": "2026-01-01T00:00:00Z",
        "volumes": [{ "destination": "/data", "read_only": false, "kind": "local", "volume": "data" },
                    { "destination": "/cache", "read_only": true, "kind": "tmpfs", "size": 4096, "mode": 511 }],
    })
}

pub fn messages() -> Seeds {
    let node = || "n1".parse().unwrap();
    let offer = json!({
        "type": "offer", "migration": "00aa", "spec": spec(), "generation": 3, "restarts": 0, "started_at": null,
        "image": { "config": "{}", "layers": [4096], "references": [format!("h.example/a@{}", digest(3))] },
        "settings": { "mode": "auto", "downtime_ms": 300 }, "criu": "4.2", "kernel": "6.18", "architecture": "x86_64",
        "memory": 1_048_576, "upper": 4096,
        "shared": [{ "volume": "s", "mark": { "written": { "content": "x" } } }],
    });
    let resume = json!({ "type": "resume", "migration": "00aa", "verdict": "commit" });
    let wanted = json!({ "type": "need_image", "layers": [{ "diff_id": digest(1), "offset": 7 }] });
    let text = |value: &Value| serde_json::to_vec(value).unwrap();
    vec![
        ("hello", encode(&ToTarget::Hello { versions: (5, 5), node: node() })),
        ("offer", text(&offer)),
        ("resume", text(&resume)),
        ("welcome", encode(&ToSource::Welcome { version: 5, node: node() })),
        ("need_image", text(&wanted)),
        ("failed", text(&json!({ "type": "failed", "reason": "no room", "hint": "make some" }))),
    ]
}

pub fn sessions() -> Seeds {
    let input = [SessionInput::Stdin(b"ls\n".to_vec()), SessionInput::Resize { rows: 40, columns: 120 }];
    let output = [SessionOutput::Output(drover_api::LogStream::Stdout, b"a\n".to_vec()), SessionOutput::Exited(3)];
    let broken = [SessionOutput::Failed("the agent went away".into())];
    let frames = |messages: &[SessionOutput]| messages.iter().flat_map(|m| stream::encode(m).unwrap()).collect();
    vec![
        ("input", input.iter().flat_map(|message| stream::encode(message).unwrap()).collect()),
        ("output", frames(&output)),
        ("broken", frames(&broken)),
    ]
}

pub fn bodies() -> Seeds {
    let run = json!({
        "name": "web", "image": "redis", "args": ["sh"], "env": ["A=b"], "user": "1:2", "addresses": ["10.0.0.2/8"],
        "mac": "02:1d:70:00:00:32", "limits": { "memory": 1 }, "restart": "always", "terminal": true,
        "volumes": [{ "volume": "data", "destination": "/data", "read_only": true }],
        "tmpfs": [{ "destination": "/tmp", "size": 65_536, "mode": 1023 }],
    });
    let migrate = json!({ "container": "web", "to": "n2", "settings": { "stop_rule": "budget", "bandwidth": 100 } });
    let text = |value: &Value| serde_json::to_vec(value).unwrap();
    let line = |text: &str| text.as_bytes().to_vec();
    let migrate = if serde_json::from_value::<drover_api::MigrateRequest>(migrate.clone()).is_ok() {
        text(&migrate)
    } else {
        text(&json!({ "container": "web", "to": "n2" }))
    };
    vec![
        ("run", text(&run)),
        ("migrate", migrate),
        ("spec", text(&spec())),
        ("log", text(&json!({ "time_ns": 1, "stream": "stdout", "text": "a\n" }))),
        ("bytes", line("512m")),
        ("bandwidth", line("100mbit")),
        ("volume", line("data:/srv/data:ro")),
        ("tmpfs", line("/cache:size=16m,mode=700")),
        ("reference", line("r.example:5000/a/b:1")),
        ("policy", line("on-failure:3")),
    ]
}

pub fn manifests() -> Seeds {
    let blob = |byte: u8| Blob { digest: digest(byte), size: byte.into() };
    let manifest = Manifest { config: blob(1), layers: vec![blob(2), blob(3)] };
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let index = json!({ "manifests": [{ "digest": digest(4), "size": 9, "platform": platform }] });
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [digest(5), digest(6)] },
        "config": { "Entrypoint": null, "Cmd": ["/bin/web"], "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/d": {} },
                    "Env": ["A=b"], "WorkingDir": "/", "User": "1", "StopSignal": "SIGQUIT" },
        "history": [{ "created_by": "RUN make", "created": "2026-01-01T00:00:00Z", "empty_layer": true }],
    });
    let challenge = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull""#;
    vec![
        ("manifest", manifest.to_json()),
        ("index", serde_json::to_vec(&index).unwrap()),
        ("config", serde_json::to_vec(&config).unwrap()),
        ("challenge", challenge.as_bytes().to_vec()),
        ("reference", b"localhost:5000/a/b:latest".to_vec()),
    ]
}

/// A field of a protobuf message: a number, or bytes.
fn field(number: u64, value: Result<u64, &[u8]>) -> Vec<u8> {
    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
    match value {
        Ok(value) => [varint(number << 3), varint(value)].concat(),
        Err(bytes) => [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat(),
    }
}

pub fn images() -> Seeds {
    const INTERRUPTED: u64 = -4_i64 as u64;
    // `core-x86.proto`: r10, ax, dx, si, di, orig_ax, ip of a thread in `poll`, and of one that is about to sleep on.
    let registers = |ax: u64, call: u64| {
        let all = [(8, 0), (11, ax), (13, 0), (14, 0), (15, 9), (16, call), (17, 0x40_1000)];
        all.into_iter().flat_map(|(number, value)| field(number, Ok(value))).collect::<Vec<u8>>()
    };
    let image = |first: u8, ax: u64, call: u64| {
        let thread = [field(1, Ok(5)), field(2, Err(&registers(ax, call)))].concat();
        let core = [field(1, Ok(1)), field(2, Err(&thread))].concat();
        let head =
            [&[first][..], &[0x56, 0x54, 0x43, 0x19, 0x25, 0x40, 0x08, 0x56], &(core.len() as u32).to_le_bytes()];
        [&head.concat()[..], &core].concat()
    };
    let notes = json!({
        "externals": [{ "mountpoint": "/proc/kcore", "source": { "dev": "null" } },
                      { "mountpoint": "/dev/shm", "source": "shm" }, { "mountpoint": "/data", "source": { "volume": 0 } }],
        "stdio": [null, "pipe:[77]", "pipe:[78]"], "unread_stdin": [1, 2],
        "neighbours": [{ "address": "10.0.0.1", "mac": "02:1d:70:00:00:32" }],
    });
    vec![
        ("poll", image(1, INTERRUPTED, 7)),
        ("restart", image(35, 219, 219)),
        ("message", field(2, Err(&field(1, Ok(5))))),
        ("notes", serde_json::to_vec(&notes).unwrap()),
    ]
}

pub fn lists() -> Seeds {
    let inside = "100 50 0:30 / / rw,relatime - overlay overlay rw\n102 100 0:40 /null /dev/null rw - tmpfs t rw\n\
                  103 100 8:1 /v /data ro - ext4 /dev/sda1 rw\n";
    let outside = "61 20 8:1 /v /run/volumes/1 rw,nodev - ext4 /dev/sda1 rw\n";
    let maps = "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \nSize: 4 kB\nVmFlags: rd wr wf um \n\
                7f0002000000-7f0002001000 rw-s 00000000 00:01 9                          /dev/zero (deleted)\n";
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                  Max cpu time              unlimited            8388608              seconds   \n";
    let mut arp = [&[0xff; 6][..], &[2; 6], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[2; 6], &[10, 0, 0, 1]].concat();
    arp.resize(42, 0);
    let mut advertisement = vec![0; 86];
    advertisement[12..14].copy_from_slice(&[0x86, 0xdd]);
    (advertisement[20], advertisement[54]) = (58, 136);
    vec![
        ("mountinfo", format!("{inside}\u{1}{outside}").into_bytes()),
        ("maps", maps.as_bytes().to_vec()),
        ("limits", limits.as_bytes().to_vec()),
        ("calls", b"230 0x0 0x0 0x7ff 0x401\n\x01230 0x0 0x0 0x7ff 0x401\n".to_vec()),
        ("conntrack", b"entries  clashres\n00000000  00000000\n".to_vec()),
        ("arp", arp),
        ("advertisement", advertisement),
    ]
}

pub fn groups() -> Seeds {
    let mounts = "35 31 0:32 / /cg\\040v1/memory rw - cgroup cgroup rw,memory\n\
                  41 31 0:38 /a /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
    let parts = [
        mounts,
        "4:memory:/machine\n0::/a/b\n",
        "4096\n",
        "max\n",
        "usage_usec 700\nuser_usec 7\n",
        "3\n",
        "7\n8\n0\n",
        "populated 1\nfrozen 0\n",
    ];
    vec![("both", parts.join("\u{1}").into_bytes())]
}
