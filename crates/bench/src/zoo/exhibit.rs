//! What there is in the zoo, as its files say.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A program in a container, and whoever looks at it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exhibit {
    /// Its name, and the container's.
    pub name: String,
    /// What it is, in a few words.
    pub about: String,
    /// The root of its image.
    pub image: String,
    /// The Debian package whose version is told.
    pub package: String,
    /// The program and its arguments; none: the image's own.
    pub command: Vec<String>,
    /// Its address, with prefix length.
    pub address: String,
    /// More options of `drover run`.
    #[serde(default)]
    pub run: Vec<String>,
    /// The witness on the client and its arguments; none: the program itself says what it found when it is stopped.
    pub witness: Option<Vec<String>>,
    /// A command inside that looks at it in the end.
    pub inside: Option<Vec<String>>,
    /// How long it is left alone between two moves.
    #[serde(default = "dwell_ms")]
    pub dwell_ms: u64,
    /// What a user has to know of it.
    pub limits: Option<String>,
    /// Why it cannot be moved; none: it can.
    pub blocked: Option<Blocked>,
}

/// Why an exhibit cannot be moved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocked {
    /// The kind of the finding by which it has to be refused.
    pub finding: String,
    /// Why.
    pub why: String,
    /// What helps.
    pub helps: String,
}

/// An exhibit that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ExhibitError {
    /// Its file.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// Its file's content.
    #[error("cannot understand {0}")]
    Parse(PathBuf, #[source] serde_json::Error),
    /// Two of one name.
    #[error("cannot tell two exhibits apart that are called {0}")]
    Twice(String),
    /// One that nobody knows.
    #[error("cannot find exhibit {0}; there are: {1}")]
    Unknown(String, String),
}

fn dwell_ms() -> u64 {
    300
}

/// All exhibits, by the names of their files and in the order of each file.
pub fn load(directory: &Path) -> Result<Vec<Exhibit>, ExhibitError> {
    let failed = |error| ExhibitError::Read(directory.to_owned(), error);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    let mut files =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut all: Vec<Exhibit> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| ExhibitError::Read(file.clone(), error))?;
        let more: Vec<Exhibit> = serde_json::from_str(&text).map_err(|error| ExhibitError::Parse(file, error))?;
        for exhibit in more {
            if all.iter().any(|known| known.name == exhibit.name) {
                return Err(ExhibitError::Twice(exhibit.name));
            }
            all.push(exhibit);
        }
    }
    Ok(all)
}

/// Those of these names; all if there are none.
pub fn choose<'a>(all: &'a [Exhibit], names: &[String]) -> Result<Vec<&'a Exhibit>, ExhibitError> {
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |name: &String| {
        let names = || all.iter().map(|exhibit| &*exhibit.name).collect::<Vec<_>>().join(", ");
        all.iter().find(|exhibit| exhibit.name == *name).ok_or_else(|| ExhibitError::Unknown(name.clone(), names()))
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exhibits_of_this_repository_have_their_programs() {
        let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../zoo");
        let all = load(&zoo.join("exhibits")).unwrap();
        assert!(all.len() > 30, "{}", all.len());
        for exhibit in &all {
            if let Some(witness) = &exhibit.witness {
                assert!(zoo.join("witness").join(&witness[0]).is_file(), "{exhibit:?}");
            }
            let programs = exhibit.command.iter().chain(exhibit.inside.iter().flatten());
            for program in programs.filter_map(|word| word.strip_prefix("/zoo/")).filter(|name| *name != "classes") {
                assert!(zoo.join("inside").join(program).is_file(), "{exhibit:?}");
            }
        }
        let unknown = choose(&all, &["unicorn".to_owned()]).unwrap_err();
        assert!(unknown.to_string().starts_with("cannot find exhibit unicorn; there are: "), "{unknown}");
    }
}
