//! Signals by name and number.

/// Names of signals by number, beginning with 1, as on all architectures that Drover runs on.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// The first signal without a meaning of its own, as C libraries number them.
const RTMIN: i32 = 34;

/// A signal: `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
///
/// # Errors
/// When there is no such signal; the text says so.
pub fn signal(text: &str) -> Result<i32, String> {
    let known = |number: i32| (1..=64).contains(&number);
    if let Ok(number) = text.parse::<i32>() {
        return if known(number) { Ok(number) } else { Err("signals go from 1 to 64".into()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().position(|&signal| signal == name).map(|index| index as i32 + 1);
    let behind = name.strip_prefix("RTMIN").and_then(|rest| if rest.is_empty() { Some(0) } else { rest.parse().ok() });
    let number = named.or(behind.and_then(|behind: i32| RTMIN.checked_add(behind)).filter(|number| known(*number)));
    number.ok_or_else(|| format!("there is no signal {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["9", "KILL", "sigkill"] {
            assert_eq!(signal(text), Ok(9));
        }
        assert_eq!((signal("TERM"), signal("WINCH"), signal("SYS")), (Ok(15), Ok(28), Ok(31)));
        assert_eq!((signal("SIGRTMIN+3"), signal("RTMIN")), (Ok(37), Ok(34)));
        assert!(["0", "65", "NOPE", "", "RTMIN+40", "RTMIN+x"].iter().all(|bad| signal(bad).is_err()));
    }
}
