//! Which processes live, told by process id and start time, so that a reused id is not mistaken.

use std::fs;
use std::io;

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks from boot to start.
    pub(super) started: u64,
}

impl Process {
    /// This process.
    pub(super) fn current() -> io::Result<Self> {
        let pid = std::process::id();
        let stat = fs::read_to_string("/proc/self/stat")?;
        let started = start_time(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in it"))?;
        Ok(Self { pid, started })
    }

    /// Whether it still runs; a killed process that its parent has not collected does not.
    pub(super) fn is_alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| start_time(&stat) == Some(self.started))
    }
}

/// Field 22 of `/proc/PID/stat`; `None` for a zombie or what cannot be parsed.
fn start_time(stat: &str) -> Option<u64> {
    // field 2, the name in parentheses, may itself contain spaces and parentheses
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    #[test]
    fn this_process_lives_and_an_earlier_bearer_of_its_id_does_not() {
        let process = Process::current().unwrap();
        assert!(process.is_alive());
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
    }

    #[test]
    fn a_killed_child_is_dead_even_before_it_is_collected() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let process = Process { pid: child.id(), started: start_time(&stat).unwrap() };
        assert!(process.is_alive());
        child.kill().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn odd_names_do_not_shift_the_fields() {
        let rest = (4..=21).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_time(&format!("7 (a) b (c) S {rest} 777 23")), Some(777));
        assert_eq!(start_time(&format!("7 (a) Z {rest} 777 23")), None);
        assert_eq!(start_time("7 (a) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }
}
