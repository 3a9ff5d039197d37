//! What the kernel, CRIU and the network say: lists, control groups, images, frames.

use std::fs;
use std::path::Path;

use drover_container::criu::{Call, Fields, begin_anew, counts_nothing, flags_of_mappings, limit_in};
use drover_container::{Devices, External, Layout, Notes};
use drover_disk::mount_in;
use drover_memory::{followed_in, wiped_in};
use drover_sys::cgroup::{Cgroup, Hierarchies};

use crate::ground::Ground;

/// A thread's image, and the notes beside it. The first byte says what the code before the call is.
pub fn criu_image(bytes: &[u8]) -> bool {
    let message = Fields::parse(bytes);
    if let Some(fields) = &message {
        assert_eq!(Fields::parse(&fields.encode()).as_ref(), Some(fields));
    }
    let (first, image) = bytes.split_first().unwrap_or((&0, &[]));
    let code = [0xb8, *first, 0, 0, 0, 0x0f, 0x05];
    let known = (first % 2 == 0).then(|| Call::parse(&format!("{first} 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0"))).flatten();
    let changed = begin_anew(image, known.as_ref(), |address| address.checked_sub(7).map(|_| code));
    if let Some(changed) = &changed {
        let (before, after) = (Fields::parse(&image[12..][..length(image)]), Fields::parse(&changed[12..]));
        assert!(before.is_some() && after.is_some() && length(changed) == changed.len() - 12);
    }
    message.is_some() | changed.is_some() | notes(bytes)
}

fn length(image: &[u8]) -> usize {
    u32::from_le_bytes(image[8..12].try_into().expect("four bytes")) as usize
}

fn notes(bytes: &[u8]) -> bool {
    let Ok(notes) = Notes::parse(bytes) else { return false };
    let written = serde_json::to_vec(&notes).expect("notes can be written");
    assert_eq!(Notes::parse(&written).expect("what was written can be read"), notes);
    for external in &notes.externals {
        let place = external.path(&Layout { state: "/state".into(), run: "/run".into() });
        let plain = place.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        assert!(plain && (place.starts_with("/state") || place.starts_with("/run")), "{}", place.display());
    }
    true
}

/// Lists below `/proc`, and frames that come by.
pub fn proc(bytes: &[u8]) -> bool {
    let claimed = drover_network::claim(bytes).is_some();
    let Ok(text) = std::str::from_utf8(bytes) else { return claimed };
    let (inside, outside) = text.split_once('\u{1}').unwrap_or((text, text));
    let own = Devices { dev: 40, shm: 41, empty: 42 };
    let externals = External::among(inside, own, outside, Path::new("/run/volumes"));
    let mounts = text.lines().filter_map(mount_in).count();
    let mappings = followed_in(text).len() + wiped_in(text).len() + flags_of_mappings(text).len();
    assert!(mounts + mappings <= 4 * text.lines().count());
    let limits = (0..16).filter_map(|resource| limit_in(text, resource)).count();
    let call = Call::parse(inside);
    let goes_on = call.as_ref().is_some_and(|call| Call::parse(outside).is_some_and(|other| call.goes_on(&other)));
    let tracks = counts_nothing(text);
    claimed | externals.is_ok_and(|found| !found.is_empty()) | (mounts + mappings + limits > 0) | goes_on | tracks
}

/// A tree of control groups: five texts, divided by the byte 1, are `mountinfo`, `cgroup` and files of the group.
pub fn cgroup(bytes: &[u8]) -> bool {
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == 1).collect();
    let part = |number: usize| *parts.get(number).unwrap_or(&&[][..]);
    let (Ok(mounts), Ok(memberships)) = (std::str::from_utf8(part(0)), std::str::from_utf8(part(1))) else {
        return false;
    };
    let root = Path::new("/fixture");
    for base in ["/", ""] {
        // Their number is that of the mounts at most, however the text looks.
        let _ = Hierarchies::parse(root, base, mounts, memberships).layout();
    }
    let ground = Ground::new();
    let top = ground.inside();
    let group = top.join("cg/group");
    fs::create_dir_all(&group).expect("a new directory");
    fs::create_dir_all(top.join("proc/self")).expect("a new directory");
    fs::write(top.join("proc/self/mountinfo"), "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n").expect("a new file");
    fs::write(top.join("proc/self/cgroup"), "0::/\n").expect("a new file");
    let files = ["memory.current", "memory.max", "cpu.stat", "pids.current", "cgroup.procs", "cgroup.events"];
    for (number, file) in files.into_iter().enumerate() {
        fs::write(group.join(file), part(number + 2)).expect("a new file");
    }
    let hierarchies = Hierarchies::detect(&top, "/").expect("it is mounted");
    let group = Cgroup::at(&hierarchies, "group").expect("a group");
    let (usage, pids) = (group.stats(), group.pids());
    let populated = group.is_populated();
    ground.check();
    usage.is_ok() | pids.is_ok_and(|pids| !pids.is_empty()) | populated.unwrap_or(false)
}
