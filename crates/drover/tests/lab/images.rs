//! Images: what crosses of them, what containers take from them, and images that are made of containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::harness::{Lab, image_root, until};

fn bytes(report: &serde_json::Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report}"))
}

/// A root with little more than a shell.
fn small_root(root: &Path, config: &serde_json::Value) {
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy(image_root("toolbox").join("usr/bin/busybox"), root.join("bin/busybox")).unwrap();
    for applet in ["sh", "id", "pwd", "sleep", "test", "cat"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n").unwrap();
    fs::write(root.join("drover-image.json"), config.to_string()).unwrap();
}

#[test]
fn the_second_container_of_an_image_moves_without_the_image() {
    let lab = Lab::up();
    let root = image_root("toolbox");
    lab.drover(format!("image import toolbox {} --node n1", root.display())).well();
    for name in ["one", "two"] {
        lab.drover(format!("run --node n1 --name {name} -d toolbox sleep 1000")).well();
    }
    let first = lab.migrate("one", "n2");
    assert!(bytes(&first, "bytes_image") > 1 << 20, "{first}");
    assert!(bytes(&first, "bytes_disk") >= bytes(&first, "bytes_image"), "{first}");
    assert_eq!(lab.json("image ls --node n2")[0]["names"][0], "toolbox");
    let second = lab.migrate("two", "n2");
    assert_eq!(bytes(&second, "bytes_image"), 0, "{second}");
    lab.inside("two", "md5sum /bin/bash");
    // It is the same image, bit for bit, wherever it came from.
    let (n1, n2) = (lab.json("image inspect toolbox --node n1"), lab.json("image inspect toolbox --node n2"));
    assert_eq!((&n1[0]["digest"], &n1[0]["layers"]), (&n2[0]["digest"], &n2[0]["layers"]));
    // And it can be handed on.
    lab.drover("rm --force one two").well();
    lab.drover("image rm toolbox --node n1").well();
    lab.drover("run --node n2 --name three -d toolbox sleep 1000").well();
    assert!(bytes(&lab.migrate("three", "n1"), "bytes_image") > 1 << 20);
    lab.inside("three", "md5sum /bin/bash");
}

#[test]
fn an_image_that_arrives_takes_no_name_from_another_one() {
    let lab = Lab::up();
    let other = tempfile::tempdir().unwrap();
    small_root(other.path(), &json!({ "Cmd": ["sleep", "1000"] }));
    lab.drover(format!("image import toolbox {} --node n1", image_root("toolbox").display())).well();
    lab.drover(format!("image import toolbox {} --node n2", other.path().display())).well();
    let digest = |node: &str| lab.json(format!("image inspect toolbox --node {node}"))[0]["digest"].clone();
    let (first, second) = (digest("n1"), digest("n2"));
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    lab.migrate("box", "n2");
    lab.inside("box", "md5sum /bin/bash");
    assert_eq!(digest("n2"), second);
    // It goes on to be known by its digest.
    assert_eq!(lab.json("inspect box")["spec"]["image_digest"], first);
    let images = lab.json("image ls --node n2");
    let arrived = images.as_array().unwrap().iter().find(|image| image["digest"] == first);
    assert_eq!(arrived.unwrap_or_else(|| panic!("{images}"))["names"], json!([]));
}

#[test]
fn an_image_goes_on_crossing_where_an_earlier_move_broke_off() {
    let lab = Lab::up();
    let root = image_root("toolbox");
    lab.drover(format!("image import toolbox {} --node n1", root.display())).well();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    lab.drover("lab link 100mbit").well();
    let began = lab.drover("migrate box --to n2 --compress none --detach --json").well();
    let began: serde_json::Value = serde_json::from_str(&began).unwrap();
    let id = began["id"].as_str().unwrap();
    // Some megabytes of what was sent may be on the way yet.
    until("some of the image", || {
        (bytes(&lab.json(format!("migrations {id}")), "bytes_sent") > 16 << 20).then_some(())
    });
    lab.drover(format!("migrate --cancel {id}")).well();
    let first = lab.await_report(id);
    assert_eq!(first["outcome"], "rolled_back", "{first}");
    lab.drover("lab link none").well();
    let detail = lab.json("image inspect toolbox --node n1");
    let whole = bytes(&detail[0]["layers"][0], "tar_size");
    let report = lab.drover("migrate box --to n2 --compress none --json").well();
    let second: serde_json::Value = serde_json::from_str(&report).unwrap();
    let (broken, rest) = (bytes(&first, "bytes_image"), bytes(&second, "bytes_image"));
    assert!(broken > 1 << 20 && rest < whole - (1 << 20), "{broken} and {rest} of {whole}");
    lab.inside("box", "md5sum /bin/bash");
    assert_eq!(lab.drover("image prune --node n2 --json").well().matches("\"partial\": 0").count(), 1);
}

#[test]
fn a_container_is_as_its_image_says() {
    let lab = Lab::up();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let config = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["trap 'echo asked; exit 7' USR1; id -u; pwd; echo $COLOUR; while :; do sleep 0.05; done"],
        "Env": ["COLOUR=green"], "WorkingDir": "/srv/not/there", "User": "web",
        "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/data": {} }, "StopSignal": "SIGUSR1",
    });
    small_root(&root, &config);
    lab.drover(format!("image import web {}", root.display())).well();
    lab.drover("run --node n1 --name box -d web").well();
    lab.await_log("box", "33\n/srv/not/there\ngreen\n");
    assert_eq!(lab.inspect("box")["spec"]["exposed_ports"], json!(["80/tcp"]));
    assert_eq!(lab.json("image inspect web --node n2")[0]["config"]["volumes"], json!(["/data"]));
    lab.migrate("box", "n2");
    lab.drover("stop box").well();
    assert_eq!(lab.await_exit("box"), 7);
    assert!(lab.logs("box").ends_with("asked\n"));
}

