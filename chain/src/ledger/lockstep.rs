//! Lockstep: the next block appears when every live participant waits for it.
//!
//! A participant is a row: its name, its process, the instance that joined, and the block that it waits to see exceeded. It waits while that
//! block is not below the head, so an advance ends all waiting by itself. Whoever begins to wait, and whoever sees the file change or time pass
//! while waiting, checks in one write transaction whether nobody is left to wait for, so no wake-up can be lost and no block be made twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::config::Blocks;
use super::db::{Db, Tx, U64};
use super::error::{Fault, LedgerError};
use super::lock;
use super::process::Process;
use crate::{Block, ChainError};

/// Time between two looks at the file while waiting.
const POLL: Duration = Duration::from_millis(8);
/// Looks without a change of the file after which the others' lives are checked again.
const POLLS_PER_CHECK: u32 = 20;

/// What this instance joined as.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    name: String,
    instance: u64,
}

/// A row of participants.
struct Participant {
    process: Process,
    /// False while a supervisor only expects it; the process is then the supervisor's.
    joined: bool,
    waiting: Option<u64>,
}

impl Participant {
    fn waits(&self, head: u64) -> bool {
        self.joined && self.waiting.is_some_and(|after| after >= head)
    }
}

impl Tx<'_> {
    fn participants(&self) -> Result<Vec<Participant>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT pid, started, joined, waiting FROM participant")?;
        let rows = statement.query_map([], |row| {
            let process = Process { pid: row.get(0)?, started: row.get::<_, U64>(1)?.0 };
            Ok(Participant { process, joined: row.get(2)?, waiting: row.get::<_, Option<U64>>(3)?.map(|after| after.0) })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The live process behind a name, if it joined.
    fn holder(&self, name: &str) -> Result<Option<Process>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT pid, started FROM participant WHERE name = ?1 AND joined")?;
        let process = statement
            .query_row([name], |row| Ok(Process { pid: row.get(0)?, started: row.get::<_, U64>(1)?.0 }))
            .optional()?
            .filter(Process::is_alive);
        Ok(process)
    }

    fn seat(&self, name: &str, process: Process, instance: u64, joined: bool) -> Result<(), Fault> {
        self.conn.execute(
            "INSERT OR REPLACE INTO participant (name, pid, started, instance, joined, waiting) VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
            params![name, process.pid, U64(process.started), U64(instance), joined],
        )?;
        Ok(())
    }

    fn set_waiting(&self, seat: &Seat, after: Option<u64>) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached("UPDATE participant SET waiting = ?1 WHERE name = ?2 AND instance = ?3")?;
        statement.execute(params![after.map(U64), seat.name, U64(seat.instance)])?;
        Ok(())
    }

    /// Whether somebody waits for the next block and nobody alive does anything else.
    fn is_ready(&self) -> Result<bool, Fault> {
        let (waiting, busy): (Vec<_>, Vec<_>) = self.participants()?.into_iter().partition(|p| p.waits(self.head.number));
        Ok(!busy.iter().any(|p| p.process.is_alive()) && waiting.iter().any(|p| p.process.is_alive()))
    }

    fn advance_if_ready(&mut self) -> Result<(), Fault> {
        if self.is_ready()? { self.produce_until(self.next()) } else { Ok(()) }
    }
}

impl Db {
    /// Takes part as `name` from now on; gives up what this instance joined before.
    pub(super) fn join(&mut self, name: &str) -> Result<(), ChainError> {
        static INSTANCES: AtomicU64 = AtomicU64::new(1);
        let process = Process::current().map_err(LedgerError::Process)?;
        self.leave()?;
        let seat = Seat { name: name.to_owned(), instance: INSTANCES.fetch_add(1, Ordering::Relaxed) };
        self.write(|tx| {
            if let Some(Process { pid, .. }) = tx.holder(name)? {
                return Err(LedgerError::NameTaken { name: name.to_owned(), pid }.into());
            }
            tx.seat(name, process, seat.instance, true)
        })?;
        self.seat = Some(seat);
        self.publish_waiting()
    }

    /// Stops taking part.
    pub(super) fn leave(&mut self) -> Result<(), ChainError> {
        let Some(seat) = self.seat.take() else {
            return Ok(());
        };
        self.write(|tx| {
            tx.conn.execute("DELETE FROM participant WHERE name = ?1 AND instance = ?2", params![seat.name, U64(seat.instance)])?;
            Ok(())
        })
    }

