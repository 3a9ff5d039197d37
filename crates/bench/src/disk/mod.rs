//! The suite `disk`: what it takes to bring files across, by Drover and by what else there is.
//!
//! Its cases have little in common but the lab: each has contestants, measures and columns of its own. Rows go to a file
//! of their own, and the contestants of a case take turns.

mod case;
mod database;
mod images;
mod row;
mod session;
mod table;
mod trees;
mod turn;

pub use case::{Case, Turn, turns};
pub use row::{Row, rows_file};
pub use session::hold;
pub use table::{last_session, tables};
