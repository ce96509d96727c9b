//! Choosing samples: the split of every sample, and a seeded order without duplicates.
//!
//! The split is decided by hashes of skill, version, problem and phrasing, and *not* of the level or the seed: a
//! question that two levels share is on the same side in both. About [`HELD_OUT_PERCENT`] of the problems are held
//! out: no phrasing of them is ever trained. Of all other samples about [`EVAL_PERCENT`] are for evaluation.

use super::phrasing::{self, NUM_PHRASINGS};
use super::problem::Problem;
use super::{DOMAIN, Level, NAME, VERSION, steps};
use crate::chance::below;
use crate::{Batch, GenerateRequest, Message, Sample, Split};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::HashMap;

/// Share of the samples of ordinary problems that is for evaluation.
const EVAL_PERCENT: u64 = 20;
/// Share of the problems of which no phrasing is trained.
const HELD_OUT_PERCENT: u64 = 4;

/// Makes a batch; the request's level is `level` and its count is within bounds.
pub(super) fn batch(level: &Level, request: &GenerateRequest) -> Batch {
    let mut rng = DOMAIN.batch_rng(request);
    let mut samples = Vec::with_capacity(request.count);
    let mut distinct = 0;
    while samples.len() < request.count {
        let mut cycle = Cycle::new(level, request.split);
        while samples.len() < request.count
            && let Some(choice) = cycle.next(&mut rng)
        {
            samples.push(sample(request, &choice));
        }
        assert!(!samples.is_empty(), "every level has samples in both splits");
        distinct = distinct.max(cycle.num_drawn);
    }
    Batch {
        skill: NAME.to_string(),
        version: VERSION.to_string(),
        level: request.level,
        split: request.split,
        seed: request.seed,
        distinct,
        repeated: distinct < samples.len(),
        samples,
    }
}

/// A problem in one phrasing.
pub(super) struct Choice {
    pub(super) problem: Problem,
    pub(super) phrasing: u64,
}

/// Where a sample belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Train,
    Eval,
    /// For evaluation because its problem is held out. `natural` ones are as frequent among their problem's samples as
    /// evaluation samples are among those of other problems.
    HeldOut {
        natural: bool,
    },
}

impl Place {
    fn split(self) -> Split {
        if self == Place::Train { Split::Train } else { Split::Eval }
    }
}

pub(super) fn place(choice: &Choice) -> Place {
    let problem = choice.problem.text();
    let natural = DOMAIN.hash(&format!("{problem}/{}", choice.phrasing)) % 100 < EVAL_PERCENT;
    match DOMAIN.hash(&problem) % 100 < HELD_OUT_PERCENT {
        true => Place::HeldOut { natural },
        false if natural => Place::Eval,
        false => Place::Train,
    }
}

/// True when no phrasing of the problem is for training.
pub(super) fn is_unseen(problem: &Problem) -> bool {
    (0..NUM_PHRASINGS).all(|phrasing| place(&Choice { problem: *problem, phrasing }).split() == Split::Eval)
}

/// Every sample of a level's split once, in a random order that gives each operation its turn equally often until
/// it has no more. Surplus phrasings of held-out problems come last, so that a batch keeps the share of problems.
struct Cycle<'a> {
    level: &'a Level,
    split: Split,
    shuffles: Vec<(super::Operation, Shuffle)>,
    surplus: Vec<Choice>,
    num_drawn: usize,
}

impl Cycle<'_> {
    fn new(level: &Level, split: Split) -> Cycle<'_> {
        let shuffle = |operation| Shuffle::new(level.range.num_problems(operation) * NUM_PHRASINGS);
        let shuffles = level.operations.iter().map(|&operation| (operation, shuffle(operation))).collect();
        Cycle { level, split, shuffles, surplus: Vec::new(), num_drawn: 0 }
    }

    fn next(&mut self, rng: &mut ChaCha8Rng) -> Option<Choice> {
        let choice = self.next_natural(rng).or_else(|| self.surplus.pop())?;
        self.num_drawn += 1;
        Some(choice)
    }

    fn next_natural(&mut self, rng: &mut ChaCha8Rng) -> Option<Choice> {
        while !self.shuffles.is_empty() {
            let turn = below(rng, self.shuffles.len() as u64) as usize;
            let (operation, shuffle) = &mut self.shuffles[turn];
            let operation = *operation;
            loop {
                let Some(index) = shuffle.next(rng) else {
                    self.shuffles.remove(turn);
                    break;
                };
                let problem = self.level.range.problem(operation, index / NUM_PHRASINGS);
                let choice = Choice { problem, phrasing: index % NUM_PHRASINGS };
                match place(&choice) {
                    place if place.split() != self.split => {}
                    Place::HeldOut { natural: false } => self.surplus.push(choice),
                    _ => return Some(choice),
                }
            }
        }
        None
    }
}

/// The numbers below `len` in random order, made as they are asked for (Fisher and Yates, keeping only moved ones).
struct Shuffle {
    len: u64,
    next: u64,
    moved: HashMap<u64, u64>,
}

impl Shuffle {
    fn new(len: u64) -> Shuffle {
        Shuffle { len, next: 0, moved: HashMap::new() }
    }

    fn next(&mut self, rng: &mut ChaCha8Rng) -> Option<u64> {
        if self.next == self.len {
            return None;
        }
        let here = self.next;
        let there = here + below(rng, self.len - here);
        self.next += 1;
        let value_here = self.moved.remove(&here).unwrap_or(here);
        if there == here {
            return Some(value_here);
        }
        Some(self.moved.insert(there, value_here).unwrap_or(there))
    }
}

fn sample(request: &GenerateRequest, choice: &Choice) -> Sample {
    let Choice { problem, phrasing } = choice;
    let (text, answer) = (problem.text(), problem.answer());
    let id = format!("{NAME}-{}-{:016x}", request.level, DOMAIN.hash(&format!("{text}/{phrasing}/id")));
    let mut metadata = json!({
        "id": id,
        "skill": NAME,
        "version": VERSION,
        "level": request.level,
        "split": request.split,
        "operation": problem.operation.name(),
        "operands": problem.operands(),
        "problem": text,
        "phrasing": phrasing,
        "answer": answer,
    });
    if request.split == Split::Eval && is_unseen(problem) {
        metadata["unseen_problem"] = true.into();
    }
    let mut content = format!("{text} = {answer}");
    if request.steps {
        metadata["steps"] = true.into();
        content = format!("{}\n{content}", steps::worked(problem));
    }
    let user = Message { role: "user".to_string(), content: phrasing::question(problem, *phrasing) };
    let assistant = Message { role: "assistant".to_string(), content };
    Sample { id, messages: vec![user, assistant], metadata }
}
