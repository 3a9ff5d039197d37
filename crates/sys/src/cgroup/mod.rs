//! Control groups of version 1, version 2, or both at once ("hybrid").
//!
//! [`Hierarchies::detect`] finds what is mounted; [`Cgroup::at`] names one group, which is a directory at the same
//! relative path in every hierarchy. Formats: the kernel's `admin-guide/cgroup-v1` and `admin-guide/cgroup-v2.rst`.
//!
//! Invariants:
//! - a version 2 directory exists for every group wherever version 2 is mounted, controllers or not: it freezes, kills
//!   and reports events, which version 1 cannot;
//! - nothing outside a group's own path is removed, killed or frozen;
//! - an order to freeze that did not take effect in time still stands until [`Cgroup::thaw`] takes it back.

mod detect;
mod file;
mod freezer;
mod group;
mod limits;
mod population;
mod usage;

pub use detect::{Hierarchies, Layout};
pub use file::CgroupError;
pub use group::{Cgroup, Entrance};
pub use limits::Limits;
pub use usage::Usage;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod live;
