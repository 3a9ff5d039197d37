//! Overlays of images: a node that has the base starts an application from the difference alone.

use std::fs;

use serde_json::Value;

use crate::harness::{Lab, image_root};

#[test]
fn a_node_with_the_base_starts_an_application_from_an_overlay_alone() {
    let lab = Lab::up();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.overlay");
    let (path, root) = (file.display(), image_root("toolbox"));
    lab.drover(format!("image import toolbox {}", root.display())).well();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    lab.inside("box", "echo 'echo it works' >/bin/web; chmod +x /bin/web; cp /bin/bash /bin/other; rm /bin/vi");
    lab.drover("commit box shop/web:1").well();
    let made: Value =
        serde_json::from_str(&lab.drover(format!("image overlay toolbox shop/web:1 -o {path} --json")).well()).unwrap();
    assert_eq!(made["bytes"], fs::metadata(&file).unwrap().len(), "{made}");
    assert!(made["bytes"].as_u64().unwrap() < 4 << 10, "{made}");
    assert_eq!((&made["node"], &made["layers"], &made["layers_reused"]), (&"n1".into(), &1.into(), &1.into()));
    assert_eq!((&made["referenced"]["files"], &made["added"]["files"]), (&1.into(), &1.into()), "{made}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    lab.drover(format!("image synthesize toolbox {path} --node n2")).well();
    let image = |node: &str| lab.json(format!("image inspect shop/web:1 --node {node}"));
    let (here, there) = (image("n1"), image("n2"));
    assert_eq!((&here[0]["digest"], &here[0]["layers"]), (&there[0]["digest"], &there[0]["layers"]));
    lab.drover("run --node n2 --name web -d shop/web:1 sleep 1000").well();
    assert_eq!(lab.inside("web", "/bin/web; cmp /bin/bash /bin/other; ls /bin/vi 2>/dev/null; true"), "it works\n");

    // It is for that base, and whole, or it is nothing.
    let refusal = lab.drover(format!("image synthesize shop/web:1 {path} --node n2")).hinted_refusal();
    for digest in [&made["base"], &made["image"]] {
        assert!(refusal.contains(digest.as_str().unwrap()), "{refusal}");
    }
    let overlay = fs::read(&file).unwrap();
    fs::write(&file, &overlay[..overlay.len() - 9]).unwrap();
    let refusal = lab.drover(format!("image synthesize toolbox {path} --node n2 --name broken")).refusal();
    assert!(refusal.contains("damaged or cut off"), "{refusal}");
    assert!(!lab.drover("image ls --node n2").well().contains("broken"));
}

#[test]
fn an_overlay_goes_to_standard_output_too_and_one_of_nothing_leaves_no_file() {
    let lab = Lab::with_toolbox();
    let directory = tempfile::tempdir().unwrap();
    let overlay = lab.command("image overlay toolbox toolbox --node n1 -o -").output().unwrap();
    assert!(overlay.status.success() && overlay.stdout.starts_with(b"DRVOVERL"), "{overlay:?}");
    let path = directory.path().join("none");
    let refusal = lab.drover(format!("image overlay toolbox nothing -o {}", path.display())).refusal();
    assert!(refusal.contains("nothing"), "{refusal}");
    let refusal = lab.drover("image overlay toolbox toolbox -o /not/there/file").refusal();
    assert!(refusal.contains("/not/there/file"), "{refusal}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
