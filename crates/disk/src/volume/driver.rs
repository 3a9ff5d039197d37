//! The drivers of shared volumes: what is run to mount one. Pure.

use std::path::Path;

use drover_model::{Driver, VolumeSpec};

/// What has to be done to mount a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recipe {
    /// Show a directory of the node.
    Bind(String),
    /// Run this program, which mounts something on the place and ends, or stays for as long as it is mounted.
    Run(Vec<String>),
}

/// What sshfs must be told beside what the user says: containers have users of their own, nobody is there to answer
/// questions, and a server that has gone must be noticed.
const SSHFS: &str =
    "allow_other,default_permissions,BatchMode=yes,ConnectTimeout=10,ServerAliveInterval=5,ServerAliveCountMax=2";

/// What mounts a volume on `place`; none for one that is not shared.
pub(super) fn recipe(spec: &VolumeSpec, place: &Path) -> Option<Recipe> {
    let place = place.display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let options = spec.options.join(",");
    let run = match spec.driver {
        Driver::Local => return None,
        Driver::Bind => return Some(Recipe::Bind(spec.source.clone())),
        Driver::Nfs => {
            let mut command = words(&["mount", "-t", "nfs"]);
            if !options.is_empty() {
                command.extend(["-o".to_owned(), options]);
            }
            command.extend([spec.source.clone(), place]);
            command
        }
        Driver::Sshfs => {
            let options = if options.is_empty() { SSHFS.to_owned() } else { format!("{SSHFS},{options}") };
            let mut command = words(&["sshfs", "-o"]);
            command.extend([options, spec.source.clone(), place]);
            command
        }
        Driver::Fuse => {
            let fill = |word: &str| word.replace("{target}", &place).replace("{name}", spec.name.as_str());
            let fill = |word: &str| fill(word).replace("{options}", &options);
            spec.source.split_whitespace().map(fill).collect()
        }
    };
    Some(Recipe::Run(run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::WhenLost;

    fn of(driver: Driver, source: &str, options: &[&str]) -> Option<String> {
        let spec = VolumeSpec {
            name: "data".parse().unwrap(),
            driver,
            source: source.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            when_lost: WhenLost::Freeze,
            created_at: String::new(),
            owner: None,
        };
        recipe(&spec, Path::new("/run/p")).map(|recipe| match recipe {
            Recipe::Bind(source) => format!("bind {source}"),
            Recipe::Run(command) => command.join(" "),
        })
    }

    #[test]
    fn each_driver_runs_its_program_on_the_place() {
        assert_eq!(of(Driver::Local, "", &[]), None);
        assert_eq!(of(Driver::Bind, "/srv/data", &[]).unwrap(), "bind /srv/data");
        assert_eq!(of(Driver::Nfs, "server:/data", &[]).unwrap(), "mount -t nfs server:/data /run/p");
        assert_eq!(
            of(Driver::Nfs, "s:/d", &["vers=4.2", "hard"]).unwrap(),
            "mount -t nfs -o vers=4.2,hard s:/d /run/p"
        );
        let sshfs = of(Driver::Sshfs, "me@server:/data", &["port=2222"]).unwrap();
        assert!(sshfs.starts_with("sshfs -o allow_other,") && sshfs.ends_with(",port=2222 me@server:/data /run/p"));
        let fuse = of(Driver::Fuse, "bindfs -o {options} /srv/{name} {target}", &["ro"]).unwrap();
        assert_eq!(fuse, "bindfs -o ro /srv/data /run/p");
    }
}
