//! Seeded random schedules against a simulated host: files, children that crash, lie, repeat or go silent,
//! people who change their minds, and a daemon that is killed at any instant. What must hold always is checked
//! after every event; at the end faults stop, and everything must come to its proper end.
//!
//! `HONE_SEEDS` sets the number of schedules (default 1,000 with `HONE_SLOW=1`, else 30). A failure names its seed
//! and the last events.

mod checks;
mod commands;
mod curriculum;
mod host;

use super::{decide, recover};
use crate::config::{OnRegression, Retention};
use crate::curriculum::CurriculumSettings;
use crate::event::{Command, Decision, Effect, Event, WorkerExit};
use crate::ids::*;
use crate::state::*;
use host::Host;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Events of the random phase of a schedule.
const NUM_ACTIONS: usize = 400;
/// Events within which all work must come to its end once nothing fails any more.
const MAX_SETTLING: usize = 5_000;
/// How far a clock that is set jumps.
const DAY_MS: TimeMs = 86_400_000;

#[derive(Debug)]
#[expect(dead_code, reason = "read through Debug when a schedule fails")]
enum Happened {
    Event(Box<Event>),
    Effect(Effect),
    Killed,
}

struct Simulation {
    seed: u64,
    rng: ChaCha8Rng,
    settings: crate::config::Settings,
    now: TimeMs,
    /// What is committed: all that survives a kill.
    state: State,
    host: Host,
    /// Effects that were not begun. Lost by a kill.
    pending: Vec<Effect>,
    /// Answers under way, in any order. Lost by a kill.
    answers: Vec<Event>,
    /// What the child said, in order. Lost by a kill.
    said: std::collections::VecDeque<Event>,
    faults: bool,
    /// What [`Simulation::check_chain`] saw last.
    checked: std::cell::RefCell<Option<(CheckpointId, Vec<u64>)>>,
    /// Formatted only when something fails.
    last_events: Vec<Happened>,
}

