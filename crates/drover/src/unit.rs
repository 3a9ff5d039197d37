//! Arguments with units that the model does not know: spans of time, processors.

use std::time::Duration;

/// A span: `2s`, `300ms`, `1.5m`, `1h`.
pub fn span(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("use a number with ms, s, m or h behind it, as in 2s".into()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| "it must be zero or more, and not without end".into())
}

/// Processors in thousandths: `1`, `0.5`, `2.25`.
pub fn cpus(text: &str) -> Result<u32, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    let millis = (number * 1000.0).round();
    if (1.0..=10_000_000.0).contains(&millis) {
        Ok(millis as u32)
    } else {
        Err("use a number of processors from 0.001 to 10000".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_need_a_unit() {
        assert_eq!(span("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(span("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
        for bad in ["", "2", "s", "-1s", "2 weeks", "nans", "infh", "1e300h"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_are_decimal() {
        assert_eq!((cpus("1"), cpus("0.25")), (Ok(1000), Ok(250)));
        for bad in ["0", "-1", "x", "NaN", "inf", "0.0001"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }
}
