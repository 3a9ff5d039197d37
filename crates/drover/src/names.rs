//! Names for containers that were given none.

use drover_model::ContainerName;
use rand::Rng;
use rand::seq::IndexedRandom;

const ADJECTIVES: [&str; 24] = [
    "amber", "brisk", "calm", "dusty", "eager", "fleet", "gentle", "hardy", "idle", "jolly", "keen", "lucky", "merry",
    "nimble", "placid", "quick", "rugged", "sturdy", "tidy", "upland", "vivid", "woolly", "young", "zesty",
];
const NOUNS: [&str; 24] = [
    "alpaca", "bison", "camel", "donkey", "ewe", "fox", "goat", "heifer", "ibex", "jackal", "kid", "lamb", "mule",
    "newt", "ox", "pony", "quail", "ram", "steer", "tup", "urial", "vole", "wether", "yak",
];

/// An adjective and an animal.
pub fn generate(chance: &mut impl Rng) -> Option<ContainerName> {
    let (adjective, noun) = (ADJECTIVES.choose(chance)?, NOUNS.choose(chance)?);
    format!("{adjective}-{noun}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_seed_gives_one_valid_name() {
        let name = |seed| generate(&mut StdRng::seed_from_u64(seed)).unwrap();
        assert_eq!(name(1), name(1));
        assert!((0..50).map(name).any(|other| other != name(1)));
    }
}
