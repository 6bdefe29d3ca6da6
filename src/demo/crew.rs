//! The demo's processes: start, listen, stop.

use std::{fs::File, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use chain::Ledger;
use checkpoints::Event;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

use super::{
    setup::{Lab, Node, Role},
    store,
    story::Story,
};
use crate::signals;

/// What the processes have to say.
pub enum News {
    /// A node's event.
    Event(usize, Event),
    /// A node ended by itself.
    Gone(usize, String),
    /// No honest miner, or no validator, is left.
    AllGone(String),
}

/// The running processes.
pub struct Crew {
    roles: Vec<Role>,
    names: Vec<String>,
    children: Vec<Option<Child>>,
    logs: PathBuf,
    lines: mpsc::Receiver<(usize, Option<Event>)>,
    /// The ledger, if that is the chain: its blocks wait for every process.
    ledger: Option<Ledger>,
    hotkeys: Vec<String>,
}

impl Crew {
    /// Starts every node. Blocks flow once all of them take part.
    pub async fn start(lab: &Lab) -> Result<Self> {
        let ledger = lab.ledger()?;
        let hotkeys: Vec<String> = lab.nodes.iter().map(|n| n.hotkey.clone()).collect();
        if let Some(ledger) = &ledger {
            ledger.expect(&hotkeys.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let (sender, lines) = mpsc::channel(1024);
        let mut children = Vec::new();
        for (index, node) in lab.nodes.iter().enumerate() {
            let mut child = spawn(lab, node).with_context(|| format!("starting {}", node.name))?;
            let stdout = child.stdout.take().context("a child without standard output")?;
            tokio::spawn(listen(index, BufReader::new(stdout), sender.clone()));
            children.push(Some(child));
        }
        let roles = lab.nodes.iter().map(|n| n.role).collect();
        let names = lab.nodes.iter().map(|n| n.name.clone()).collect();
        Ok(Self { roles, names, children, logs: lab.logs(), lines, ledger, hotkeys })
    }

    /// The next thing that anyone says. Safe to cancel.
    pub async fn next(&mut self) -> News {
        match self.lines.recv().await {
            Some((node, Some(event))) => News::Event(node, event),
            Some((node, None)) => self.gone(node),
            None => News::AllGone("every process has ended".into()),
        }
    }

    fn gone(&mut self, node: usize) -> News {
        self.children[node] = None;
        // the others need not wait for it any longer
        if let Some(ledger) = &self.ledger {
            let _ = ledger.withdraw(&self.hotkeys[node]);
        }
        let path = self.logs.join(format!("{}.log", self.names[node]));
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        let why = log.lines().last().map_or_else(|| format!("{} is empty; is the disk full?", path.display()), str::to_owned);
        let left = |wanted: fn(Role) -> bool| self.roles.iter().zip(&self.children).any(|(r, c)| wanted(*r) && c.is_some());
        if !left(|r| r == Role::Miner) || !left(|r| r == Role::Validator) {
            return News::AllGone(format!("{} ended ({why}), and nobody is left to do its work", self.names[node]));
        }
        News::Gone(node, why)
    }

    /// Asks every process to stop and waits, while `story` hears their last words; kills what is left after `patience`.
    pub async fn stop(&mut self, patience: Duration, story: &mut Story) {
        for child in self.children.iter().flatten() {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                signals::terminate(pid);
            }
        }
        let listen = async {
            while let Some((node, event)) = self.lines.recv().await {
                match event {
                    // a log that cannot be written is no reason to leave processes behind
                    Some(event) => drop(story.hear(node, &event)),
                    None => self.children[node] = None,
                }
                if self.children.iter().all(Option::is_none) {
                    break;
                }
            }
        };
        let _ = timeout(patience, listen).await;
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill().await;
        }
    }
}

fn spawn(lab: &Lab, node: &Node) -> Result<Child> {
    let log = lab.logs().join(format!("{}.log", node.name));
    let log = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(std::env::current_exe()?);
    let role = match node.role {
        Role::Miner | Role::Cheat => "mine",
        Role::Validator => "validate",
        Role::Aggregator => "aggregate",
    };
    command.arg(role).arg("--json").args(["--run", &lab.run, "--wallet", lab.wallet(), "--hotkey", &node.name]);
    command.arg("--wallet-path").arg(lab.wallets()).arg("--home").arg(lab.home(node));
    // all buckets are this demo's own
    command.args(["--chain", &lab.chain, "--lab"]);
    if let Some(address) = lab.s3 {
        command.args(["--bucket", &store::url(address, &node.name)]);
        store::sign_as(&mut command, &lab.dir, &node.name)?;
    }
    if let Some(faults) = &lab.faults {
        command.arg("--faults").arg(faults).args(["--fault-seed", &node.uid.to_string()]);
    }
    match node.role {
        Role::Cheat => {
            command.args(["--device", "cpu", "--strategy", "noise"]);
        }
        Role::Miner | Role::Validator => {
            command.args(["--device", "cpu"]);
        }
        Role::Aggregator => {}
    }
    // one thread each: several processes share the cores, and spinning thread pools would fight over them
    command.env("OMP_NUM_THREADS", "1").env("RAYON_NUM_THREADS", "1");
    // the main thread: a demo that is killed leaves nothing running
    signals::end_with_this_thread(command.as_std_mut());
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn()?)
}

async fn listen(node: usize, stdout: BufReader<tokio::process::ChildStdout>, sender: mpsc::Sender<(usize, Option<Event>)>) {
    let mut lines = stdout.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(event) = serde_json::from_str(&line)
            && sender.send((node, Some(event))).await.is_err()
        {
            return;
        }
    }
    let _ = sender.send((node, None)).await;
}
