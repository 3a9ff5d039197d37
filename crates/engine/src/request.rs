//! From a request to a container's specification.

use std::path::Path;
use std::sync::Arc;

use drover_api::RunRequest;
use drover_disk::{Claim, Image, ImageError};
use drover_model::{
    Caller, ContainerId, ContainerSpec, ContainerState, Explained, ImageConfig, ProcessSpec, VolumeName,
};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::container::{Container, Stored};
use crate::error::NodeError;
use crate::node::{Inner, fresh_id, now};

/// The path that programs are looked for in when the image names none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The least share of a processor that can be had, a millisecond in each tenth of a second (`cpu.cfs_quota_us`).
const LEAST_CPU_MILLIS: u32 = 10;
/// The largest request: a specification must fit a message of the protocol.
const LARGEST_SPEC: usize = 256 << 10;

impl Inner {
    pub(crate) fn find_image(&self, name: &str) -> Result<Image, NodeError> {
        self.images.find(name).map_err(|error| match error {
            ImageError::Unknown(_) => {
                let hint = "`drover image ls` lists the images; `drover image import` adds one";
                NodeError::NotFound(Explained::from_chain(&error).with_hint(hint))
            }
            error => NodeError::failed("cannot find the image", &error),
        })
    }

    /// Makes the container's record, and gives the volumes that were made for it; nothing of it runs yet.
    pub(crate) fn create(
        &self,
        request: RunRequest,
        caller: &Caller,
    ) -> Result<(Arc<Container>, Vec<VolumeName>), NodeError> {
        let image = self.find_image(&request.image)?;
        let id: ContainerId =
            fresh_id::<16>().parse().map_err(|error| NodeError::failed("cannot name the container", &error))?;
        let spec = self.specify(request, &image, id, caller)?;
        if serde_json::to_vec(&spec).map_or(usize::MAX, |text| text.len()) > LARGEST_SPEC {
            let reason = format!("cannot make container {}: its description is over 256 KiB", spec.name);
            return Err(NodeError::invalid(reason, "pass large settings in a file instead of the environment"));
        }
        let state = ContainerState::Created;
        let stored = Stored { spec, state, generation: 0, restarts: 0, started_at: None, stopped: false };
        let container = self.new_container(stored)?;
        self.registry.insert(&container)?;
        let written = std::fs::create_dir_all(&container.layout.state)
            .and_then(|()| std::fs::create_dir_all(&container.layout.run))
            .and_then(|()| container.change(|_| ()));
        let claim = if caller.has_only_own() { Claim::StartsAmongOwn } else { Claim::Starts };
        let claimed = match written {
            Ok(()) => container.volumes.claim(&container.spec(), claim).map_err(NodeError::Conflict),
            Err(error) => Err(NodeError::failed("cannot write the container's record", &error)),
        };
        match claimed {
            Ok(made) => Ok((container, made)),
            Err(why) => {
                self.registry.remove(&container.id);
                for directory in [&container.layout.state, &container.layout.run] {
                    let _ = drover_sys::tree::remove(directory);
                }
                Err(why)
            }
        }
    }

    fn specify(
        &self,
        request: RunRequest,
        image: &Image,
        id: ContainerId,
        caller: &Caller,
    ) -> Result<ContainerSpec, NodeError> {
        let view = self.images.view(image);
        let view = view.map_err(|error| NodeError::failed("cannot look into the image", &error))?;
        let process = process(&request, &image.config, &view.path())?;
        let stop_signal = stop_signal(&image.config)?;
        refuse_likeness(&request, caller)?;
        let interface = self.interface(&request, &id)?;
        let hostname = request.hostname.unwrap_or_else(|| request.name.to_string());
        if hostname.is_empty()
            || hostname.len() > 63
            || hostname.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(NodeError::invalid(format!("{hostname:?} is no host name"), "use up to 63 letters and digits"));
        }
        if request.limits.memory.is_some_and(|memory| memory.0 < 1 << 20) {
            return Err(NodeError::invalid("a memory limit under 1 MiB lets nothing run", "use --memory 16m or more"));
        }
        if request.limits.cpu_millis.is_some_and(|millis| millis < LEAST_CPU_MILLIS) {
            return Err(NodeError::invalid(
                "the kernel knows no limit under 0.01 processors",
                "use --cpus 0.01 or more",
            ));
        }
        if request.limits.pids == Some(0) {
            return Err(NodeError::invalid("a limit of zero lets nothing run", "leave the limit out for none"));
        }
        Ok(ContainerSpec {
            id,
            name: request.name,
            image: request.image,
            image_digest: image.digest.clone(),
            process,
            limits: request.limits,
            interface,
            hostname,
            restart: request.restart,
            volumes: self.volumes.specify(request.volumes, request.tmpfs, caller)?,
            created_at: now(),
            exposed_ports: image.config.exposed_ports.clone(),
            stop_signal,
            owner: caller.user().cloned(),
        })
    }
}

/// Refuses what could be taken for another container: a name that looks like an id, as `ps` shows it, for what is meant for
/// that one would be done to this; an Ethernet address, which on another node could be in use.
fn refuse_likeness(request: &RunRequest, caller: &Caller) -> Result<(), NodeError> {
    const SHOWN: usize = 12;
    let name = request.name.as_str();
    if name.len() >= SHOWN && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        let reason = format!("cannot make container {name}: its name looks like an id");
        return Err(NodeError::invalid(reason, "choose a name with another letter than a to f in it"));
    }
    if request.mac.is_some() && caller.has_only_own() {
        let reason = format!("cannot make container {name}: an owner may not choose its Ethernet address");
        return Err(NodeError::invalid(reason, "leave it out, or ask an operator"));
    }
    Ok(())
}

