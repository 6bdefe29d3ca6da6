//! What a demo leaves: a verified checkpoint, a loss curve, a table, a sample, a summary.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use chain::{Earnings, Neuron, RAO_PER_TAO};
use checkpoints::{Replica, write_snapshot};
use dataset::{Dataset, Split};
use model::{Device, Llama};
use plotters::prelude::*;
use storage::{Access, Bucket};

use super::{
    screen::bytes_in_words,
    setup::{Lab, Node, Role},
    store,
    story::{Story, mean},
};
use crate::{
    cli::{LinkArgs, RunArgs},
    context, verify,
};

/// Sequences of the final held-out measurement.
const FINAL_SEQUENCES: u64 = 512;
const PROMPT: &str = "The compiler ";
const SAMPLE_TOKENS: usize = 400;

/// All there is to say about a demo.
struct Report<'a> {
    lab: &'a Lab,
    story: &'a Story,
    /// The replayed state.
    replica: Replica,
    /// Its held-out bits per byte.
    held_out: f64,
    neurons: Vec<Neuron>,
    earnings: Earnings,
    /// By uid, the share of the validators' weights on the chain.
    weights: BTreeMap<u16, f64>,
    /// What the model writes.
    sample: String,
    checkpoint: PathBuf,
}

/// Replays the log, writes everything and prints the summary.
pub async fn finish(lab: &Lab, story: &Story, json: bool) -> Result<()> {
    eprintln!("verifying: replaying {} rounds from genesis", story.next_round());
    let run =
        context::open_run(&RunArgs { run: lab.run.clone(), chain: Some(lab.chain.clone()), lab: true, link: LinkArgs::default() }, None)
            .await?;
    let replica = verify::replay(run.clone(), Some(story.next_round()), |_| {}).await?;
    compare_roots(story, &replica)?;
    let checkpoint = write_checkpoint(lab, &replica).await?;
    let dataset = Dataset::open(&lab.dir.join("data"), &lab.dir.join("cache"))?;
    let mut model = Llama::new(&run.manifest.model, Device::Cpu)?;
    model.load(replica.state.model())?;
    let held_out = held_out(&model, &dataset, run.manifest.model.sequence_length)?;
    let sample = sample(&model, &dataset)?;
    fs::write(lab.dir.join("sample.txt"), &sample)?;
    write_csv(lab, story)?;
    draw(lab, story).map_err(|e| anyhow!("drawing the loss curve: {e}"))?;
    let (neurons, weights, earnings) = read_chain(lab).await?;
    let report = Report { lab, story, replica, held_out, neurons, earnings, weights, sample, checkpoint };
    let summary = report.summary();
    fs::write(lab.dir.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?;
    if json {
        say!("{summary}");
    } else {
        report.print();
    }
    Ok(())
}

/// The replayed root of the last round must be the one that the processes agreed on.
fn compare_roots(story: &Story, replica: &Replica) -> Result<()> {
    let last = story.next_round().checked_sub(1).and_then(|r| story.rounds.get(&r)).and_then(|r| r.root);
    match last {
        Some(root) if root != replica.root => bail!("replay ends at root {}, the network at {root}", replica.root),
        _ => Ok(()),
    }
}

async fn write_checkpoint(lab: &Lab, replica: &Replica) -> Result<PathBuf> {
    let folder = lab.dir.join("checkpoint");
    let bucket = Bucket::open(&context::url_of(&folder.display().to_string())?, Access::Own)?;
    let owner = chain::Wallet::open(&lab.wallets(), lab.wallet())?.hotkey("owner", None)?;
    write_snapshot(&bucket, &replica.state, replica.run.id, &replica.anchor, &owner, 1 << 30).await?;
    Ok(folder)
}

/// Bits per byte on evenly spread held-out sequences.
fn held_out(model: &Llama, dataset: &Dataset, length: usize) -> Result<f64> {
    let windows = dataset.windows(Split::HeldOut, length);
    let count = windows.min(FINAL_SEQUENCES);
    let mut nats = 0.0;
    for chunk in (0..count).collect::<Vec<_>>().chunks(16) {
        let batch = chunk.iter().map(|i| dataset.window(Split::HeldOut, i * windows / count, length));
        nats += model.sequence_losses(&batch.collect::<Result<Vec<_>, _>>()?)?.iter().sum::<f64>();
    }
    let bytes = count as f64 * length as f64 * dataset.bytes_per_token(Split::HeldOut);
    Ok(nats / std::f64::consts::LN_2 / bytes)
}

fn sample(model: &Llama, dataset: &Dataset) -> Result<String> {
    let tokenizer = dataset.tokenizer()?;
    let written = model.generate(&tokenizer.encode(PROMPT)?, SAMPLE_TOKENS, 0.7, 1, Some(tokenizer.end_of_text()))?;
    Ok(format!("{PROMPT}{}", tokenizer.decode(&written)?))
}

fn bits(nats: f64, lab: &Lab) -> f64 {
    nats / std::f64::consts::LN_2 / lab.bytes_per_token
}

fn write_csv(lab: &Lab, story: &Story) -> Result<()> {
    let mut csv = "round,seconds,tokens,train_bits_per_byte,held_out_bits_per_byte,applied,left_out,root\n".to_owned();
    let uids = |list: &[u16]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    for (round, r) in &story.rounds {
        let Some(root) = r.root else { continue };
        let train = if r.train.is_empty() { String::new() } else { format!("{:.6}", bits(mean(&r.train), lab)) };
        let held_out = r.held_out.map(|b| format!("{b:.6}")).unwrap_or_default();
        let (applied, left_out) = (uids(&r.applied), uids(&r.left_out));
        csv += &format!("{round},{:.3},{},{train},{held_out},{applied},{left_out},{root}\n", r.seconds, r.tokens);
    }
    let path = lab.dir.join("loss.csv");
    fs::write(&path, csv).with_context(|| path.display().to_string())
}

fn draw(lab: &Lab, story: &Story) -> Result<(), Box<dyn std::error::Error>> {
    let path = lab.dir.join("loss.svg");
    let root = SVGBackend::new(&path, (800, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let train: Vec<(f64, f64)> =
        story.rounds.iter().filter(|(_, r)| !r.train.is_empty()).map(|(n, r)| (*n as f64 + 1.0, bits(mean(&r.train), lab))).collect();
    let start = story.start.map(|b| (0.0, b));
    let held_out: Vec<(f64, f64)> =
        start.into_iter().chain(story.rounds.iter().filter_map(|(n, r)| Some((*n as f64 + 1.0, r.held_out?)))).collect();
    let rounds = story.next_round().max(1) as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("Loss by round", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..rounds, 1.5..8.2)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("round").y_desc("bits per byte").draw()?;
    let (blue, orange) = (RGBColor(31, 119, 180), RGBColor(255, 127, 14));
    let legend = |color: RGBColor| move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2));
    chart.draw_series(LineSeries::new(train, blue.stroke_width(2)))?.label("training (mean of the honest miners)").legend(legend(blue));
    chart.draw_series(LineSeries::new(held_out, orange.stroke_width(2)))?.label("held out").legend(legend(orange));
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

/// What the chain has at the end: neurons, and each uid's mean share of the validators' rows of weights.
async fn read_chain(lab: &Lab) -> Result<(Vec<Neuron>, BTreeMap<u16, f64>, Earnings)> {
    let chain = context::open_chain(&lab.chain, None).await?;
    let netuid = lab.netuid;
    let neurons = chain.neurons(netuid, chain.head().await?.number).await?;
    let mut rows = Vec::new();
    for node in lab.nodes.iter().filter(|n| n.role == Role::Validator) {
        rows.push(chain.weights(netuid, node.uid).await?);
    }
    rows.retain(|row| !row.is_empty());
    let mut weights = BTreeMap::new();
    for row in &rows {
        let total: f64 = row.iter().map(|(_, w)| f64::from(*w)).sum();
        for (uid, weight) in row {
            *weights.entry(*uid).or_insert(0.0) += f64::from(*weight) / total / rows.len() as f64;
        }
    }
    Ok((neurons, weights, chain.subnet(netuid).await?.earnings))
}

impl Report<'_> {
    /// For other programs.
    fn summary(&self) -> serde_json::Value {
        let Self { lab, story, .. } = self;
        let cpu = story.cpu();
        let nodes: Vec<_> = lab.nodes.iter().enumerate().map(|(index, node)| self.node(index, node)).collect();
        serde_json::json!({
            "run": lab.run, "rounds": story.next_round(), "root": self.replica.root, "verified": true, "seconds": story.seconds(),
            "held_out_bits_per_byte": self.held_out, "start_bits_per_byte": story.start,
            "cpu_seconds": cpu, "training_share": cpu.train / cpu.total(), "honest_weight": self.honest_share(), "nodes": nodes,
        })
    }

    fn node(&self, index: usize, node: &Node) -> serde_json::Value {
        let (usage, neuron) = (self.story.usage(index), self.neuron(node));
        serde_json::json!({
            "name": node.name, "role": node.role, "uid": node.uid, "weight": self.weight(node), "up": usage.up, "down": usage.down,
            "incentive": neuron.map(|n| n.incentive), "dividends": neuron.map(|n| n.dividends), "emission_rao": neuron.map(|n| n.emission),
            "score": self.score(node),
        })
    }

    fn weight(&self, node: &Node) -> f64 {
        self.weights.get(&node.uid).copied().unwrap_or(0.0)
    }

    /// Share of the miners' weight on the chain that honest miners have.
    fn honest_share(&self) -> f64 {
        let sum = |wanted: fn(Role) -> bool| self.lab.nodes.iter().filter(|n| wanted(n.role)).map(|n| self.weight(n)).sum::<f64>();
        let all = sum(Role::mines);
        if all > 0.0 { sum(|role| role == Role::Miner) / all } else { 0.0 }
    }

    fn neuron(&self, node: &Node) -> Option<&Neuron> {
        self.neurons.iter().find(|n| n.uid == node.uid)
    }

    fn score(&self, node: &Node) -> Option<f64> {
        self.story.scores.iter().find(|s| s.uid == node.uid).map(|s| s.score)
    }

    /// For people.
    fn print(&self) {
        let Self { lab, story, replica, held_out, .. } = self;
        say!("\n{} of {} rounds in {:.0} s", replica.run.manifest.name, story.next_round(), story.seconds());
        say!("held-out loss   {:.3} → {held_out:.3} bits per byte", story.start.unwrap_or(8.0));
        say!("root            {} (replayed from genesis: equal)", replica.root);
        let cpu = story.cpu();
        let percent = |seconds: f64| 100.0 * seconds / cpu.total();
        say!(
            "CPU time        {:.0} s: train {:.1} %, compress {:.1} %, exchange {:.1} %, judge {:.1} %, step {:.1} %, hash {:.1} %",
            cpu.total(),
            percent(cpu.train),
            percent(cpu.compress),
            percent(cpu.exchange),
            percent(cpu.judge),
            percent(cpu.step),
            percent(cpu.hash)
        );
        say!("honest miners   {:.1} % of the miners' weight on the chain\n", 100.0 * self.honest_share());
        self.print_nodes();
        say!("\nit writes: {}\n", self.sample.replace('\n', "\n           "));
        let file = |name: &str| lab.dir.join(name).display().to_string();
        say!("checkpoint      {}", self.checkpoint.display());
        say!("loss curve      {}, {}", file("loss.svg"), file("loss.csv"));
        say!("summary, sample {}, {}", file("summary.json"), file("sample.txt"));
        say!("log of the run  {}, warnings in {}", lab.events().display(), lab.logs().display());
        let beside = lab.chain.starts_with("ledger:") && lab.s3.is_none();
        let chain = if beside { String::new() } else { format!(" --chain {} --lab", lab.chain) };
        if let Some(address) = lab.s3 {
            say!("its store       tributary store serve --dir {} --listen {address}", store::folder(&lab.dir).display());
        }
        say!("look closer     tributary status --run '{}'{chain}", lab.run);
    }

    fn print_nodes(&self) {
        say!(
            "{:<13} {:<10} {:>4} {:>8} {:>7} {:>10} {:>10} {:>13}",
            "node",
            "role",
            "uid",
            "score",
            "weight",
            "up",
            "down",
            self.earnings.title()
        );
        for (index, node) in self.lab.nodes.iter().enumerate() {
            let usage = self.story.usage(index);
            let score = self.score(node).map_or(String::new(), |score| format!("{score:.3}"));
            let weight = if node.role.mines() { format!("{:.1}%", 100.0 * self.weight(node)) } else { String::new() };
            let earned = self.neuron(node).map_or(0.0, |n| n.emission as f64 / RAO_PER_TAO as f64);
            let role = format!("{:?}", node.role).to_lowercase();
            let (up, down) = (bytes_in_words(usage.up), bytes_in_words(usage.down));
            say!("{:<13} {role:<10} {:>4} {score:>8} {weight:>7} {up:>10} {down:>10} {earned:>13.3}", node.name, node.uid);
        }
    }
}
