//! The file: opening, creating, and transactions on it.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use protocol::Digest;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::config::LedgerConfig;
use super::error::{Fault, LedgerError};
use super::lockstep::Seat;
use crate::{Block, ChainError};

/// The format of the file, kept in SQLite's `user_version`.
pub(super) const FORMAT: i32 = 2;
/// "TRIB", kept in SQLite's `application_id`.
const APPLICATION: i32 = 0x5452_4942;
/// How long another process may hold the file's write lock.
const BUSY: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
    CREATE TABLE config (json TEXT NOT NULL) STRICT;
    CREATE TABLE block (number INTEGER PRIMARY KEY, hash BLOB NOT NULL, time_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE call (
        block INTEGER NOT NULL, idx INTEGER NOT NULL, kind TEXT NOT NULL, signer BLOB, body BLOB NOT NULL, signature BLOB,
        PRIMARY KEY (block, idx)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX call_by_signer ON call (kind, signer, block, idx);
    CREATE UNIQUE INDEX commitment ON call (signer, body) WHERE kind = 'commit';
    CREATE TABLE neuron (
        uid INTEGER NOT NULL, registered INTEGER NOT NULL, hotkey BLOB NOT NULL, coldkey BLOB NOT NULL,
        PRIMARY KEY (uid, registered)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX neuron_by_hotkey ON neuron (hotkey, registered);
    CREATE TABLE standing (
        uid INTEGER NOT NULL, block INTEGER NOT NULL, stake INTEGER NOT NULL, permit INTEGER NOT NULL, last_update INTEGER NOT NULL,
        incentive INTEGER NOT NULL, dividends INTEGER NOT NULL, emission INTEGER NOT NULL,
        PRIMARY KEY (uid, block)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE bonds (uid INTEGER PRIMARY KEY, row BLOB NOT NULL) STRICT;
    CREATE TABLE balance (account BLOB NOT NULL, block INTEGER NOT NULL, rao INTEGER NOT NULL, PRIMARY KEY (account, block)) STRICT, WITHOUT ROWID;
    CREATE TABLE stake (
        hotkey BLOB NOT NULL, coldkey BLOB NOT NULL, block INTEGER NOT NULL, rao INTEGER NOT NULL,
        PRIMARY KEY (hotkey, coldkey, block)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE burn (block INTEGER PRIMARY KEY, rao INTEGER NOT NULL) STRICT;
    CREATE TABLE weights_commit (id INTEGER PRIMARY KEY, hotkey BLOB NOT NULL, block INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
    CREATE INDEX weights_commit_by_hotkey ON weights_commit (hotkey, id);
    CREATE TABLE participant (
        name TEXT PRIMARY KEY, pid INTEGER NOT NULL, started INTEGER NOT NULL, instance INTEGER NOT NULL, joined INTEGER NOT NULL, waiting INTEGER
    ) STRICT;
";

/// A u64 in SQLite's signed integers; what exceeds them is stored as the largest.
pub(super) struct U64(pub u64);

impl ToSql for U64 {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(i64::try_from(self.0).unwrap_or(i64::MAX).into())
    }
}

impl FromSql for U64 {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let value = value.as_i64()?;
        u64::try_from(value).map(Self).map_err(|_| FromSqlError::OutOfRange(value))
    }
}

/// One connection to the file and what this instance knows.
#[derive(Debug)]
pub(super) struct Db {
    conn: Connection,
    pub(super) path: PathBuf,
    pub(super) config: LedgerConfig,
    pub(super) genesis: Digest,
    /// A block that the file is known to have.
    reached: u64,
    /// Write transactions of this connection, which SQLite's `data_version` does not count.
    writes: u64,
    pub(super) seat: Option<Seat>,
    /// The pending `next_block` calls of this instance: alive while their future is, and the block each wants to exceed.
    pub(super) waiting: Vec<(Weak<()>, u64)>,
}

/// A transaction's view: everything included up to `head`, and what is on its way into the block after it.
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    pub(super) config: &'a LedgerConfig,
    pub(super) genesis: Digest,
    pub(super) head: Block,
}

impl Db {
    /// Opens an existing ledger.
    pub(super) fn open(path: &Path) -> Result<Self, ChainError> {
        if !path.exists() {
            return Err(LedgerError::Missing(path.to_owned()).into());
        }
        connect(path, false).and_then(|conn| Self::load(conn, path)).map_err(|fault| fault.at(path))
    }

    /// Creates a ledger, or opens the one that was created with the same configuration.
    pub(super) fn create(path: &Path, config: &LedgerConfig) -> Result<Self, ChainError> {
        config.validate()?;
        Self::initialize(path, config).map_err(|fault| fault.at(path))
    }

    fn initialize(path: &Path, config: &LedgerConfig) -> Result<Self, Fault> {
        let json = config.to_json();
        let genesis = LedgerConfig::genesis(&json);
        let mut conn = connect(path, true)?;
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tables: u32 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables == 0 {
            tx.execute_batch(SCHEMA)?;
            tx.execute("INSERT INTO config (json) VALUES (?1)", [&json])?;
            let block = Block { number: 0, hash: genesis, time_ms: config.start_ms };
            let tx = Tx { conn: &tx, config, genesis, head: block };
            tx.insert_block(&block)?;
            tx.insert_neuron(0, config.owner, config.owner_coldkey, 0)?;
            tx.conn.pragma_update(None, "application_id", APPLICATION)?;
            tx.conn.pragma_update(None, "user_version", FORMAT)?;
        }
        tx.commit()?;
        let db = Self::load(conn, path)?;
        if db.genesis != genesis {
            return Err(LedgerError::OtherGenesis { path: path.to_owned(), found: db.genesis, expected: genesis }.into());
        }
        Ok(db)
    }

    fn load(conn: Connection, path: &Path) -> Result<Self, Fault> {
        let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        if pragma("application_id")? != APPLICATION {
            return Err(LedgerError::NotALedger(path.to_owned()).into());
        }
        let found = pragma("user_version")?;
        if found != FORMAT {
            return Err(LedgerError::Format { path: path.to_owned(), found }.into());
        }
        let json: String = conn.query_row("SELECT json FROM config", [], |row| row.get(0))?;
        let config: LedgerConfig =
            serde_json::from_str(&json).map_err(|e| Fault::Damaged(format!("its configuration cannot be read: {e}")))?;
        config.validate()?;
        let genesis = LedgerConfig::genesis(&json);
        let stored = conn.query_row("SELECT hash FROM block WHERE number = 0", [], |row| row.get(0))?;
        if Digest(stored) != genesis {
            return Err(Fault::Damaged("its first block is not that of its configuration".into()));
        }
        Ok(Self { conn, path: path.to_owned(), config, genesis, reached: 0, writes: 0, seat: None, waiting: Vec::new() })
    }

    /// Runs `f` alone on the file, after making the blocks that are due; nothing of it stays if it fails.
    pub(super) fn write<T>(&mut self, f: impl FnOnce(&mut Tx<'_>) -> Result<T, Fault>) -> Result<T, ChainError> {
        self.try_write(f).map_err(|fault| fault.at(&self.path))
    }

    fn try_write<T>(&mut self, f: impl FnOnce(&mut Tx<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let sql = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut tx = Tx { conn: &sql, config: &self.config, genesis: self.genesis, head: newest_block(&sql)? };
        tx.produce_until(self.config.wall_block())?;
        let value = f(&mut tx)?;
        let reached = tx.head.number;
        sql.commit()?;
        self.reached = reached;
        self.writes += 1;
        Ok(value)
    }

    /// Runs `f` on one consistent view of the file, after making the blocks that are due.
    pub(super) fn read<T>(&mut self, f: impl FnOnce(&Tx<'_>) -> Result<T, Fault>) -> Result<T, ChainError> {
        if self.config.wall_block() > self.reached {
            self.write(|_| Ok(()))?;
        }
        self.try_read(f).map_err(|fault| fault.at(&self.path))
    }

    fn try_read<T>(&mut self, f: impl FnOnce(&Tx<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let sql = self.conn.transaction()?;
        let head = newest_block(&sql)?;
        f(&Tx { conn: &sql, config: &self.config, genesis: self.genesis, head })
    }

    /// A pair that differs from an earlier one if anything was written in between, by anybody.
    pub(super) fn version(&self) -> Result<(i64, u64), ChainError> {
        let read = || self.conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0));
        read().map(|version| (version, self.writes)).map_err(|e| Fault::Sql(e).at(&self.path))
    }
}

fn connect(path: &Path, create: bool) -> Result<Connection, Fault> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    conn.pragma_update(None, "journal_mode", "wal")?;
    // a killed process loses nothing; a power cut may lose the newest blocks, never the file
    conn.pragma_update(None, "synchronous", "normal")?;
    Ok(conn)
}

fn newest_block(conn: &Connection) -> Result<Block, Fault> {
    let mut statement = conn.prepare_cached("SELECT number, hash, time_ms FROM block ORDER BY number DESC LIMIT 1")?;
    Ok(statement.query_row([], super::blocks::block_of)?)
}
