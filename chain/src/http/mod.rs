//! The ledger over HTTP and JSON, so that the machines of a lab share one. Writes are calls signed by their hotkey or coldkey; reads are
//! public.

mod client;
mod server;
mod wire;

pub use client::HttpLedger;
pub use server::serve;
