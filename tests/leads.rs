//! Validators that lead badly: with most of the stake, in a network whose other nodes are honest processes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::collections::BTreeSet;

use chain::Chain as _;
use checkpoints::{Event, Progress, Replica, Step, Stopwatch};
use common::{
    CONFIG, Net, block_on,
    lead::{Lead, Turn, measured},
    tributary,
};
use protocol::{
    Announcement, Countersign, Digest, Hotkey, ObjectKey, Record, Refusal, Signed, Vote,
    score::{MinerScore, Outcome},
};

/// Two miners, the lead that the test plays, with 60 % of the stake, and `others` honest validators that share the rest.
fn network(others: usize) -> (Net, Lead) {
    with_stakes(&[vec![6000], vec![4000 / others as u64; others]].concat())
}

/// Two miners, the lead that the test plays, with the first of `stakes`, and an honest validator for each of the others.
fn with_stakes(stakes: &[u64]) -> (Net, Lead) {
    let mut net = Net::with_stakes(CONFIG, 2, 0, stakes);
    let lead = Lead::new(&net, "validator-1");
    let honest = honest(&net);
    net.start(&honest.iter().map(String::as_str).collect::<Vec<_>>());
    (net, lead)
}

fn honest(net: &Net) -> Vec<String> {
    net.roles.keys().filter(|name| *name != "validator-1").cloned().collect()
}

fn uids(step: &Step) -> Vec<u16> {
    step.record.value.applied.iter().map(|a| a.uid).collect()
}

