//! What the user wishes of a migration.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Bandwidth;

/// How memory crosses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The engine chooses: `pre-copy`; `stop-and-copy` where the kernel cannot follow what is written; and the fallback
    /// where the budget cannot be met.
    #[default]
    Auto,
    /// Memory crosses in rounds while the container runs; what was written last crosses while it is frozen.
    PreCopy,
    /// The container runs on the target before its memory has crossed, which follows.
    PostCopy,
    /// All memory crosses while the container is frozen.
    StopAndCopy,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::PreCopy, Self::PostCopy, Self::StopAndCopy];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::PreCopy => "pre-copy",
            Mode::PostCopy => "post-copy",
            Mode::StopAndCopy => "stop-and-copy",
        }
    }
}

/// What to do when no further round brings the pause within the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Freeze the container all the same: the pause is longer than the budget.
    Freeze,
    /// Let the pages that are missing follow the container.
    PostCopy,
    /// Slow the container by its processor quota until rounds shrink.
    Slow,
    /// Leave it where it is.
    GiveUp,
}

impl Fallback {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Freeze, Self::PostCopy, Self::Slow, Self::GiveUp];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::PostCopy => "post-copy",
            Self::Slow => "slow",
            Self::GiveUp => "give-up",
        }
    }
}

/// When rounds are enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StopRule {
    /// As soon as the predicted pause is within the budget.
    #[default]
    Budget,
    /// As soon as a round took less than so many milliseconds. The classic rule, for comparison.
    LastSend(u64),
    /// After exactly so many of them, whatever that means for the pause. For comparison.
    Rounds(u32),
}

/// A text that is no rule to stop by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no rule to stop by: use `budget`, `last-send=SECONDS` or `rounds=NUMBER`")]
pub struct InvalidStopRule;

impl FromStr for StopRule {
    type Err = InvalidStopRule;

    fn from_str(text: &str) -> Result<Self, InvalidStopRule> {
        if text == "budget" {
            return Ok(Self::Budget);
        }
        if let Some(rounds) = text.strip_prefix("rounds=") {
            return rounds.parse().map(Self::Rounds).map_err(|_| InvalidStopRule);
        }
        let seconds = text.strip_prefix("last-send=").and_then(|text| text.trim_end_matches('s').parse::<f64>().ok());
        let milliseconds = seconds.map(|seconds| seconds * 1e3).filter(|ms| *ms >= 1.0 && *ms <= 1e9);
        milliseconds.map(|ms| Self::LastSend(ms as u64)).ok_or(InvalidStopRule)
    }
}

/// Wishes that contradict each other, or cannot be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// A wish for rounds in a mode without any.
    #[error("the mode {0} makes no rounds, and {1} means nothing to it")]
    NoRounds(&'static str, &'static str),
    /// A wish beside a fixed number of rounds.
    #[error("the rule rounds=N makes so many rounds whatever comes, and {0} means nothing to it")]
    Fixed(&'static str),
    /// Pre-copy without a round.
    #[error("the mode pre-copy makes at least one round; without any it is stop-and-copy")]
    None,
    /// A wish for memory where none crosses.
    #[error("when only files are sent ahead, {0} means nothing")]
    Sync(&'static str),
    /// A bound that nothing crosses.
    #[error("a bandwidth of {0} is less than {least}", least = Bandwidth::LEAST)]
    Bandwidth(Bandwidth),
}

/// How pages are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// As it saves time on the link measured so far.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// LZ4: a gigabyte in two seconds or less.
    Lz4,
    /// Zstandard, its fastest level that still gains on LZ4.
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::None, Self::Lz4, Self::Zstd];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What the user wishes of a migration; what is left out, the engine chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How memory crosses.
    pub mode: Mode,
    /// The pause that is aimed at, in milliseconds; 300 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// What to do when no further round brings the pause within the budget: when left out `give-up` in the mode
    /// `pre-copy`, otherwise `freeze`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// When rounds are enough.
    pub stop_rule: StopRule,
    /// The most rounds; 30 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rounds: Option<u32>,
    /// The most that may cross, in bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// How pages are packed.
    pub compression: Compression,
    /// Only send the container's files ahead, and leave it where it is: a later move sends what has changed since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sync: bool,
}

impl Settings {
    /// The pause that is aimed at.
    #[must_use]
    pub fn budget(&self) -> Duration {
        self.downtime_ms.map_or(Duration::from_millis(300), Duration::from_millis)
    }

