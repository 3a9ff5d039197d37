//! Why runc did not run a program, in words for people.

/// A program that runc did not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedProgram {
    /// Because of what.
    pub reason: String,
    /// What the user can do about it.
    pub hint: &'static str,
    /// The status that shells give such a program: 127 when there is none, 126 when it cannot be executed.
    pub status: i32,
}

impl RefusedProgram {
    const NOT_FOUND: i32 = 127;
    const NOT_EXECUTABLE: i32 = 126;

    /// Reads runc's reason; none when it is about something else than the program.
    #[must_use]
    pub fn read(reason: &str) -> Option<Self> {
        let (_, cause) = reason.rsplit_once("unable to start container process: ")?;
        if let Some(rest) = cause.strip_prefix("chdir to cwd (\"") {
            let directory = rest.split('"').next().unwrap_or_default();
            let reason = format!("its working directory {directory} cannot be entered");
            return Some(Self { reason, hint: "give another with --workdir", status: Self::NOT_EXECUTABLE });
        }
        // exec: "PROGRAM": CAUSE, and in CAUSE perhaps: stat PROGRAM: CAUSE
        let (_, why) = cause.strip_prefix("exec: ")?.rsplit_once(": ")?;
        Some(match why {
            "executable file not found in $PATH" | "no such file or directory" => Self {
                reason: "there is no such program in the container".to_owned(),
                hint: "check its name and path, and PATH in the container",
                status: Self::NOT_FOUND,
            },
            why => Self {
                reason: format!("it cannot be executed: {why}"),
                hint: "it must be a file that the container's user may execute",
                status: Self::NOT_EXECUTABLE,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runc::last_reason;

    fn read(cause: &str) -> Option<(i32, String)> {
        let text = format!("runc create failed: unable to start container process: {cause}");
        let log = format!("time=\"2026-01-01T00:00:00Z\" level=error msg={}\n", serde_json::json!(text));
        RefusedProgram::read(&last_reason(&log)).map(|refused| (refused.status, refused.reason))
    }

    #[test]
    fn a_program_that_is_not_there_has_status_127_and_one_that_cannot_be_executed_126() {
        let missing = Some((127, "there is no such program in the container".to_owned()));
        assert_eq!(read("exec: \"nosuch\": executable file not found in $PATH"), missing);
        assert_eq!(read("exec: \"/no/such\": stat /no/such: no such file or directory"), missing);
        let refused = |why: &str| Some((126, why.to_owned()));
        assert_eq!(
            read("exec: \"/etc/passwd\": permission denied"),
            refused("it cannot be executed: permission denied")
        );
        assert_eq!(read("exec: \"/\": is a directory"), refused("it cannot be executed: is a directory"));
        let directory = "chdir to cwd (\"/nodir\") set in config.json failed: no such file or directory";
        assert_eq!(read(directory), refused("its working directory /nodir cannot be entered"));
    }

    #[test]
    fn other_refusals_are_not_the_programs() {
        assert_eq!(read("error during container init: error mounting \"proc\": no such file or directory"), None);
        assert_eq!(RefusedProgram::read("cannot exec in a paused container"), None);
    }
}