/// After the lead is gone, the others go on for two rounds with both miners' work, and all come to the roots that the lead saw.
fn conclude(net: &mut Net, lead: &Lead) {
    let (next, names) = (lead.replica.anchor.round, honest(net));
    for name in &names {
        net.wait_round(name, next + 1);
    }
    net.stop_all();
    net.assert_equal_roots(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let roots = net.roots("validator-2");
    for step in &lead.steps {
        assert_eq!(roots[&step.record.value.round], step.record.value.root);
    }
    let both = ["miner-1", "miner-2"].map(|name| net.roles[name].uid).to_vec();
    let applied = net.applied("validator-2");
    assert!(applied.range(next - 1..).any(|(_, uids)| *uids == both), "{applied:?}");
}

/// Who said something of this kind about a round.
fn sayers(lead: &Lead, step: &Step, kind: impl Fn(&Announcement) -> Option<u64>) -> BTreeSet<Hotkey> {
    let round = Some(step.record.value.round);
    lead.said().into_iter().filter(|(_, said)| kind(said) == round).map(|(hotkey, _)| hotkey).collect()
}

fn seal_list(said: &Announcement) -> Option<u64> {
    if let Announcement::SealList { round, .. } = said { Some(*round) } else { None }
}

fn record(said: &Announcement) -> Option<u64> {
    if let Announcement::Record { round, .. } = said { Some(*round) } else { None }
}

fn withheld(said: &Announcement) -> Option<u64> {
    if let Announcement::Vote { round, vote: Vote::Withheld, .. } = said { Some(*round) } else { None }
}

#[test]
fn a_lead_that_comes_after_its_span_is_not_heard() {
    let (mut net, mut lead) = network(1);
    lead.play(&mut net, async |lead, turn| match turn {
        Turn::Close(log) => {
            lead.before(log.plan.close_due() + log.plan.times.span + 1).await;
            // not even with a list that nobody could object to
            lead.close_with(lead.list(&log).await).await;
        }
        Turn::Record(log, close) => {
            lead.before(log.plan.record_due(close.block) + log.plan.times.span + 1).await;
            lead.record_with(&log, &close, lead.sheet(&log, &close)).await;
        }
    });
    let (me, other) = (lead.hotkey(), net.hotkey("validator-2"));
    for step in lead.led() {
        assert_eq!((step.close.list.signer, step.record.signer), (other, other));
        assert_eq!(sayers(&lead, step, seal_list), BTreeSet::from([me, other]), "two seal lists");
        assert_eq!(sayers(&lead, step, record), BTreeSet::from([me, other]), "two records");
    }
    conclude(&mut net, &lead);
}

#[test]
fn when_a_lead_is_silent_the_next_in_rank_closes_and_records() {
    let (mut net, mut lead) = network(1);
    lead.play(&mut net, async |_, _| ());
    for step in lead.led() {
        let other = net.hotkey("validator-2");
        assert_eq!((step.close.list.signer, step.record.signer), (other, other));
        assert_eq!(sayers(&lead, step, withheld), BTreeSet::new(), "nothing was announced that could be withheld");
    }
    conclude(&mut net, &lead);
}

#[test]
fn when_a_lead_closes_and_never_records_the_next_in_rank_does() {
    let (mut net, mut lead) = network(1);
    lead.play(&mut net, async |lead, turn| {
        if let Turn::Close(log) = turn {
            lead.close_with(lead.list(&log).await).await;
        }
    });
    for step in lead.led() {
        assert_eq!((step.close.list.signer, step.record.signer), (lead.hotkey(), net.hotkey("validator-2")));
        assert!(!uids(step).is_empty(), "the work of the round counts");
    }
    conclude(&mut net, &lead);
}

#[test]
fn of_two_records_that_a_lead_signs_the_first_committed_stands_for_everybody() {
    let (mut net, mut lead) = network(1);
    let (mut firsts, mut seconds): (Vec<Digest>, Vec<Digest>) = Default::default();
    lead.play(&mut net, async |lead, turn| match turn {
        Turn::Close(log) => lead.close_with(lead.list(&log).await).await,
        Turn::Record(log, close) => {
            let round = lead.replica.anchor.round;
            let mut other = lead.sheet(&log, &close);
            other.entries[0].outcome = Outcome::Refused(Refusal::NotRevealed);
            let sheets = [lead.sheet(&log, &close), lead.scored(other)].map(|sheet| lead.sign(sheet));
            let [first, second] =
                [lead.record(&log, &close, &sheets[0]).await, lead.record(&log, &close, &sheets[1]).await].map(|record| lead.sign(record));
            assert_ne!(first.value.root, second.value.root);
            lead.announce_record(first.digest()).await;
            lead.announce_record(second.digest()).await;
            // everybody is shown the second one for a block, and waits
            lead.put(ObjectKey::ScoreSheet(round), &sheets[1]).await;
            lead.put(ObjectKey::Record(round), &second).await;
            lead.next_block().await;
            lead.next_block().await;
            lead.put(ObjectKey::ScoreSheet(round), &sheets[0]).await;
            lead.put(ObjectKey::Record(round), &first).await;
            firsts.push(first.digest());
            seconds.push(second.digest());
        }
    });
    let stood: Vec<Digest> = lead.led().into_iter().map(|step| step.record.digest()).collect();
    assert_eq!(stood, firsts);
    let said = |digest: &Digest| lead.said().iter().any(|(_, said)| matches!(said, Announcement::Record { digest: d, .. } if d == digest));
    assert!(seconds.iter().all(said), "the second ones were committed too");
    conclude(&mut net, &lead);
}

#[test]
fn of_two_records_that_a_lead_signs_the_second_stands_if_the_first_is_void() {
    let (mut net, mut lead) = with_stakes(&[5000, 5000]);
    let mut seconds = Vec::new();
    lead.play(&mut net, async |lead, turn| match turn {
        Turn::Close(log) => lead.close_with(lead.list(&log).await).await,
        Turn::Record(log, close) => {
            let round = lead.replica.anchor.round;
            let sheet = lead.sign(lead.sheet(&log, &close));
            let right = lead.record(&log, &close, &sheet).await;
            let wrong = lead.sign(Record { root: Digest::of(b"no state"), ..right.clone() });
            let right = lead.sign(right);
            lead.announce_record(wrong.digest()).await;
            lead.announce_record(right.digest()).await;
            lead.put(ObjectKey::ScoreSheet(round), &sheet).await;
            lead.put(ObjectKey::Record(round), &wrong).await;
            lead.next_block().await;
            assert!(matches!(lead.look().await, Progress::Awaiting(_, missing, _) if missing.digest == right.digest()));
            // once all have found the first one void, its place is the second's
            lead.next_block().await;
            lead.put(ObjectKey::Record(round), &right).await;
            seconds.push(right.digest());
        }
    });
    let stood: Vec<Digest> = lead.led().into_iter().map(|step| step.record.digest()).collect();
    assert_eq!(stood, seconds);
    for step in lead.led() {
        assert_eq!(sayers(&lead, step, withheld), BTreeSet::new(), "the first was passed over for its facts, not by a vote");
    }
    conclude(&mut net, &lead);
}

#[test]
fn a_lead_that_takes_back_what_it_committed_does_not_make_the_log_unreadable() {
    let (mut net, mut lead) = with_stakes(&[5000, 5000]);
    let mut voids = 0;
    lead.play(&mut net, async |lead, turn| match turn {
        Turn::Close(log) => lead.close_with(lead.list(&log).await).await,
        Turn::Record(log, close) => {
            let sheet = lead.sheet(&log, &close);
            let signed = lead.sign(sheet.clone());
            let wrong = lead.sign(Record { root: Digest::of(b"no state"), ..lead.record(&log, &close, &signed).await });
            lead.put(ObjectKey::ScoreSheet(sheet.round), &signed).await;
            lead.put(ObjectKey::Record(sheet.round), &wrong).await;
            lead.announce_record(wrong.digest()).await;
            lead.next_block().await;
            lead.next_block().await;
            // all have found it void; whoever comes later finds another one in its place
            lead.record_with(&log, &close, sheet).await;
            voids += 1;
        }
    });
    assert!(voids > 0);
    std::fs::remove_dir_all(net.bucket("validator-1").join("rounds")).unwrap();
    conclude(&mut net, &lead);
    let verify = || tributary().args(["verify", "--json", "--run", &net.run]).output().unwrap();
    let (verified, (_, root)) = (verify(), net.roots("validator-2").pop_last().unwrap());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(String::from_utf8_lossy(&verified.stdout).contains(&root.to_string()));
    // only the copies hold it together
    let record = lead.led().into_iter().map(|step| &step.record).find(|record| record.signer == lead.hotkey()).expect("its second stood");
    let copy = ObjectKey::Record(record.value.round).copy(record.digest()).to_string();
    let removed = honest(&net).iter().filter(|name| std::fs::remove_file(net.bucket(name).join(&copy)).is_ok()).count();
    assert_eq!(removed, 2, "one validator and the aggregator keep copies");
    let complaint = String::from_utf8_lossy(&verify().stderr).into_owned();
    assert!(complaint.contains(&format!("record {} of {} cannot be had", record.digest(), lead.hotkey())), "{complaint}");
}

#[test]
fn when_a_lead_withholds_its_seal_list_the_others_vote_and_the_next_in_rank_goes_on() {
    let (mut net, mut lead) = network(2);
    lead.play(&mut net, async |lead, turn| {
        if let Turn::Close(_) = turn {
            let (run, round) = (lead.run.id, lead.replica.anchor.round);
            lead.announce(Announcement::SealList { run, round, digest: Digest::of(b"nobody ever sees this") }).await;
        }
    });
    let me = lead.hotkey();
    for step in lead.led() {
        assert!(step.close.list.signer != me && step.record.signer != me);
        assert!(sayers(&lead, step, seal_list).contains(&me), "it did commit one");
        let voters = sayers(&lead, step, withheld);
        assert!(!voters.is_empty() && !voters.contains(&me), "{voters:?}");
        assert!(!uids(step).is_empty(), "the work of the round counts");
    }
    conclude(&mut net, &lead);
}

/// What validator-2 dissents from in a round, by uid, as it told and as it published about the record that stands.
fn dissents(net: &Net, step: &Step) -> Vec<(u16, String)> {
    let number = step.record.value.round;
    let of_round =
        |event| if let Event::Dissent { round, uid, reason } = event { (round == number).then_some((uid, reason)) } else { None };
    let told: Vec<_> = net.events("validator-2").into_iter().filter_map(of_round).collect();
    let bytes = std::fs::read(net.bucket("validator-2").join(ObjectKey::Countersign(number, step.record.digest()).to_string())).unwrap();
    let published = Signed::<Countersign>::parse(&bytes).unwrap();
    assert_eq!((published.signer, published.value.record), (net.hotkey("validator-2"), step.record.digest()));
    assert_eq!(published.value.dissents.into_iter().map(|d| (d.uid, d.reason)).collect::<Vec<_>>(), told);
    told
}

#[test]
fn a_miner_that_a_lead_leaves_off_its_seal_list_is_applied_again_and_the_omission_is_public() {
    let (mut net, mut lead) = network(1);
    let victim = net.roles["miner-1"].uid;
    let listed = |step: &Step| step.close.list.value.entries.iter().any(|e| e.uid == victim);
    let omissions = |lead: &Lead| lead.led().into_iter().filter(|step| !listed(step)).count();
    lead.play_until(
        &mut net,
        |lead| omissions(lead) >= 2,
        async |lead, turn| match turn {
            Turn::Close(log) => {
                let mut list = lead.list(&log).await;
                // whoever was never listed is a stranger to all
                let known = lead.replica.anchor.standing.of(victim).is_some();
                list.entries.retain(|e| e.uid != victim || !known);
                lead.close_with(list).await;
            }
            Turn::Record(log, close) => lead.record_with(&log, &close, lead.sheet(&log, &close)).await,
        },
    );
    conclude(&mut net, &lead);
    for step in lead.led().into_iter().filter(|step| !listed(step)) {
        assert_eq!((step.record.signer, uids(step)), (lead.hotkey(), vec![net.roles["miner-2"].uid]));
        let dissents = dissents(&net, step);
        assert!(dissents.iter().any(|(uid, reason)| *uid == victim && reason.contains("left off")), "{dissents:?}");
    }
}

/// A miner's scores in validator-2's own books after a round.
fn own_score(net: &Net, number: u64, uid: u16) -> MinerScore {
    let of_round = |event| if let Event::Scores { round, scores } = event { (round == number).then_some(scores) } else { None };
    let scores = net.events("validator-2").into_iter().find_map(of_round).expect("scores of the round");
    scores.into_iter().find(|score| score.uid == uid).unwrap()
}

#[test]
fn a_sheet_that_lies_about_a_miner_stands_and_is_contradicted_and_the_miner_is_paid_by_the_honest() {
    let (mut net, mut lead) = network(1);
    let victim = net.roles["miner-1"].uid;
    lead.play(&mut net, async |lead, turn| match turn {
        Turn::Close(log) => lead.close_with(lead.list(&log).await).await,
        Turn::Record(log, close) => {
            lead.record_with(&log, &close, slander(lead, &log, &close, victim)).await;
        }
    });
    conclude(&mut net, &lead);
    for step in lead.led() {
        assert_eq!((step.record.signer, uids(step)), (lead.hotkey(), vec![net.roles["miner-2"].uid]), "testimony stands");
        let dissents = dissents(&net, step);
        assert!(dissents.iter().any(|(uid, reason)| *uid == victim && reason.contains("gain")), "{dissents:?}");
        let (own, sheet) = (own_score(&net, step.record.value.round, victim), step.sheet.value.standing.of(victim).unwrap());
        assert_eq!((own.negative & 1, sheet.negative & 1), (0, 1), "it harmed by the sheet, and did not by its own books");
        assert!(own.score > 0.0, "{own:?}");
    }
    let weights = block_on(net.ledger.weights(1, net.roles["validator-2"].uid));
    assert!(weights.iter().any(|(uid, weight)| *uid == victim && *weight > 0), "{weights:?}");
}

/// The sheet by which nothing of `victim` is any good.
fn slander(lead: &Lead, log: &checkpoints::RoundLog, close: &checkpoints::Close, victim: u16) -> protocol::score::ScoreSheet {
    let mut sheet = lead.sheet(log, close);
    let entry = sheet.entries.iter_mut().find(|e| e.uid == victim).unwrap();
    entry.outcome = measured(-0.5, -0.5, entry.outcome.work().unwrap());
    lead.scored(sheet)
}

#[test]
fn a_lie_that_most_stake_contradicts_changes_nothing_and_the_next_in_rank_records() {
    let (mut net, mut lead) = with_stakes(&[4000, 3000, 3000]);
    let victim = net.roles["miner-1"].uid;
    lead.play(&mut net, async |lead, turn| match turn {
        Turn::Close(log) => lead.close_with(lead.list(&log).await).await,
        Turn::Record(log, close) => lead.record_with(&log, &close, slander(lead, &log, &close, victim)).await,
    });
    let others = BTreeSet::from(["validator-2", "validator-3"].map(|name| net.hotkey(name)));
    for step in lead.led() {
        assert!(step.close.list.signer == lead.hotkey() && others.contains(&step.record.signer));
        let contradicts = |said: &Announcement| {
            if let Announcement::Vote { round, vote: Vote::Contradicts, .. } = said { Some(*round) } else { None }
        };
        assert_eq!(sayers(&lead, step, contradicts), others);
        let gain = step.sheet.value.entries.iter().find(|e| e.uid == victim).unwrap().outcome.gain();
        assert!(gain.is_some_and(|gain| gain > -0.5), "{gain:?} was measured, not made up");
    }
    conclude(&mut net, &lead);
}

#[test]
fn a_validator_that_contradicts_every_record_holds_up_nobody() {
    let (mut net, mut lead) = with_stakes(&[4000, 3000, 3000]);
    lead.opinion = Vote::Contradicts;
    // it leads silently, and slanders others' records
    lead.play(&mut net, async |_, _| ());
    let me = lead.hotkey();
    let honest: Vec<&Step> = lead.steps.iter().map(std::convert::AsRef::as_ref).filter(|step| common::first(step) != me).collect();
    assert!(!honest.is_empty());
    for step in honest {
        assert_eq!(step.record.signer, common::first(step), "the first in rank was not passed over");
        let votes: Vec<(Hotkey, Vote)> = (lead.said().into_iter())
            .filter_map(|(by, said)| match said {
                Announcement::Vote { digest, vote, .. } if digest == step.record.digest() => Some((by, vote)),
                _ => None,
            })
            .collect();
        assert!(votes.iter().any(|(by, vote)| *by != me && *vote == Vote::Agrees), "{votes:?}");
    }
    // and at once: the next block has the votes of the others
    let (honest, mut replica) = (net.hotkey("validator-2"), Replica::genesis(lead.run.clone()).unwrap());
    while let Progress::Stepped(step) = common::runtime().block_on(replica.advance(lead.head, &mut Stopwatch::default())).unwrap() {
        if step.record.signer == honest {
            assert!(replica.anchor.since <= replica.anchor.record_block + 2, "{:?}", replica.anchor);
        }
    }
    conclude(&mut net, &lead);
}
