//! Faults to come upon a store's requests, read from a file and drawn by seed, so that a failure can be run again.

mod store;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use glob::Pattern;
use protocol::Digest;
use serde::Deserialize;
use tokio::time::Instant;

pub(crate) use store::Faulty;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// The answer takes longer, by `seconds` and up to `jitter` more. Long ones are stalls and time-outs.
    Delay {
        /// At least so much longer.
        seconds: f64,
        /// And up to so much more.
        #[serde(default)]
        jitter: f64,
    },
    /// No answer ever comes.
    Hang,
    /// Bytes come and go this slowly.
    Bandwidth {
        /// Bytes per second of this request.
        bytes_per_second: f64,
    },
    /// The store answers with 429 or a 5xx. If it says when to come back, every earlier request for the object meets the same.
    Status {
        /// 429, or 500 to 599.
        code: u16,
        /// Seconds until the store wants to be asked again.
        #[serde(default)]
        retry_after: f64,
    },
    /// The connection is reset before the store hears of the request.
    Reset,
    /// The store does what was asked, and the connection is reset before it says so.
    AnswerLost,
    /// The connection is reset in the middle of the body; of what was written, the store keeps nothing.
    Cut,
    /// The store keeps the first half of what was written, and the connection is reset.
    PartialWrite,
    /// The request reaches the store twice, and the second answer comes back.
    Duplicate,
    /// Objects do not show up in lists until they have been there for so long.
    StaleList {
        /// Since this process first met them.
        seconds: f64,
    },
    /// Objects are not found until they have been there for so long.
    StaleRead {
        /// Since this process first met them.
        seconds: f64,
    },
    /// One bit of the body is wrong.
    Corrupt,
    /// There is no such bucket.
    Gone,
    /// The credentials are not accepted, or no longer.
    Denied,
    /// The disk, or the quota, is full.
    Full,
    /// The store's clock is off.
    Skew {
        /// By so many seconds.
        seconds: i64,
    },
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// An object or its size is read.
    Get,
    /// An object or a part of one is written.
    Put,
    /// Objects are listed.
    List,
    /// An object is deleted.
    Delete,
}

/// A fault, and which requests it comes upon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    fault: Fault,
    /// The share of requests.
    #[serde(default = "Rule::always")]
    share: f64,
    /// Which of the requests of one kind for one object, counted from 1; all if empty.
    #[serde(default)]
    requests: Vec<u64>,
    /// Which kinds; all if empty.
    #[serde(default)]
    operations: Vec<Operation>,
    /// Addresses, with `*` for anything.
    #[serde(default = "Rule::anywhere")]
    at: String,
    /// In seconds since the process read the file.
    #[serde(default)]
    from: f64,
    #[serde(default = "Rule::for_ever")]
    until: f64,
}

impl Rule {
    fn always() -> f64 {
        1.0
    }
    fn anywhere() -> String {
        "*".into()
    }
    fn for_ever() -> f64 {
        f64::INFINITY
    }

