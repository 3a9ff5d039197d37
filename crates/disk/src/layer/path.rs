//! Paths inside a tree: relative, of plain names only.

use std::cmp::Ordering;

/// The longest path in bytes, as the kernel's `PATH_MAX` with its final zero.
pub(crate) const LONGEST_PATH: usize = 4095;
/// The longest name in bytes (`NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// A path from a tree's top: names with `/` between them, none of them empty, `.` or `..`. The empty path is the top.
///
/// Paths sort as a walk meets them: a directory, then all that is in it, then its next sibling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TreePath(Vec<u8>);

impl TreePath {
    /// The top of the tree.
    pub fn top() -> Self {
        Self(Vec::new())
    }

    /// Checks a path that came from outside.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        if bytes.is_empty() {
            return Ok(Self::top());
        }
        if bytes.len() > LONGEST_PATH {
            return Err("a path is too long");
        }
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." | b".." => return Err("a path has an empty name, `.` or `..` in it"),
                _ if name.len() > LONGEST_NAME => return Err("a name is too long"),
                _ if name.contains(&0) => return Err("a name has a zero byte in it"),
                _ => {}
            }
        }
        Ok(Self(bytes))
    }

    /// The path of the entry called `name` in this directory.
    pub fn child(&self, name: &[u8]) -> Result<Self, &'static str> {
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend(name);
        Self::parse(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_top(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds it; the top holds itself.
    pub fn parent(&self) -> Self {
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Self(self.0[..end].to_vec())
    }

    /// The last name; the top is called `.`.
    pub fn name(&self) -> &[u8] {
        match self.0.rsplit(|byte| *byte == b'/').next() {
            Some(b"") | None => b".",
            Some(name) => name,
        }
    }

    /// Whether this is `directory` or lies below it.
    pub fn is_within(&self, directory: &Self) -> bool {
        directory.is_top()
            || self.0.strip_prefix(directory.0.as_slice()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // No name has a zero byte, so it can stand for the lowest `/`.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn paths_that_could_lead_elsewhere_are_refused() {
        let long = "x/".repeat(3000);
        for bad in ["/", "/etc", "a//b", "a/", "..", "a/../b", "a/.", ".", "a\0b", &"n".repeat(256), &long[..5999]] {
            assert!(TreePath::parse(bad.as_bytes().to_vec()).is_err(), "{bad}");
        }
        for good in ["", "a", "a/b", "...", "a/..b", &"n".repeat(255)] {
            assert_eq!(path(good).as_bytes(), good.as_bytes());
        }
    }

    #[test]
    fn a_directory_comes_before_what_is_in_it_and_that_before_its_sibling() {
        for pair in [["", "a"], ["a", "a/b"], ["a/z/z", "a-b"], ["a", "b"], ["a/b", "a/c"]] {
            assert!(path(pair[0]) < path(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn parts_fit_together() {
        assert_eq!(path("a/b/c").parent(), path("a/b"));
        assert_eq!(path("a").parent(), TreePath::top());
        assert_eq!((path("a/b").name(), TreePath::top().name()), (&b"b"[..], &b"."[..]));
        assert_eq!(path("a").child(b"b").unwrap(), path("a/b"));
        assert!(path("a").child(b"../x").is_err());
        assert!(path("a/b").is_within(&path("a")) && path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")) && path("ab").is_within(&TreePath::top()));
    }
}