    /// Sees to it that nothing is wished that would mean nothing.
    ///
    /// # Errors
    /// Two wishes that contradict each other, or one that cannot be fulfilled.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let of_rounds = [
            ("a budget for the pause", self.downtime_ms.is_some()),
            ("a fallback", self.fallback.is_some()),
            ("a most number of rounds", self.max_rounds.is_some()),
            ("a stop rule", self.stop_rule != StopRule::Budget),
        ];
        let wish = |wished: &[(&'static str, bool)]| wished.iter().find(|(_, is)| *is).map(|(what, _)| *what);
        if self.sync {
            let mode = ("a mode", self.mode != Mode::Auto);
            if let Some(what) = wish(&of_rounds).or(wish(&[mode])) {
                return Err(InvalidSettings::Sync(what));
            }
        }
        if matches!(self.mode, Mode::PostCopy | Mode::StopAndCopy)
            && let Some(what) = wish(&of_rounds)
        {
            return Err(InvalidSettings::NoRounds(self.mode.as_str(), what));
        }
        if matches!(self.stop_rule, StopRule::Rounds(_))
            && let Some(what) = wish(&of_rounds[..3])
        {
            return Err(InvalidSettings::Fixed(what));
        }
        if self.mode == Mode::PreCopy && (self.stop_rule == StopRule::Rounds(0) || self.max_rounds == Some(0)) {
            return Err(InvalidSettings::None);
        }
        match self.bandwidth {
            Some(bandwidth) if bandwidth < Bandwidth::LEAST => Err(InvalidSettings::Bandwidth(bandwidth)),
            _ => Ok(()),
        }
    }

    /// What to do when no further round brings the pause within the budget.
    #[must_use]
    pub fn fallback(&self) -> Fallback {
        self.fallback.unwrap_or(match self.mode {
            Mode::PreCopy => Fallback::GiveUp,
            Mode::Auto | Mode::PostCopy | Mode::StopAndCopy => Fallback::Freeze,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_left_out_are_the_engine_s_choice() {
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!((settings.budget(), settings.fallback()), (Duration::from_millis(300), Fallback::Freeze));
        let settings: Settings = serde_json::from_str(r#"{"mode": "pre-copy", "bandwidth": 1000}"#).unwrap();
        assert_eq!((settings.fallback(), settings.bandwidth), (Fallback::GiveUp, Some(Bandwidth(1000))));
        assert!(serde_json::from_str::<Settings>(r#"{"speed": 1}"#).is_err());
    }

    #[test]
    fn wishes_that_mean_nothing_are_refused() {
        for (text, why) in [
            (r#"{"mode": "stop-and-copy", "downtime_ms": 10}"#, "stop-and-copy makes no rounds, and a budget"),
            (r#"{"mode": "post-copy", "stop_rule": {"rounds": 2}}"#, "post-copy makes no rounds, and a stop rule"),
            (r#"{"stop_rule": {"rounds": 2}, "max_rounds": 1}"#, "whatever comes, and a most number of rounds"),
            (r#"{"mode": "pre-copy", "max_rounds": 0}"#, "at least one round"),
            (r#"{"mode": "pre-copy", "stop_rule": {"rounds": 0}}"#, "at least one round"),
            (r#"{"sync": true, "mode": "pre-copy"}"#, "a mode means nothing"),
            (r#"{"sync": true, "downtime_ms": 1}"#, "a budget for the pause means nothing"),
            (r#"{"bandwidth": 1}"#, "1bit is less than 64kbit"),
        ] {
            let settings: Settings = serde_json::from_str(text).unwrap();
            let refused = settings.check().unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        for text in ["{}", r#"{"max_rounds": 0}"#, r#"{"mode": "pre-copy", "downtime_ms": 0, "fallback": "slow"}"#] {
            assert_eq!(serde_json::from_str::<Settings>(text).unwrap().check(), Ok(()), "{text}");
        }
    }

    #[test]
    fn stop_rules_parse() {
        assert_eq!("budget".parse(), Ok(StopRule::Budget));
        assert_eq!("last-send=1.5".parse(), Ok(StopRule::LastSend(1500)));
        assert_eq!("last-send=1s".parse(), Ok(StopRule::LastSend(1000)));
        assert_eq!("rounds=0".parse(), Ok(StopRule::Rounds(0)));
        for bad in [
            "",
            "rounds=",
            "rounds=-1",
            "last-send",
            "last-send=",
            "last-send=-1",
            "last-send=0",
            "last-send=nan",
            "1.5",
        ] {
            assert_eq!(bad.parse::<StopRule>(), Err(InvalidStopRule), "{bad}");
        }
    }
}