    /// Lets no block appear before each name has joined or was withdrawn, as long as this process lives.
    pub(super) fn expect(&mut self, names: &[&str]) -> Result<(), ChainError> {
        let process = Process::current().map_err(LedgerError::Process)?;
        self.write(|tx| {
            for name in names {
                if tx.holder(name)?.is_none() {
                    tx.seat(name, process, 0, false)?;
                }
            }
            Ok(())
        })
    }

    /// Stops waiting for `name`, whether it joined or is only expected.
    pub(super) fn withdraw(&mut self, name: &str) -> Result<(), ChainError> {
        self.write(|tx| {
            tx.conn.execute("DELETE FROM participant WHERE name = ?1", [name])?;
            Ok(())
        })
    }

    /// The farthest block that a live `next_block` of this instance wants to see exceeded.
    fn waits_for(&mut self) -> Option<u64> {
        self.waiting.retain(|(call, _)| call.strong_count() > 0);
        self.waiting.iter().map(|&(_, after)| after).max()
    }

    fn publish_waiting(&mut self) -> Result<(), ChainError> {
        let after = self.waits_for();
        let Some(seat) = self.seat.clone() else {
            return Ok(());
        };
        self.write(|tx| {
            tx.set_waiting(&seat, after)?;
            tx.advance_if_ready()
        })
    }

    /// One look at the chain on behalf of a `next_block` call.
    pub(super) fn poll(&mut self, after: u64, call: &Weak<()>, seen: &mut Seen) -> Result<Look, ChainError> {
        if self.config.blocks == Blocks::Lockstep || self.config.blocks == Blocks::Manual {
            let version = self.version()?;
            if !seen.is_outdated(version) {
                return Ok(Look::Again(POLL));
            }
        }
        let mut head = self.head()?;
        if head.number <= after && self.config.blocks == Blocks::Lockstep && self.seat.is_some() {
            self.wait_in_lockstep(after, call)?;
            head = self.head()?;
        }
        if head.number <= after {
            return Ok(Look::Again(self.config.until_next(&head).unwrap_or(POLL)));
        }
        // the participant's row needs no change: whatever it waits for is passed
        self.waiting.retain(|(other, _)| !other.ptr_eq(call));
        Ok(Look::Found(head))
    }

    fn head(&mut self) -> Result<Block, ChainError> {
        self.read(|tx| Ok(tx.head))
    }

    /// Counts `call` as waiting, and makes the next block if nobody else is left to wait for.
    fn wait_in_lockstep(&mut self, after: u64, call: &Weak<()>) -> Result<(), ChainError> {
        if !self.waiting.iter().any(|(other, _)| other.ptr_eq(call)) {
            self.waiting.push((call.clone(), after));
            return self.publish_waiting();
        }
        if self.read(|tx| tx.is_ready())? { self.write(|tx| tx.advance_if_ready()) } else { Ok(()) }
    }
}

/// What a look at the chain gave.
pub(super) enum Look {
    /// The head, which the caller waited for.
    Found(Block),
    /// Nothing new: look again after this time.
    Again(Duration),
}

/// What a `next_block` call saw when it last looked closely.
#[derive(Debug, Default)]
pub(super) struct Seen {
    version: Option<(i64, u64)>,
    polls: u32,
}

impl Seen {
    fn is_outdated(&mut self, version: (i64, u64)) -> bool {
        self.polls += 1;
        if self.version == Some(version) && self.polls < POLLS_PER_CHECK {
            return false;
        }
        *self = Self { version: Some(version), polls: 0 };
        true
    }
}

/// A pending `next_block`; dropped before its time, it takes back that its instance waits.
pub(super) struct Waiting {
    db: Arc<Mutex<Db>>,
    alive: Option<Arc<()>>,
}

impl Waiting {
    pub(super) fn new(db: &Arc<Mutex<Db>>) -> Self {
        Self { db: db.clone(), alive: Some(Arc::new(())) }
    }

    pub(super) fn call(&self) -> Weak<()> {
        self.alive.as_ref().map_or_else(Weak::new, Arc::downgrade)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // first, so that a poll that still runs, or runs later, no longer counts this call
        self.alive = None;
        let mut db = lock(&self.db);
        if db.waiting.iter().any(|(call, _)| call.strong_count() == 0)
            && let Err(error) = db.publish_waiting()
        {
            tracing::warn!(%error, "the ledger may count this process as waiting until it waits again");
        }
    }
}