#[test]
fn schedules_of_every_kind_end_well() {
    // budget: 41 s
    let default = if std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") { 1_000 } else { 30 };
    let num_seeds: u64 = std::env::var("HONE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let mut reached: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..num_seeds {
        let mut simulation = Simulation::new(seed);
        simulation.run();
        simulation.count(&mut reached);
    }
    // A simulation that never gets anywhere proves nothing.
    if num_seeds >= 100 {
        let kinds = [
            "completed",
            "skipped",
            "failed",
            "cancelled",
            "rejected",
            "duplicate",
            "deep_refused",
            "refused",
            "rewound",
            "forgotten",
            "other_lineages",
            "promoted",
            "pruned",
            "rolled_back",
            "rolled_back_by_itself",
            "level_moved",
            "shared",
            "replayed",
        ];
        for kind in kinds {
            assert!(reached.get(kind).is_some_and(|count| *count > 0), "no schedule reached {kind}: {reached:?}");
        }
    }
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let fresh = super::tests::fresh();
        // One checkpoint of ten bytes fits; each has some seconds.
        let retention = Retention { keep_ms: 20_000, max_total_bytes: 10, min_age_ms: 300, ..Retention::default() };
        let (max_checks, max_queued_jobs, min_free_bytes) = (rng.random_range(1..3), 6, 1_000);
        let curriculum = CurriculumSettings { window: 2, ..CurriculumSettings::default() };
        let on_regression = [OnRegression::Hold, OnRegression::Rewind, OnRegression::Continue][rng.random_range(0..3)];
        let watch_ms = 500 * rng.random_range(0..2);
        let (min_rows, replay_share) = ([0, 60, 150][rng.random_range(0..3)], [0.0, 0.2][rng.random_range(0..2)]);
        let settings = crate::config::Settings {
            max_checks,
            max_queued_jobs,
            min_free_bytes,
            retention,
            watch_ms,
            curriculum,
            on_regression,
            min_rows,
            replay_share,
            deep_in_background: true,
            ..fresh.settings
        };
        let mut simulation = Simulation {
            seed,
            rng,
            settings,
            now: fresh.now + 10 * DAY_MS,
            state: fresh.state,
            host: Host::new(),
            pending: Vec::new(),
            answers: Vec::new(),
            said: std::collections::VecDeque::new(),
            faults: true,
            checked: std::cell::RefCell::default(),
            last_events: Vec::new(),
        };
        simulation.restart();
        simulation
    }

    fn run(&mut self) {
        for _ in 0..NUM_ACTIONS {
            self.random_action();
            self.check_always();
        }
        self.faults = false;
        self.command(Command::Resume { reason: String::new() });
        self.happens(&Event::DiskSpace { free_bytes: u64::MAX });
        for _ in 0..MAX_SETTLING {
            if self.is_quiet() {
                return self.check_end();
            }
            self.honest_action();
            self.check_always();
        }
        self.fail("the work does not come to an end");
    }

    fn random_action(&mut self) {
        match self.rng.random_range(0..100) {
            0..6 => self.host.deposit(&mut self.rng),
            6..14 => self.scan(),
            14..30 => self.run_effect(),
            30..50 => self.deliver(),
            50..80 => self.child_acts(),
            80..90 => self.pass_time(),
            90..97 => self.random_command(),
            97 | 98 => self.kill(),
            _ => match self.rng.random_range(0..4) {
                0 => self.host.change_suites(),
                1 => self.space(),
                _ => self.measure(),
            },
        }
    }

    fn honest_action(&mut self) {
        // A person looks at what was held, and trains on.
        if let Control::Paused { .. } = self.state.control {
            return self.command(Command::Resume { reason: String::new() });
        }
        match self.rng.random_range(0..6) {
            0 => self.scan(),
            1 => self.run_effect(),
            2 | 3 => self.deliver(),
            4 => self.child_acts(),
            _ => self.pass_time(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.faults && self.rng.random_range(0..100) < percent
    }

    fn pass_time(&mut self) {
        self.now += self.rng.random_range(1..400);
        if self.chance(2) {
            // A clock that is set forward is told by the loop; here, now and then, it is not.
            match self.rng.random_range(0..4) {
                0 => self.now += DAY_MS,
                1 => {
                    self.now += DAY_MS;
                    self.happens(&Event::TimeJumped { by_ms: DAY_MS });
                }
                _ => self.now -= DAY_MS.min(self.now),
            }
        }
        self.happens(&Event::Tick);
    }

    fn scan(&mut self) {
        for path in self.host.inbox.keys().cloned().collect::<Vec<_>>() {
            let priority = [Priority::High, Priority::Normal, Priority::Low][self.rng.random_range(0..3)];
            self.happens(&Event::FileArrived { inbox_path: path, priority, schema_flag: None });
        }
    }

    fn space(&mut self) {
        let free_bytes = if self.rng.random_range(0..3) == 0 { 0 } else { u64::MAX };
        self.happens(&Event::DiskSpace { free_bytes });
    }

    fn measure(&mut self) {
        let sizes = self.host.published.keys().map(|id| (*id, 10)).collect();
        self.happens(&Event::Measured { sizes });
    }

    fn run_effect(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.pending.len());
        let effect = self.pending.remove(index);
        let fails = self.chance(10);
        match effect {
            Effect::StartSlice { token, .. } | Effect::StartEval { token, .. } if fails => {
                let exit = WorkerExit::Crashed { reason: "cannot start".to_string() };
                self.said.push_back(Event::WorkerExited { token, exit });
            }
            Effect::KillWorker { token, .. } => {
                if self.host.end_child(token) {
                    let exit = WorkerExit::Crashed { reason: "killed".to_string() };
                    self.said.push_back(Event::WorkerExited { token, exit });
                }
            }
            Effect::Exit => self.kill(),
            Effect::JudgeExams { checkpoint, token } => {
                let scored = self.scored(checkpoint);
                self.answers.extend([scored, Event::ExamsJudged { checkpoint, token }]);
            }
            effect => {
                let transient = self.rng.random_range(0..4) > 0;
                let answer = self.host.work(&self.state, &effect, fails, transient);
                self.answers.extend(answer);
            }
        }
    }

    fn child_acts(&mut self) {
        let mood = if self.faults { self.rng.random_range(0..100) } else { 50 };
        let events = self.host.child_acts(&self.state, mood, &mut self.rng);
        self.said.extend(events);
    }

    /// Delivers one answer (in any order, now and then twice) or the next thing that the child said.
    fn deliver(&mut self) {
        let total = self.answers.len() + usize::from(!self.said.is_empty());
        if total == 0 {
            return;
        }
        let index = self.rng.random_range(0..total);
        let event =
            if index < self.answers.len() { self.answers.remove(index) } else { self.said.pop_front().unwrap() };
        self.happens(&event);
        if self.chance(5) {
            self.happens(&event);
        }
    }

    fn command(&mut self, command: Command) {
        self.happens(&Event::Command(command));
    }

    /// kill -9 and a new start. Words of a child that outlived the daemon may arrive late.
    fn kill(&mut self) {
        self.last_events.push(Happened::Killed);
        self.pending.clear();
        self.answers.clear();
        let late: Vec<Event> = self.said.drain(..).filter(|_| self.rng.random_range(0..2) == 0).collect();
        self.host.end_all_children();
        self.restart();
        if self.faults {
            self.said.extend(late);
        }
    }

    fn restart(&mut self) {
        self.host.sweep_staging(&self.state);
        let decision = recover(&self.state, &self.settings, self.now);
        self.commit(decision);
    }

    fn happens(&mut self, event: &Event) {
        self.last_events.push(Happened::Event(Box::new(event.clone())));
        let decision = decide(&self.state, &self.settings, event, self.now);
        self.commit(decision);
    }

    fn commit(&mut self, decision: Decision) {
        for change in &decision.changes {
            self.state.apply(change);
            self.host.notices(change);
        }
        for effect in decision.effects {
            self.last_events.push(Happened::Effect(effect.clone()));
            if let Effect::StartSlice { .. } | Effect::StartEval { .. } = effect {
                let waiting = |e: &Effect| matches!(e, Effect::StartSlice { .. } | Effect::StartEval { .. });
                self.must(self.host.child.is_none(), "a child is started while another lives");
                self.must(!self.pending.iter().any(waiting), "two children are to be started");
            }
            self.pending.push(effect);
        }
    }

    fn is_quiet(&self) -> bool {
        let open = self.state.jobs.values().any(|job| job.state.is_open());
        let deploying = self.state.deployments.values().any(|d| d.state == DeploymentState::Pending);
        self.host.inbox.is_empty()
            && self.pending.is_empty()
            && self.answers.is_empty()
            && self.said.is_empty()
            && self.state.lease.is_none()
            && !open
            && !deploying
            && super::evaluation::next_due(&self.state, TimeMs::MAX).is_none()
    }

    fn count(&self, reached: &mut BTreeMap<&'static str, u64>) {
        let mut add = |name, count: usize| *reached.entry(name).or_default() += count as u64;
        let jobs = |pick: fn(&JobState) -> bool| self.state.jobs.values().filter(|job| pick(&job.state)).count();
        let datasets =
            |pick: fn(&DatasetState) -> bool| self.state.datasets.values().filter(|d| pick(&d.state)).count();
        add("completed", jobs(|state| *state == JobState::Completed));
        add("skipped", jobs(|state| matches!(state, JobState::Skipped { .. })));
        add("failed", jobs(|state| matches!(state, JobState::Failed { .. })));
        add("cancelled", jobs(|state| *state == JobState::Cancelled));
        add("rejected", datasets(|state| matches!(state, DatasetState::Rejected { .. })));
        add("duplicate", datasets(|state| matches!(state, DatasetState::Duplicate { .. })));
        let set_aside = |d: &&Dataset| d.set_aside.as_ref().is_some_and(|why| why.starts_with(super::deep::SET_ASIDE));
        add("deep_refused", self.state.datasets.values().filter(set_aside).count());
        let refused = |c: &&Checkpoint| matches!(c.state, CheckpointState::Refused { .. });
        add("refused", self.state.checkpoints.values().filter(refused).count());
        add("rewound", self.state.checkpoints.values().filter(|c| c.marks.abandoned.is_some()).count());
        add("other_lineages", self.state.other_lineages.len());
        add("forgotten", self.state.datasets.values().filter(|d| d.gone.is_some()).count());
        add("pruned", self.host.removed.len());
        let promoted = |j: &&Judgement| j.outcome == Outcome::Promote && j.champion.is_some();
        add("promoted", self.state.judgements.values().filter(promoted).count());
        let rolled_back = |d: &&Deployment| d.reason.starts_with("rolled back");
        add("shared", self.state.jobs.values().filter(|job| job.datasets.len() > 1).count());
        add("replayed", self.state.jobs.values().filter(|job| job.replay.is_some()).count());
        add("level_moved", self.state.skill("s").moves.len());
        add("rolled_back", self.state.deployments.values().filter(rolled_back).count());
        let by_itself = |d: &&Deployment| matches!(&d.state, DeploymentState::Failed { reason } if reason.starts_with("rolled back"));
        add("rolled_back_by_itself", self.state.deployments.values().filter(by_itself).count());
    }

    fn must(&self, holds: bool, message: &str) {
        if !holds {
            self.fail(message);
        }
    }

    fn fail(&self, message: &str) -> ! {
        let start = self.last_events.len().saturating_sub(60);
        panic!(
            "seed {}: {message}\n{}\n{:#?}",
            self.seed,
            self.last_events[start..].iter().map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n"),
            self.state.control
        );
    }
}
