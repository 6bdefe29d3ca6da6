//! What miners can do with their rounds, by name.

mod coalition;
mod copies;
mod data;
mod honest;
mod idle;
mod malformed;
mod poisoner;
mod scaled;
mod sybils;
mod timing;
mod work;

pub use coalition::Member;
pub use copies::{CopyEarlier, CopySame};
pub use data::{OtherData, TestData};
pub use honest::Honest;
pub use idle::{Noise, Stale, Zeros};
pub use malformed::{Malformed, WrongRoot};
pub use poisoner::Poisoner;
pub use scaled::{Scaled, Sleeper};
pub use sybils::{Sybil, SybilCopy};
pub use timing::{Late, Missing, Withheld};
pub use work::Work;

use crate::{ArenaError, Contender, Strategy};

/// Every strategy's name; `work` and `sleeper` may be followed by `:NUMBER`, the share of the work and the honest rounds.
pub const NAMES: [&str; 24] = [
    "honest",
    "work",
    "overclaim",
    "zeros",
    "stale",
    "noise",
    "sign-flip",
    "scale-up",
    "scale-down",
    "copy-same",
    "copy-earlier",
    "copy-changed",
    "other-data",
    "test-data",
    "late",
    "missing",
    "withheld",
    "wrong-root",
    "malformed",
    "sleeper",
    "poisoner",
    "sybils",
    "sybil-copies",
    "coalition",
];

/// Share of a copied payload's values that are changed.
const CHANGED: f64 = 0.1;

/// `count` miners of the strategy that `name` says, as one class of that name. Sybils and coalitions know each other.
///
/// # Errors
/// [`ArenaError::UnknownStrategy`].
pub fn contenders(name: &str, count: usize) -> Result<Vec<Contender>, ArenaError> {
    let crew: Vec<Box<dyn Strategy>> = match name {
        "sybil-copies" => SybilCopy::crew(count, CHANGED).into_iter().map(boxed).collect(),
        "coalition" => Member::coalition(count).into_iter().map(boxed).collect(),
        _ => (0..count).map(|_| single(name, count)).collect::<Result<_, _>>()?,
    };
    Ok(crew.into_iter().map(|strategy| Contender { class: name.into(), strategy }).collect())
}

fn single(name: &str, count: usize) -> Result<Box<dyn Strategy>, ArenaError> {
    let unknown = || ArenaError::UnknownStrategy(name.into());
    let (kind, number) = name.split_once(':').map_or((name, None), |(kind, number)| (kind, Some(number)));
    let number: Option<f64> = number.map(|n| n.parse().map_err(|_| unknown())).transpose()?;
    Ok(match (kind, number) {
        ("work", share) if share.is_none_or(|share| share > 0.0 && share <= 1.0) => {
            boxed(Work { share: share.unwrap_or(0.5), claims_all: false })
        }
        ("sleeper", rounds) if rounds.is_none_or(|rounds| (0.0..1e9).contains(&rounds)) => {
            boxed(Sleeper { honest: rounds.unwrap_or(10.0) as u64 })
        }
        ("honest", None) => boxed(Honest),
        ("overclaim", None) => boxed(Work { share: 0.5, claims_all: true }),
        ("zeros", None) => boxed(Zeros),
        ("stale", None) => boxed(Stale::default()),
        ("noise", None) => boxed(Noise),
        ("sign-flip", None) => boxed(Scaled { factor: -1.0 }),
        ("scale-up", None) => boxed(Scaled { factor: 10.0 }),
        ("scale-down", None) => boxed(Scaled { factor: 0.1 }),
        ("copy-same", None) => boxed(CopySame),
        ("copy-earlier", None) => boxed(CopyEarlier { changed: 0.0 }),
        ("copy-changed", share) if share.is_none_or(|share| share > 0.0 && share <= 1.0) => {
            boxed(CopyEarlier { changed: share.unwrap_or(CHANGED) })
        }
        ("other-data", None) => boxed(OtherData::default()),
        ("test-data", None) => boxed(TestData),
        ("late", None) => boxed(Late),
        ("missing", None) => boxed(Missing),
        ("withheld", None) => boxed(Withheld),
        ("wrong-root", None) => boxed(WrongRoot::default()),
        ("malformed", None) => boxed(Malformed),
        ("poisoner", None) => boxed(Poisoner::default()),
        ("sybils", None) => boxed(Sybil { members: count as u64 }),
        _ => return Err(unknown()),
    })
}

fn boxed(strategy: impl Strategy + 'static) -> Box<dyn Strategy> {
    Box::new(strategy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_name_gives_as_many_as_asked_for_and_others_are_refused() {
        for name in NAMES {
            let crew = contenders(name, 3).unwrap();
            assert_eq!(crew.iter().map(|c| c.class.as_str()).collect::<Vec<_>>(), [name; 3]);
        }
        assert!(contenders("work:0.25", 1).unwrap()[0].strategy.name().contains("0.25"));
        assert!(contenders("sleeper:7", 1).unwrap()[0].strategy.name().contains('7'));
        assert!(contenders("copy-changed:0.4", 1).unwrap()[0].strategy.name().contains("0.4"));
        for wrong in ["lazy", "copy-changed:2", "work:half", "work:5", "work:nan", "sleeper:-1", "honest:2", ""] {
            assert!(matches!(contenders(wrong, 1), Err(ArenaError::UnknownStrategy(_))), "{wrong}");
        }
    }
}