/// The signal that asks the image's program to end, if it names one.
fn stop_signal(config: &ImageConfig) -> Result<Option<i32>, NodeError> {
    let Some(text) = &config.stop_signal else { return Ok(None) };
    let number = drover_model::signal(text);
    number.map(Some).map_err(|why| NodeError::invalid(format!("cannot use the image's stop signal: {why}"), ""))
}

fn process(request: &RunRequest, config: &ImageConfig, rootfs: &Path) -> Result<ProcessSpec, NodeError> {
    let mut args = config.entrypoint.clone();
    args.extend(if request.args.is_empty() { config.cmd.clone() } else { request.args.clone() });
    if args.is_empty() {
        let reason = format!("cannot make container {}: image {} names no program", request.name, request.image);
        return Err(NodeError::invalid(reason, "give a command behind the image"));
    }
    if let Some(bad) = request.env.iter().find(|variable| variable.find('=').is_none_or(|at| at == 0)) {
        return Err(NodeError::invalid(format!("{bad:?} is no environment variable"), "use -e KEY=VALUE"));
    }
    let mut env = Vec::new();
    // Later ones win, as they are looked up from the front.
    for variable in request.env.iter().chain(&config.env).chain([&PATH.to_owned()]) {
        let key = |variable: &str| variable.split_once('=').map(|(key, _)| key.to_owned());
        if !env.iter().any(|known: &String| key(known) == key(variable)) {
            env.push(variable.clone());
        }
    }
    crate::exec::name_terminal(&mut env, request.terminal);
    let user = request.user.as_deref().or(config.user.as_deref()).filter(|user| !user.is_empty());
    let (uid, gid) = user.map_or(Ok((0, 0)), |user| resolve_user(user, rootfs))?;
    let cwd = request.cwd.clone().or_else(|| config.working_dir.clone()).filter(|cwd| !cwd.is_empty());
    let cwd = cwd.unwrap_or_else(|| "/".to_owned());
    if !cwd.starts_with('/') {
        return Err(NodeError::invalid(format!("{cwd:?} is no absolute path"), "give the working directory from /"));
    }
    let (terminal, stdin_open) = (request.terminal, request.stdin_open);
    Ok(ProcessSpec { args, env, cwd, uid, gid, terminal, stdin_open })
}

/// `USER[:GROUP]`, numbers or names in the image's own files.
pub(crate) fn resolve_user(text: &str, rootfs: &Path) -> Result<(u32, u32), NodeError> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let unknown = |what: &str, name: &str| {
        NodeError::invalid(format!("the image knows no {what} {name:?}"), "use a number, or a name in its /etc/passwd")
    };
    let passwd = read_inside(rootfs, "etc/passwd");
    let line = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&user) || (user.parse::<u32>().is_ok() && fields.get(2) == Some(&user)));
    let number = |index: usize| line.as_ref().and_then(|fields| fields.get(index)).and_then(|id| id.parse().ok());
    let uid = user.parse().ok().or_else(|| number(2)).ok_or_else(|| unknown("user", user))?;
    let gid = match group {
        None => number(3).unwrap_or(0),
        Some(group) => {
            let groups = read_inside(rootfs, "etc/group");
            let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let named = lines.find(|fields| fields.first() == Some(&group));
            let named = named.and_then(|fields| fields.get(2).and_then(|id| id.parse().ok()));
            group.parse().ok().or(named).ok_or_else(|| unknown("group", group))?
        }
    };
    Ok((uid, gid))
}

/// A small file of an image; its links are followed as a container would. One that is not there is empty.
fn read_inside(rootfs: &Path, path: &str) -> String {
    const LONGEST: u64 = 1 << 20;
    let read = || -> std::io::Result<String> {
        let top = rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat2(&top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let mut text = String::new();
        let mut bounded = std::io::Read::take(std::fs::File::from(file), LONGEST);
        std::io::Read::read_to_string(&mut bounded, &mut text)?;
        Ok(text)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use drover_model::Role;

    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_in_the_image() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n").unwrap();
        std::fs::write(root.path().join("etc/group"), "staff:x:50:\n").unwrap();
        assert_eq!(resolve_user("web", root.path()).unwrap(), (33, 34));
        assert_eq!(resolve_user("33", root.path()).unwrap(), (33, 34));
        assert_eq!(resolve_user("web:staff", root.path()).unwrap(), (33, 50));
        assert_eq!(resolve_user("7:8", root.path()).unwrap(), (7, 8));
        assert!(resolve_user("nobody-here", root.path()).is_err());
    }

    /// It cut another user's container off, and kept it from moving.
    #[test]
    fn an_owner_chooses_neither_an_ethernet_address_nor_a_name_like_an_id() {
        let request = |name: &str, mac: Option<&str>| -> RunRequest {
            serde_json::from_value(serde_json::json!({ "name": name, "image": "toolbox", "mac": mac })).unwrap()
        };
        let caller = |role| Caller::User { name: "ada".parse().unwrap(), role };
        let refused = |request: &RunRequest, role| refuse_likeness(request, &caller(role)).is_err();
        let mac = Some("02:1d:70:00:00:32");
        assert!(refused(&request("web", mac), Role::Owner));
        assert!(!refused(&request("web", mac), Role::Operator));
        assert!(!refused(&request("web", None), Role::Owner));
        for role in [Role::Owner, Role::Admin] {
            assert!(refused(&request("5252992eb4ed", None), role));
            assert!(!refused(&request("5252992eb4e", None), role));
            assert!(!refused(&request("5252992eb4ed-x", None), role));
        }
    }

    #[test]
    fn a_file_of_an_image_is_never_read_outside_of_it() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("passwd"), "x:x:1:1\n").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc")).unwrap();
        assert_eq!(read_inside(root.path(), "etc/passwd"), "");
    }
}
