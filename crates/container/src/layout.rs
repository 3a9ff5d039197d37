//! Where a container's files live on a node.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use drover_model::ContainerId;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde::{Deserialize, Serialize};

/// The places of one container: `state` survives a reboot, `run` does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// `STATE/containers/ID`.
    pub state: PathBuf,
    /// `RUN/containers/ID`.
    pub run: PathBuf,
}

impl Layout {
    /// The places of `id` beneath the node's two roots.
    #[must_use]
    pub fn new(state: &Path, run: &Path, id: &ContainerId) -> Self {
        let beneath = |root: &Path| root.join("containers").join(id.as_str());
        Self { state: beneath(state), run: beneath(run) }
    }

    /// What the node knows of the container.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.state.join("container.json")
    }

    /// How its program ended, written by the shim.
    #[must_use]
    pub fn exit(&self) -> PathBuf {
        self.state.join("exit.json")
    }

    /// The writable layer.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.state.join("upper")
    }

    /// overlayfs's own directory beside the writable layer.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.state.join("work")
    }

    /// The directory of its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state.join("log")
    }

    /// Where the root file system is mounted.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.run.join("rootfs")
    }

    /// The OCI bundle.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.run.join("bundle")
    }

    /// A root with one program that does nothing, to set up the sandbox of a container that arrives.
    #[must_use]
    pub fn template(&self) -> PathBuf {
        self.run.join("template")
    }

    /// The tmpfs that is `/dev` inside.
    #[must_use]
    pub fn dev(&self) -> PathBuf {
        self.run.join("dev")
    }

    /// The tmpfs that is `/dev/shm` inside.
    #[must_use]
    pub fn shm(&self) -> PathBuf {
        self.run.join("shm")
    }

    /// Where what a specification mounts stands ready, each in a directory called by its place in the list.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.run.join("volumes")
    }

    /// Where one of them stands ready: the files that the container sees, on either node.
    #[must_use]
    pub fn volume(&self, index: usize) -> PathBuf {
        self.volumes().join(index.to_string())
    }

    /// The empty tmpfs that covers masked directories after a restore.
    #[must_use]
    pub fn empty(&self) -> PathBuf {
        self.run.join("empty")
    }

    /// The tmpfs for CRIU's images.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.run.join("checkpoint")
    }

    /// CRIU's images.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.checkpoint().join("images")
    }

    /// The pages that arrived before the images did.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.checkpoint().join("store")
    }

    /// Where agents connect that bring pages from the source.
    #[must_use]
    pub fn relays(&self) -> PathBuf {
        self.checkpoint().join("relays.sock")
    }

    /// CRIU's working directory, with its log.
    #[must_use]
    pub fn criu_work(&self) -> PathBuf {
        self.checkpoint().join("work")
    }

    /// The pinned network namespace.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        self.run.join("netns")
    }

    /// The shim's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("shim.sock")
    }

    /// The tmpfs mounts of the container, to be unmounted with it.
    #[must_use]
    pub fn tmpfs_mounts(&self) -> [PathBuf; 4] {
        [self.dev(), self.shm(), self.empty(), self.checkpoint()]
    }
}

/// Fills a fresh `/dev`.
///
/// # Errors
/// When a node, link or directory cannot be made.
pub fn prepare_dev(layout: &Layout) -> io::Result<()> {
    const DEVICES: [(&str, u32, u32); 6] =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    const LINKS: [(&str, &str); 5] = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    let dev = layout.dev();
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for (name, target) in LINKS {
        symlink(target, dev.join(name))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name))?;
    }
    Ok(())
}

/// Makes the root with the one program that does nothing.
///
/// # Errors
/// When it cannot be written.
pub fn prepare_template(layout: &Layout) -> io::Result<()> {
    let program = layout.template().join("nothing");
    fs::create_dir_all(layout.template())?;
    fs::write(&program, "#!/nothing\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
}
