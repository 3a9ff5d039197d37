//! The directory in which a CRIU that restores puts mounts together, and which it leaves when it is killed.

use std::fs;
use std::path::Path;

use drover_sys::interpose::{mark_of, marked};

/// Where it is, and how its name begins.
const PLACE: &str = "/tmp";
const NAME: &str = ".criu.mntns.";

/// Removes that of a CRIU that has ended, if there is one. It is empty: what was mounted there went with CRIU's mounts.
pub(super) fn remove(criu: u32) {
    let _ = fs::remove_dir(format!("{PLACE}/{NAME}{}", mark_of(criu)));
}

/// Removes those of all that are gone: whoever should have removed them was killed, too.
pub fn remove_all_left() {
    remove_left(Path::new(PLACE), |pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "criu\n")
    });
}

fn remove_left(place: &Path, lives: impl Fn(u32) -> bool) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let criu = name.to_str().and_then(|name| marked(name.strip_prefix(NAME)?));
        if criu.is_some_and(|criu| !lives(criu)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_criu_has_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let names = [mark_of(7), mark_of(8), "aB3xYz".to_owned(), "-00".to_owned()].map(|mark| format!("{NAME}{mark}"));
        for name in names.iter().map(String::as_str).chain(["criu.mntns.-00007"]) {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        remove_left(place.path(), |pid| pid == 8);
        let left = names.map(|name| place.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
        assert!(place.path().join("criu.mntns.-00007").exists());
    }
}
