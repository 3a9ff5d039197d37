//! How a move shall go, on the command line.

use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValue;
use drover_model::{Bandwidth, Bytes, Compression, Fallback, Mode, Priority, Settings, StopRule};

use crate::unit;

#[derive(Debug, Args)]
#[command(next_help_heading = "How it shall go")]
pub struct SettingsArgs {
    /// How memory crosses
    #[arg(long, default_value = "auto")]
    mode: Word<Mode>,
    /// The pause that is aimed at [default: 300ms]
    #[arg(long, allow_hyphen_values = true, value_parser = unit::span, value_name = "TIME")]
    downtime: Option<Duration>,
    /// What to do when no further round brings the pause within that [default: give-up with --mode pre-copy, else freeze]
    #[arg(long)]
    fallback: Option<Word<Fallback>>,
    /// When rounds are enough: `budget`, `last-send=SECONDS` once one took less than that, or `rounds=N`
    #[arg(long, allow_hyphen_values = true, default_value = "budget", value_name = "RULE")]
    stop_rule: StopRule,
    /// The most rounds [default: 30]
    #[arg(long, allow_hyphen_values = true, value_name = "N")]
    max_rounds: Option<u32>,
    /// The most that may cross, as in 100mbit
    #[arg(long, allow_hyphen_values = true, value_name = "RATE")]
    bandwidth: Option<Bandwidth>,
    /// How pages are packed
    #[arg(long, default_value = "auto")]
    compress: Word<Compression>,
    /// The largest deleted but open file that may travel, as in 100m [default: 1g]
    #[arg(long, allow_hyphen_values = true, value_name = "SIZE")]
    deleted_files: Option<Bytes>,
}

impl SettingsArgs {
    pub fn settings(&self) -> Settings {
        Settings {
            mode: self.mode.0,
            downtime_ms: self.downtime.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            fallback: self.fallback.map(|word| word.0),
            stop_rule: self.stop_rule,
            max_rounds: self.max_rounds,
            bandwidth: self.bandwidth,
            compression: self.compress.0,
            deleted_files: self.deleted_files,
            sync: false,
        }
    }
}

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<T>(pub T);

macro_rules! words {
    ($($type:ident),*) => {$(
        impl clap::ValueEnum for Word<$type> {
            fn value_variants<'a>() -> &'a [Self] {
                const WORDS: [Word<$type>; $type::ALL.len()] = {
                    let mut words = [Word($type::ALL[0]); $type::ALL.len()];
                    let mut index = 0;
                    while index < words.len() {
                        words[index] = Word($type::ALL[index]);
                        index += 1;
                    }
                    words
                };
                &WORDS
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(PossibleValue::new(self.0.as_str()))
            }
        }
    )*};
}

words!(Mode, Fallback, Compression, Priority);
