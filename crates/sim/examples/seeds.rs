//! The first seed, below the number that is given, that breaks a promise: prints it and exits with 1.

use std::process::ExitCode;

fn main() -> ExitCode {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_u64);
    for seed in 0..count {
        let found = std::panic::catch_unwind(|| drover_sim::run(seed, None, false).ending);
        let what = match found {
            Ok(Ok(_)) => continue,
            Ok(Err(violation)) => violation.to_string(),
            Err(_) => "a panic".to_owned(),
        };
        println!("seed {seed} {what}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
