//! Whom it hits: every process, browser and server once in each round, in an order made of the seed.

use std::fmt;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Options;

/// What is killed; processes and their browsers are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    Coordinator(usize),
    Worker(usize),
    /// A worker's.
    Browser(usize),
    Broker,
    Database,
}

/// Victims in the order of their turns.
#[derive(Debug)]
pub(super) struct Deck {
    all: Vec<Victim>,
    left: Vec<Victim>,
    random: StdRng,
}

impl Victim {
    /// The kind, for counting.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Coordinator(_) => "coordinator",
            Self::Worker(_) => "worker",
            Self::Browser(_) => "browser",
            Self::Broker => "broker",
            Self::Database => "database",
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(number) | Self::Worker(number) => write!(f, "{} {number}", self.kind()),
            Self::Browser(number) => write!(f, "the browser of worker {number}"),
            Self::Broker | Self::Database => write!(f, "the {}", self.kind()),
        }
    }
}

impl Deck {
    pub(super) fn new(options: &Options) -> Self {
        let coordinators = (1..=options.coordinators).map(Victim::Coordinator);
        let workers =
            (1..=options.workers).flat_map(|number| [Victim::Worker(number), Victim::Browser(number)]);
        let all = coordinators.chain(workers).chain([Victim::Broker, Victim::Database]).collect();
        Self { all, left: Vec::new(), random: StdRng::seed_from_u64(options.seed) }
    }

    /// The next victim that can be hit. One that cannot keeps its turn.
    pub(super) fn draw<T>(&mut self, mut hit: impl FnMut(Victim) -> Option<T>) -> Option<(Victim, T)> {
        let mut place = 0;
        loop {
            if place == self.left.len() {
                if self.left.len() >= 2 * self.all.len() {
                    return None;
                }
                let mut round = self.all.clone();
                round.shuffle(&mut self.random);
                self.left.extend(round);
            }
            if let Some(done) = hit(self.left[place]) {
                return Some((self.left.remove(place), done));
            }
            place += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    fn deck(seed: u64) -> Deck {
        Deck::new(&Options {
            program: "crawlify".into(),
            storm: Duration::ZERO,
            every: Duration::ZERO,
            seed,
            site: None,
            workflow: Value::Null,
            coordinators: 2,
            workers: 3,
            slots: 1,
            at_once: 1,
        })
    }

    fn round(deck: &mut Deck) -> Vec<Victim> {
        (0..10).map(|_| deck.draw(|_| Some(())).unwrap().0).collect()
    }

    #[test]
    fn every_victim_has_its_turn_in_a_round_and_the_seed_makes_the_order() {
        let mut one = deck(1);
        let (first, second) = (round(&mut one), round(&mut one));
        assert!(first.iter().all(|victim| second.contains(victim)) && first != second);
        assert_eq!(round(&mut deck(1)), first);
        assert_ne!(round(&mut deck(2)), first);
    }

    #[test]
    fn one_that_cannot_be_hit_keeps_its_turn() {
        let order = round(&mut deck(1));
        let mut deck = deck(1);
        let (victim, ()) = deck.draw(|victim| (victim != order[0]).then_some(())).unwrap();
        assert_eq!(victim, order[1]);
        assert_eq!(deck.draw(|_| Some(())).unwrap().0, order[0]);
        assert_eq!(deck.draw(|_| None::<()>), None);
    }
}
