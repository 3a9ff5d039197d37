//! The messages of CRIU's RPC, field numbers as in `images/rpc.proto`.

/// `criu_opts`: what a dump or restore shall do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Options {
    /// Directory of the images, a descriptor of the requester.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// The first process to dump.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// Whether the processes stay after the dump.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// Whether established TCP connections travel.
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    /// Whether file locks travel.
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    /// 0 (nothing) to 4 (everything).
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// A name in the working directory.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// Where pages go instead of the images.
    #[prost(message, optional, tag = "11")]
    pub page_server: Option<PageServer>,
    /// Whether CRIU tells of its steps and waits for an answer.
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    /// The mount that becomes the root.
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// The working directory, a descriptor of the requester.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Whether the restored tree becomes a child of the requester.
    #[prost(bool, optional, tag = "26")]
    pub restore_as_sibling: Option<bool>,
    /// Descriptors of the worker that take the place of dumped ones.
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    /// 0: CRIU leaves control groups alone.
    #[prost(int32, optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// The largest deleted but open file that is dumped, in bytes.
    #[prost(uint32, optional, tag = "35")]
    pub ghost_limit: Option<u32>,
    /// Resources that live outside the tree.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// The frozen group that holds the processes.
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    /// Seconds until collecting the processes is given up.
    #[prost(uint32, optional, tag = "45")]
    pub timeout: Option<u32>,
    /// Whether half-open incoming connections are left out (the client asks again).
    #[prost(bool, optional, tag = "46")]
    pub tcp_skip_in_flight: Option<bool>,
    /// Whether somebody else brings pages that are missing (`lazy-pages.socket` in the working directory).
    #[prost(bool, optional, tag = "48")]
    pub lazy_pages: Option<bool>,
    /// Whether the master of a terminal is handed over.
    #[prost(bool, optional, tag = "50")]
    pub orphan_pts_master: Option<bool>,
    /// 3: CRIU leaves the network to us.
    #[prost(int32, optional, tag = "64")]
    pub network_lock: Option<i32>,
    /// Whether changed permission bits of opened files are no reason to refuse.
    #[prost(bool, optional, tag = "66")]
    pub skip_file_rwx_check: Option<bool>,
}

/// `criu_page_server_info`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PageServer {
    /// A descriptor of the worker, connected to the server.
    #[prost(int32, optional, tag = "4")]
    pub fd: Option<i32>,
}

/// `inherit_fd`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InheritFd {
    /// What it takes the place of: `pipe:[INODE]`, `tty[...]`, or the name of an external namespace.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// A descriptor of the worker.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// `criu_req`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(int32, required, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
    /// Whether CRIU waits for another request after this one.
    #[prost(bool, optional, tag = "4")]
    pub keep_open: Option<bool>,
    /// What a request for features asks about.
    #[prost(message, optional, tag = "5")]
    pub features: Option<Features>,
}

/// `criu_features`: no one of them.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Features {}

/// `criu_resp`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(int32, required, tag = "1")]
    pub kind: i32,
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    #[prost(message, optional, tag = "4")]
    pub restore: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notify>,
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    #[prost(string, optional, tag = "9")]
    pub message: Option<String>,
    #[prost(message, optional, tag = "10")]
    pub version: Option<Version>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Restored {
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Notify {
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Version {
    #[prost(int32, required, tag = "1")]
    pub major: i32,
    #[prost(int32, required, tag = "2")]
    pub minor: i32,
    #[prost(int32, optional, tag = "4")]
    pub sublevel: Option<i32>,
}