#[test]
fn a_container_becomes_an_image_while_it_runs_and_after_its_end() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    lab.inside("box", "echo 'web:x:33:34::/:/bin/sh' >>/etc/passwd; rm /bin/vi; echo one >/data/file; mkdir /srv");
    lab.drover("commit box shop/web:1").well();
    assert_eq!(lab.inspect("box")["state"], "running");
    lab.inside("box", "echo two >/data/file");
    lab.drover("stop -t 0 box").well();
    lab.drover("commit box shop/web:2").well();
    let history = lab.json("image history shop/web:2 --node n1");
    assert_eq!(history[0]["created_by"], "drover commit box");
    assert_eq!(lab.json("image inspect shop/web:2 --node n1")[0]["layers"].as_array().unwrap().len(), 2);

    // The user is known by the upper of two layers alone.
    lab.drover("run --node n1 --name made -u web -d shop/web:1 sleep 1000").well();
    let look = "id -u; cat /data/file; ls /bin/vi /srv 2>&1; true";
    let before = lab.inside("made", look);
    assert!(before.starts_with("33\none\n"), "{before}");
    // The target has the layer below already.
    let report = lab.migrate("made", "n2");
    assert!(bytes(&report, "bytes_image") < 64 << 10, "{report}");
    assert_eq!(lab.inside("made", look), before);
    let error = lab.drover("commit nobody x").hinted_refusal();
    assert!(error.contains("nobody"), "{error}");
}