    fn problem(&self) -> Option<String> {
        let length = |seconds: f64| Duration::try_from_secs_f64(seconds).is_ok();
        match self.fault {
            _ if !(0.0..=1.0).contains(&self.share) => Some(format!("share = {} is not between 0 and 1", self.share)),
            _ if !length(self.from) || self.until.is_nan() => Some("from and until must be seconds from 0 on".into()),
            Fault::Delay { seconds, jitter } if !length(seconds) || !length(jitter) || !length(seconds + jitter) => {
                Some("a delay must have seconds from 0 on".into())
            }
            Fault::StaleList { seconds } | Fault::StaleRead { seconds } if !length(seconds) => {
                Some("what is stale must have seconds from 0 on".into())
            }
            Fault::Skew { seconds } if seconds.unsigned_abs() > 1 << 30 => Some("a clock may be off by 2^30 seconds at most".into()),
            Fault::Bandwidth { bytes_per_second } if bytes_per_second.is_nan() || bytes_per_second < 1.0 => {
                Some("bytes_per_second must be at least 1".into())
            }
            Fault::Status { code, .. } if code != 429 && !(500..600).contains(&code) => {
                Some(format!("{code} is neither 429 nor 500 to 599"))
            }
            Fault::Status { retry_after, .. } if !length(retry_after) => Some("retry_after must be seconds from 0 on".into()),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    rule: Vec<Rule>,
}

/// Why a file of faults is refused.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// It is not in the format.
    #[error(transparent)]
    Format(#[from] toml::de::Error),
    /// A rule cannot be kept.
    #[error("rule {number}: {problem}")]
    Rule {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// Faults that come upon requests, by rules and a seed: the same requests for the same objects suffer the same, in whatever order different
/// objects are asked for. Clones share their memory of requests.
///
/// ```toml
/// seed = 7
/// [[rule]]                                  # all that apply come upon a request, in this order
/// fault = { kind = "status", code = 503 }   # see [`Fault`]
/// share = 0.1                               # of the requests; by default all
/// at = "*/rounds/*"                         # objects' addresses; by default all
/// operations = ["get", "put"]               # of get, put, list, delete; by default all
/// requests = [1, 2]                         # of one kind for one object; by default all
/// from = 30                                 # seconds after the start, and until when
/// until = 60
/// ```
#[derive(Clone, Debug)]
pub struct Faults(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    seed: u64,
    rules: Vec<(Rule, Pattern)>,
    started: Instant,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// How many requests there were.
    requests: HashMap<(Operation, String), u64>,
    /// When objects were first met.
    met: HashMap<String, Instant>,
    /// Until when an object is not to be asked for.
    busy: HashMap<String, Instant>,
}

impl Faults {
    /// Reads a file's text. The clock for `from` and `until` starts now.
    ///
    /// # Errors
    /// [`FaultsError`] says which rule is wrong.
    pub fn parse(text: &str) -> Result<Self, FaultsError> {
        let file: File = toml::from_str(text)?;
        let checked = |(index, rule): (usize, Rule)| {
            let refuse = |problem: String| FaultsError::Rule { number: index + 1, problem };
            let pattern = Pattern::new(&rule.at).map_err(|e| refuse(format!("at: {e}")))?;
            rule.problem().map_or(Ok((rule, pattern)), |problem| Err(refuse(problem)))
        };
        let rules = file.rule.into_iter().enumerate().map(checked).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Shared { seed: file.seed, rules, started: Instant::now(), memory: Mutex::default() })))
    }

    /// The same rules drawn with another seed, so that nodes that share a file do not all meet the same.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        let Shared { rules, started, .. } = &*self.0;
        Self(Arc::new(Shared { seed, rules: rules.clone(), started: *started, memory: Mutex::default() }))
    }

    /// The faults of the next request of this kind for the object at `address`, in the order of the rules.
    fn draw(&self, operation: Operation, address: &str) -> Vec<Fault> {
        let Shared { seed, rules, started, memory } = &*self.0;
        let number = {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            let number = memory.requests.entry((operation, address.to_owned())).or_default();
            *number += 1;
            *number
        };
        let now = started.elapsed().as_secs_f64();
        let meets = |(index, (rule, pattern)): &(usize, &(Rule, Pattern))| {
            (rule.from..rule.until).contains(&now)
                && (rule.operations.is_empty() || rule.operations.contains(&operation))
                && (rule.requests.is_empty() || rule.requests.contains(&number))
                && pattern.matches(address)
                && lot(*seed, *index, operation, address, number) < rule.share
        };
        let drawn = |(index, (rule, _)): (usize, &(Rule, Pattern))| match rule.fault {
            // another lot than that by which it was drawn
            Fault::Delay { seconds, jitter } => {
                Fault::Delay { seconds: seconds + jitter * lot(!*seed, index, operation, address, number), jitter: 0.0 }
            }
            fault => fault,
        };
        rules.iter().enumerate().filter(meets).map(drawn).collect()
    }

