//! Ranks that are threads of one process and meet in its memory: several ranks on the CPU.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tch::{TchError, Tensor};

use crate::ModelError;
use crate::collective::{Collective, Pending};

/// Where the ranks meet.
struct Meeting {
    size: usize,
    state: Mutex<State>,
    /// Something was handed over, or a rank gave up.
    news: Condvar,
}

#[derive(Default)]
struct State {
    /// Exchanges that some rank has not taken yet, oldest first.
    open: VecDeque<Exchange>,
    /// Number of the oldest.
    first: u64,
    /// The rank that gave up, and why.
    lost: Option<(usize, String)>,
}

/// What ranks have handed over to one exchange.
struct Exchange {
    parts: Vec<Option<Tensor>>,
    taken: usize,
}

/// A rank's seat at the meeting. Sums go in the order of the ranks, so that they do not depend on who comes first.
pub(crate) struct Threads {
    meeting: Arc<Meeting>,
    rank: usize,
    /// Number of the next exchange.
    next: Cell<u64>,
}

impl Threads {
    /// Seats for `size` ranks.
    pub(crate) fn meeting(size: usize) -> Vec<Self> {
        let meeting = Arc::new(Meeting { size, state: Mutex::default(), news: Condvar::new() });
        (0..size).map(|rank| Self { meeting: meeting.clone(), rank, next: Cell::new(0) }).collect()
    }

    /// Hands a part over; `combine` makes of everybody's, in the ranks' order, what this rank wants.
    fn exchange(
        &self,
        part: Tensor,
        combine: impl FnOnce(&[Tensor]) -> Result<Tensor, TchError> + 'static,
    ) -> Result<Pending<'_>, ModelError> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.meeting.hand_over(number, self.rank, part)?;
        Ok(Pending::new(move || combine(&self.meeting.take(number)?).map_err(ModelError::torch)))
    }
}

impl Meeting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&self, number: u64, rank: usize, part: Tensor) -> Result<(), ModelError> {
        let mut state = self.state();
        state.check()?;
        let index = (number - state.first) as usize;
        while state.open.len() <= index {
            state.open.push_back(Exchange { parts: (0..self.size).map(|_| None).collect(), taken: 0 });
        }
        state.open[index].parts[rank] = Some(part);
        self.news.notify_all();
        Ok(())
    }

    /// Everybody's parts, once they are all there.
    fn take(&self, number: u64) -> Result<Vec<Tensor>, ModelError> {
        let mut state = self.state();
        loop {
            state.check()?;
            let index = (number - state.first) as usize;
            let exchange = &mut state.open[index];
            let parts: Vec<Tensor> = exchange.parts.iter().flatten().map(Tensor::shallow_clone).collect();
            if parts.len() == self.size {
                exchange.taken += 1;
                while state.open.front().is_some_and(|oldest| oldest.taken == self.size) {
                    state.open.pop_front();
                    state.first += 1;
                }
                return Ok(parts);
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn check(&self) -> Result<(), ModelError> {
        match &self.lost {
            Some((rank, reason)) => Err(ModelError::RankLost { rank: *rank, reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn all_gather(&self, share: Tensor) -> Result<Pending<'_>, ModelError> {
        self.exchange(share, |shares| Tensor::f_cat(shares, 0))
    }

    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending<'_>, ModelError> {
        let (rank, size) = (self.rank as i64, self.meeting.size as i64);
        self.exchange(whole, move |wholes| {
            let share = wholes[0].size()[0] / size;
            sum(wholes.iter().map(|whole| whole.f_narrow(0, rank * share, share)))
        })
    }

    fn all_reduce(&self, values: Tensor) -> Result<Tensor, ModelError> {
        self.exchange(values, |all| sum(all.iter().map(|values| Ok(values.shallow_clone()))))?.finish()
    }

    fn check(&self) -> Result<(), ModelError> {
        self.meeting.state().check()
    }

    fn abort(&self, reason: &str) {
        self.meeting.state().lost.get_or_insert((self.rank, reason.to_owned()));
        self.meeting.news.notify_all();
    }
}

/// The sum of at least one tensor, from the first on.
fn sum(mut terms: impl Iterator<Item = Result<Tensor, TchError>>) -> Result<Tensor, TchError> {
    let first = terms.next().ok_or_else(|| TchError::Shape("a sum of nothing".to_owned()))??;
    terms.try_fold(first, |sum, term| sum.f_add(&term?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::collective::Alone;

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        tensor.to_kind(tch::Kind::Double).try_into().unwrap()
    }

    /// What every collective must do; `ranks` are all of one group.
    fn exchanges(ranks: Vec<impl Collective>) {
        let size = ranks.len();
        let work = |collective: &dyn Collective| {
            let rank = collective.rank();
            assert_eq!(collective.size(), size);
            for round in 0..20 {
                let own = |i: usize| (100 * round + 10 * rank + i) as f32;
                // one is still on its way when the next one starts
                let gathering = collective.all_gather(Tensor::from_slice(&[own(0), own(1)])).unwrap();
                let whole: Vec<f32> = (0..2 * size).map(own).collect();
                let adding = collective.reduce_scatter(Tensor::from_slice(&whole)).unwrap();
                let others = (0..size).flat_map(|rank| [0, 1].map(|i| (100 * round + 10 * rank + i) as f64));
                assert_eq!(numbers(&gathering.finish().unwrap()), others.collect::<Vec<_>>());
                let total = |i: usize| (0..size).map(|rank| (100 * round + 10 * rank + i) as f64).sum::<f64>();
                assert_eq!(numbers(&adding.finish().unwrap()), [total(2 * rank), total(2 * rank + 1)]);
                assert_eq!(numbers(&collective.all_reduce(Tensor::from_slice(&[f64::from(own(7))])).unwrap()), [total(7)]);
            }
        };
        std::thread::scope(|scope| ranks.into_iter().for_each(|rank| _ = scope.spawn(move || work(&rank))));
    }

    #[test]
    fn exchanges_are_what_they_say() {
        exchanges(vec![Alone]);
        (1..5).for_each(|size| exchanges(Threads::meeting(size)));
    }

    #[test]
    fn whoever_gives_up_ends_everything() {
        let ranks = Threads::meeting(3);
        let expected = ModelError::RankLost { rank: 2, reason: "no memory".into() };
        let value = || Tensor::from_slice(&[1.0]);
        std::thread::scope(|scope| {
            let mut ranks = ranks.into_iter();
            let waiting: Vec<_> = ranks.by_ref().take(2).map(|rank| scope.spawn(move || rank.all_reduce(value()).map(drop))).collect();
            let last = ranks.next().unwrap();
            assert_eq!(last.check(), Ok(()));
            last.abort("no memory");
            assert_eq!(last.check().unwrap_err(), expected);
            assert_eq!(last.all_reduce(value()).unwrap_err(), expected);
            waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Err(expected.clone())));
        });
    }
}