#[test]
fn an_image_of_many_layers_travels() {
    let lab = Lab::up();
    let directory = tempfile::tempdir().unwrap();
    let (root, saved) = (directory.path().join("root"), directory.path().join("saved.tar"));
    small_root(&root, &json!({}));
    let mut bottom = tar::Builder::new(Vec::new());
    bottom.follow_symlinks(false);
    bottom.append_dir_all(".", &root).unwrap();
    let mut layers = vec![bottom.into_inner().unwrap()];
    let file = |archive: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        archive.append_data(&mut header, path, data).unwrap();
    };
    for number in 1..100 {
        let mut layer = tar::Builder::new(Vec::new());
        file(&mut layer, &format!("layer{number}"), b"x");
        file(&mut layer, "last", number.to_string().as_bytes());
        layers.push(layer.into_inner().unwrap());
    }
    let mut archive = tar::Builder::new(Vec::new());
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer, directory.path()))).collect();
    let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sleep", "1000"] },
                         "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    file(&mut archive, "config.json", config.to_string().as_bytes());
    let names: Vec<_> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    names.iter().zip(&layers).for_each(|(name, layer)| file(&mut archive, name, layer));
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["deep:1"], "Layers": names }]);
    file(&mut archive, "manifest.json", manifest.to_string().as_bytes());
    fs::write(&saved, archive.into_inner().unwrap()).unwrap();

    lab.drover(format!("image import deep {} --node n1", saved.display())).well();
    lab.drover("run --node n1 --name box -d deep").well();
    let look = "set -- /layer*; echo $#; cat /last";
    assert_eq!(lab.inside("box", look), "99\n99");
    lab.inside("box", "echo mine >/last");
    for target in ["n2", "n1"] {
        lab.migrate("box", target);
        assert_eq!(lab.inside("box", look), "99\nmine\n");
    }
}

#[test]
fn an_image_comes_from_a_registry_and_else_from_the_source() {
    const NAME: &str = "10.77.0.60:5000/shop/box:1";
    let lab = Lab::of_nodes(3);
    let (registry, toolbox) = (image_root("registry"), image_root("toolbox"));
    lab.drover(format!("image import registry {} --node n3", registry.display())).well();
    lab.drover("run --node n3 --name registry --ip 10.77.0.60 -d registry").well();
    lab.drover(format!("image import toolbox {} --node n1", toolbox.display())).well();
    let refused = lab.drover(format!("image push toolbox {NAME} --node n1")).hinted_refusal();
    assert!(refused.contains("TLS"), "without TLS nobody is spoken with who is not named: {refused}");
    for node in ["n1", "n2"] {
        let config = "printf '\n[registry]\ninsecure = [\"10.77.0.60:5000\"]\n' >>/etc/drover/agent.toml";
        lab.on(node, config).well();
        lab.restart_agent(node);
    }
    until("a registry that takes the image", || {
        (lab.drover(format!("image push toolbox {NAME} --node n1")).status == 0).then_some(())
    });
    let digest = || lab.json(format!("image inspect {NAME} --node n1"))[0]["digest"].clone();
    let before = lab.json("image inspect toolbox --node n1")[0]["digest"].clone();
    lab.drover("image rm toolbox --node n1").well();
    lab.drover(format!("image pull {NAME} --node n1")).well();
    assert_eq!(digest(), before, "it is the same, bit for bit");
    let unknown = lab.drover("image pull 10.77.0.60:5000/shop/nothing --node n1").hinted_refusal();
    assert!(unknown.contains("shop/nothing"), "{unknown}");

    lab.drover(format!("run --node n1 --name box -d {NAME} sleep 1000")).well();
    let report = lab.migrate("box", "n2");
    assert_eq!(bytes(&report, "bytes_image"), 0, "the registry has it: {report}");
    lab.inside("box", "md5sum /bin/bash");

    lab.drover("rm --force box registry").well();
    lab.drover(format!("image rm {NAME} --node n2")).well();
    lab.drover(format!("run --node n1 --name box -d {NAME} sleep 1000")).well();
    let report = lab.migrate("box", "n2");
    assert!(bytes(&report, "bytes_image") > 1 << 20, "the registry is gone: {report}");
    lab.inside("box", "md5sum /bin/bash");
}

/// The digest of some bytes, by the program that everybody has.
fn sha256(bytes: &[u8], directory: &Path) -> String {
    let file = directory.join("layer");
    fs::write(&file, bytes).unwrap();
    let output = std::process::Command::new("sha256sum").arg(&file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}