    /// How long the object has been there, as far as this process knows.
    fn age(&self, address: &str) -> Duration {
        let mut memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.met.entry(address.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    /// Whether the store still refuses requests for the object.
    fn is_busy(&self, address: &str) -> bool {
        let memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.busy.get(address).is_some_and(|until| Instant::now() < *until)
    }

    /// Lets the store refuse requests for the object for so many seconds.
    fn keep_busy(&self, address: &str, seconds: f64) {
        let mut memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.busy.insert(address.to_owned(), Instant::now() + Duration::from_secs_f64(seconds));
    }
}

/// A number from 0 to 1 that follows from the seed, the rule and the request.
fn lot(seed: u64, rule: usize, operation: Operation, address: &str, number: u64) -> f64 {
    let digest = Digest::of(format!("{seed} {rule} {operation:?} {number} {address}").as_bytes());
    let first = digest.0.iter().take(8).fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    first as f64 / u64::MAX as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn drawn(faults: &Faults, address: &str, requests: usize) -> Vec<Vec<Fault>> {
        (0..requests).map(|_| faults.draw(Operation::Get, address)).collect()
    }

    #[tokio::test]
    async fn the_same_seed_draws_the_same_whatever_else_is_asked_for() {
        let text = "seed = 3\n[[rule]]\nfault = { kind = 'reset' }\nshare = 0.3";
        let (one, other) = (Faults::parse(text).unwrap(), Faults::parse(text).unwrap());
        drawn(&other, "s3://b/else", 17);
        let a = drawn(&one, "s3://b/x", 1000);
        assert_eq!(a, drawn(&other, "s3://b/x", 1000));
        let hit = a.iter().filter(|faults| !faults.is_empty()).count();
        assert!((250..350).contains(&hit), "{hit} of 1000 at a share of 0.3");
        let third = drawn(&other.with_seed(4), "s3://b/x", 1000);
        assert!(a != third && third == drawn(&one.with_seed(4), "s3://b/x", 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn rules_say_which_requests_and_when() {
        let faults = Faults::parse(
            "[[rule]]\nfault = { kind = 'hang' }\nat = '*/rounds/*'\noperations = ['get']\nrequests = [2]\n\
             [[rule]]\nfault = { kind = 'gone' }\nat = 's3://b*'\nfrom = 10\nuntil = 20",
        )
        .unwrap();
        assert_eq!(drawn(&faults, "s3://b/rounds/1/key", 3), [vec![], vec![Fault::Hang], vec![]]);
        assert_eq!(faults.draw(Operation::Put, "s3://b/rounds/1/put"), []);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(drawn(&faults, "s3://b/data/x", 3), vec![vec![Fault::Gone]; 3]);
        assert_eq!(drawn(&faults, "s3://c/data/x", 2), [vec![], vec![]]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(drawn(&faults, "s3://b/data/x", 1), [vec![]]);
    }

    #[test]
    fn a_rule_that_cannot_be_kept_is_named() {
        for (rule, word) in [
            ("fault = { kind = 'reset' }\nshare = 1.5", "share"),
            ("fault = { kind = 'reset' }\nshare = nan", "share"),
            ("fault = { kind = 'reset' }\nfrom = -1", "from"),
            ("fault = { kind = 'reset' }\nat = '***'", "at:"),
            ("fault = { kind = 'delay', seconds = -1 }", "delay"),
            ("fault = { kind = 'delay', seconds = 1e300 }", "delay"),
            ("fault = { kind = 'stale-list', seconds = -1 }", "stale"),
            ("fault = { kind = 'bandwidth', bytes_per_second = 0 }", "bytes_per_second"),
            ("fault = { kind = 'status', code = 404 }", "404"),
            ("fault = { kind = 'status', code = 503, retry_after = -1 }", "retry_after"),
        ] {
            let error = Faults::parse(&format!("[[rule]]\nfault = {{ kind = 'full' }}\n[[rule]]\n{rule}")).unwrap_err().to_string();
            assert!(error.contains("rule 2") && error.contains(word), "{error}");
        }
        for text in ["[[rule]]", "[[rule]]\nfault = { kind = 'bad' }", "[[rule]]\nfault = { kind = 'skew', second = 1 }", "sed = 1"] {
            assert!(matches!(Faults::parse(text), Err(FaultsError::Format(_))), "{text}");
        }
    }
}
