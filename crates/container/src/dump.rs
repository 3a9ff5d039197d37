//! Dumping a frozen container: CRIU writes what it knows and finishes; the processes stay frozen by their group.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use drover_model::{Bytes, Neighbour};

use crate::criu::{
    Coverage, CriuError, Known, Mappings, Options, PageServer, RequestKind, Sleepers, Told, Worker, let_expire,
    let_sleep,
};
use crate::{External, Layout, Notes, UnknownMount};

/// What to dump.
#[derive(Debug)]
pub struct DumpRequest {
    /// The container's places; `images` and `criu_work` exist.
    pub layout: Layout,
    /// Its first process in the node's view.
    pub pid: u32,
    /// Its processes in the node's view, the first one among them.
    pub processes: Vec<u32>,
    /// The group that holds its processes, frozen.
    pub freezer: PathBuf,
    /// Whether its standard streams are a terminal.
    pub terminal: bool,
    /// Standard input that the program has not read yet.
    pub unread_stdin: Vec<u8>,
    /// Whom the container knows on its link.
    pub neighbours: Vec<Neighbour>,
    /// What its threads did before anything interrupted them.
    pub sleepers: Sleepers,
    /// Pages that the target has already.
    pub coverage: Coverage,
    /// The largest deleted but open file that travels. CRIU's default, 1 MiB, is what its users stumble over.
    pub deleted_files: Bytes,
    /// The flags of their mappings, as they were read before.
    pub mappings: Mappings,
    /// A CRIU process that was started before the container was frozen, and that found the page server's socket at
    /// `PAGE_SERVER`.
    pub worker: Worker,
}

/// Why a container was not dumped. Its processes are as frozen as before.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It has a mount that cannot travel.
    #[error("cannot dump a mount")]
    Mount(#[from] UnknownMount),
    /// Files around the dump.
    #[error("cannot open {0}")]
    Open(PathBuf, #[source] io::Error),
    /// Our notes.
    #[error("cannot write the notes of the checkpoint")]
    Notes(#[source] io::Error),
    /// The images of threads.
    #[error("cannot let sleeping threads sleep on")]
    Sleeping(#[source] io::Error),
    /// The image of open files.
    #[error("cannot let periodic timers go on")]
    Expired(#[source] io::Error),
    /// CRIU never asked to cut the network: what it dumped of the sockets may be out of date.
    #[error("cannot dump the connections: criu did not ask to cut the network first")]
    Uncut,
    /// CRIU.
    #[error("cannot dump the processes")]
    Criu(#[from] CriuError),
}

/// The number at which the worker finds the socket of the page server.
pub const PAGE_SERVER: i32 = 4;
/// The name of the network namespace in the images; it is made anew on the target.
pub const NETWORK: &str = "drover-network";
/// How long CRIU may be silent. It is so for as long as memory crosses; the migration's own deadline, which looks at what
/// crosses, comes first.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// CRIU's log level: errors.
pub const LOG_LEVEL: i32 = 1;

/// Dumps everything but memory into the layout's images, with our notes; memory goes to the page server.
///
/// `cut_network` is called once every process stands still for CRIU and before the first socket is looked at: what came
/// until then waits in its socket and is dumped with it, what comes later must find nobody. What is given is to be
/// confirmed before the dump is relied on.
///
/// # Errors
/// For whatever cannot travel, and when CRIU fails. The processes are frozen in any case.
pub fn dump(request: DumpRequest, mut cut_network: impl FnMut() -> bool) -> Result<Told, DumpError> {
    let DumpRequest { layout, pid, processes, freezer, terminal, unread_stdin, neighbours, sleepers, .. } = request;
    let DumpRequest { coverage, mappings, worker, deleted_files, .. } = request;
    let open = |path: PathBuf| File::open(&path).map_err(|error| DumpError::Open(path, error));
    let images = open(layout.images())?;
    let work = open(layout.criu_work())?;
    let network = open(layout.netns())?;
    let inode = network.metadata().map_err(|error| DumpError::Open(layout.netns(), error))?.ino();

    let externals = External::of(pid, &layout)?;
    let mut external = vec![format!("net[{inode}]:{NETWORK}")];
    external.extend(externals.iter().map(|mount| format!("mnt[{0}]:{0}", mount.mountpoint)));
    let streams = [0, 1, 2].map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).ok());
    let pipe = |path: &Option<PathBuf>| {
        path.as_ref().and_then(|path| path.to_str()).filter(|name| name.starts_with("pipe:[")).map(str::to_owned)
    };
    let notes = Notes { externals, stdio: [0, 1, 2].map(|i| pipe(&streams[i])), neighbours, unread_stdin };
    notes.write(&layout.images()).map_err(DumpError::Notes)?;

    let options = Options {
        images_dir_fd: images.as_raw_fd(),
        work_dir_fd: Some(work.as_raw_fd()),
        pid: Some(i32::try_from(pid).unwrap_or_default()),
        leave_running: Some(true),
        tcp_established: Some(true),
        tcp_skip_in_flight: Some(true),
        file_locks: Some(true),
        log_level: Some(LOG_LEVEL),
        log_file: Some("dump.log".to_owned()),
        page_server: Some(PageServer { fd: Some(PAGE_SERVER) }),
        manage_cgroups_mode: Some(0),
        ghost_limit: Some(u32::try_from(deleted_files.0).unwrap_or(u32::MAX)),
        external,
        freeze_cgroup: freezer.to_str().map(str::to_owned),
        timeout: Some(30),
        orphan_pts_master: terminal.then_some(true),
        notify_scripts: Some(true),
        network_lock: Some(3),
        skip_file_rwx_check: Some(true),
        root: layout.rootfs().to_str().map(str::to_owned),
        ..Options::default()
    };
    let known = worker.know(coverage, mappings);
    let mut cut = false;
    worker.request(RequestKind::Dump, options, &layout.criu_work(), PATIENCE, |notification| {
        if notification.step != "network-lock" {
            return true;
        }
        cut = cut_network();
        cut
    })?;
    if !cut {
        return Err(DumpError::Uncut);
    }
    for pid in processes {
        let_sleep(pid, &layout.images(), &sleepers).map_err(DumpError::Sleeping)?;
    }
    let_expire(&layout.images()).map_err(DumpError::Expired)?;
    Ok(known.get().map(Known::told).unwrap_or_default())
}
