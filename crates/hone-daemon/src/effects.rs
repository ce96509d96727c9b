//! Effects: started by the loop, run on threads, come back as messages.
//!
//! Moves of files and publishing run one after the other on a thread each; a child, a check, a deployment and a
//! request for data have a thread of their own. How many of these live at a time is bounded by `decide` (one lease,
//! `max_checks`, one deployment per target). A thread that panics ends the daemon with an error: a restart derives
//! its effect from the state again.

mod device;
mod files;
mod target;

use crate::control::Asked;
use crate::data_manager::{self, GenerateOrder, GeneratedFile};
use crate::inbox::{Fingerprint, Scan};
use crate::options::{Limits, LoopConfig};
use crate::run_loop::HouseReport;
use crate::status::LiveUpdate;
use crate::worker::ChildHandle;
use anyhow::{Context, Result, bail};
use hone_pipeline::event::{Effect, Event};
use hone_pipeline::ids::{DatasetId, LeaseToken};
use hone_pipeline::state::State;
use hone_store::Layout;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Why children are ended when the loop ends.
const DAEMON_ENDS: &str = "the daemon ends";
const JOIN_POLL: Duration = Duration::from_millis(5);

/// What reaches the loop.
pub(crate) enum Message {
    /// Something to decide about.
    Event(Event),
    /// A person, over the control socket.
    Asked(Asked),
    /// The scan that the loop asked for ended.
    Scanned(Result<Scan>),
    /// A file event says that a scan is worth while.
    FileEvents,
    /// Only the view shows it.
    Live(LiveUpdate),
    /// Something odd for the event log; the same is told once.
    Warn { kind: &'static str, subject: String, message: String },
    /// The request to this skill for data ended.
    Generated(String, Result<GeneratedFile>),
    /// This host could not do it now, and why; it is to be tried again after a while.
    Again(Effect, String),
    /// So many bytes were free when a worker ended badly, before its leftovers were removed.
    Free(u64),
    /// Housekeeping ended.
    Housekept(HouseReport),
}

/// What every effect knows.
#[derive(Clone)]
struct Env {
    layout: Layout,
    program: PathBuf,
    admin_key: Option<String>,
    messages: SyncSender<Message>,
    /// Set when the loop ends: what only waits is to end at once.
    ending: Arc<AtomicBool>,
}

impl Env {
    /// Fails only when the loop has ended, and then nobody wants to know.
    fn send(&self, message: Message) {
        let _ = self.messages.send(message);
    }

    fn event(&self, event: Event) {
        self.send(Message::Event(event));
    }

    /// For trouble of this host: the effect is tried again.
    fn again(&self, effect: Effect, error: &anyhow::Error) {
        self.send(Message::Again(effect, format!("{error:#}")));
    }
}

/// What an effect is derived from: the state after the commit, and the configuration in force.
#[derive(Clone)]
pub(crate) struct Given {
    pub state: Arc<State>,
    pub config: LoopConfig,
}

/// Starts effects and owns what they run on.
pub(crate) struct Runner {
    env: Env,
    files: Lane,
    publishing: Lane,
    housekeeping: Lane,
    workers: HashMap<LeaseToken, ChildHandle>,
    checks: HashMap<DatasetId, ChildHandle>,
    seen_in_inbox: HashMap<String, Fingerprint>,
    threads: Vec<JoinHandle<()>>,
}

impl Runner {
    /// A runner for the workspace; `messages` leads to the loop.
    pub fn new(
        layout: &Layout,
        program: PathBuf,
        admin_key: Option<String>,
        messages: SyncSender<Message>,
    ) -> Result<Runner> {
        Ok(Runner {
            env: Env { layout: layout.clone(), program, admin_key, messages, ending: Arc::default() },
            files: Lane::start("files")?,
            publishing: Lane::start("publishing")?,
            housekeeping: Lane::start("removing")?,
            workers: HashMap::new(),
            checks: HashMap::new(),
            seen_in_inbox: HashMap::new(),
            threads: Vec::new(),
        })
    }

    /// Starts one effect.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(&mut self, effect: Effect, given: &Given) -> Result<()> {
        let (env, given) = (self.env.clone(), given.clone());
        match effect {
            Effect::TakeFile { ref inbox_path, .. } => {
                let seen = self.seen_in_inbox.get(inbox_path).copied();
                self.files.run(move || files::take(&env, &given, effect, seen))
            }
            Effect::MoveRejected { .. } | Effect::DropDuplicate { .. } => {
                self.files.run(move || files::file_effect(&env, &given, effect))
            }
            Effect::Publish { checkpoint } => self.publishing.run(move || files::publish(&env, &given, checkpoint)),
            Effect::Check { dataset } => {
                let handle = ChildHandle::default();
                self.checks.insert(dataset, handle.clone());
                self.spawn("check", move || device::check(&env, given, dataset, &handle))
            }
            Effect::StartSlice { job, token } => {
                let handle = self.new_worker(token);
                self.spawn("train", move || device::slice(&env, given, job, token, &handle))
            }
            Effect::StartEval { checkpoint, token } => {
                let handle = self.new_worker(token);
                self.spawn("evaluate", move || device::evaluation(&env, given, checkpoint, token, &handle))
            }
            Effect::JudgeExams { checkpoint, token } => {
                self.spawn("judge", move || device::judge_exams(&env, &given, checkpoint, token))
            }
            Effect::AskToYield { token } => {
                self.workers.get(&token).inspect(|worker| worker.ask_to_yield());
                Ok(())
            }
            Effect::KillWorker { token, reason } => {
                self.workers.get(&token).inspect(|worker| worker.kill(&reason));
                Ok(())
            }
            Effect::Deploy { deployment } => self.spawn("deploy", move || target::deploy(&env, given, deployment)),
            Effect::RemovePruned => self.housekeeping.run(move || files::remove_pruned(&env, &given)),
            Effect::Watch { deployment } => self.spawn("watch", move || target::watch(&env, given, deployment)),
            // The loop's own.
            Effect::Exit => Ok(()),
        }
    }

    /// What complete files were when the scan saw them; one that is something else by the time it is taken stays.
    pub fn seen_in_inbox(&mut self, files: HashMap<String, Fingerprint>) {
        self.seen_in_inbox = files;
    }

    /// Set when the loop ends.
    pub fn ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.env.ending)
    }

    /// Where messages to the loop go.
    pub fn messages(&self) -> SyncSender<Message> {
        self.env.messages.clone()
    }

    /// Takes over a thread of the loop, to be joined with the others.
    pub fn adopt(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }

    /// Asks a skill for data.
    pub fn generate(&mut self, order: GenerateOrder, limits: Limits) -> Result<()> {
        let env = self.env.clone();
        self.spawn("generate", move || {
            let (root, skill) = (env.layout.root(), &order.skill.name);
            let result = data_manager::generate_once(root, &order, &limits);
            if let Err(error) = data_manager::remember(root, skill, result.as_ref().err()) {
                tracing::warn!(skill, "how it went is not remembered: failed to {error:#}");
            }
            env.send(Message::Generated(skill.clone(), result));
        })
    }

    /// Joins threads that ended.
    ///
    /// # Errors
    /// One of them panicked.
    pub fn reap(&mut self) -> Result<()> {
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            let name = thread.thread().name().unwrap_or_default().to_string();
            if thread.join().is_err() {
                bail!("go on: the thread of an effect ({name}) panicked");
            }
        }
        self.files.check().and_then(|()| self.publishing.check()).and_then(|()| self.housekeeping.check())
    }

    /// Forgets a child that ended.
    pub fn forget_worker(&mut self, token: LeaseToken) {
        self.workers.remove(&token);
    }

    /// Forgets a check that ended.
    pub fn forget_check(&mut self, dataset: DatasetId) {
        self.checks.remove(&dataset);
    }

    /// Ends all children and waits for the threads, at most `wait`. What does not end in time is left to the end of
    /// the process: effects may stop anywhere.
    pub fn shut_down(self, wait: Duration) {
        self.env.ending.store(true, Ordering::SeqCst);
        for child in self.workers.values().chain(self.checks.values()) {
            child.kill(DAEMON_ENDS);
        }
        let lanes = [self.files.close(), self.publishing.close(), self.housekeeping.close()];
        let start = Instant::now();
        for thread in self.threads.into_iter().chain(lanes) {
            while !thread.is_finished() && start.elapsed() < wait {
                std::thread::sleep(JOIN_POLL);
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                tracing::warn!(effect = thread.thread().name(), "an effect is left unfinished; the next start does it");
            }
        }
    }

    fn new_worker(&mut self, token: LeaseToken) -> ChildHandle {
        self.workers.entry(token).or_default().clone()
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.to_string()).spawn(work);
        self.threads.push(thread.with_context(|| format!("start a thread for an effect ({name})"))?);
        Ok(())
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread that does one thing after the other. Its channel needs no bound of its own: it holds at most one effect
/// per dataset or checkpoint under way, and `max_queued_jobs` bounds those.
struct Lane {
    name: &'static str,
    work: Sender<Work>,
    thread: JoinHandle<()>,
}

impl Lane {
    fn start(name: &'static str) -> Result<Lane> {
        let (work, orders) = channel::<Work>();
        let body = move || orders.into_iter().for_each(|work| work());
        let thread = std::thread::Builder::new().name(name.to_string()).spawn(body);
        Ok(Lane { name, work, thread: thread.with_context(|| format!("start the thread of {name}"))? })
    }

    fn run(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let closed = || format!("go on: the thread of {} ended", self.name);
        self.work.send(Box::new(work)).ok().with_context(closed)
    }

    fn check(&self) -> Result<()> {
        if self.thread.is_finished() {
            bail!("go on: the thread of {} ended", self.name);
        }
        Ok(())
    }

    fn close(self) -> JoinHandle<()> {
        drop(self.work);
        self.thread
    }
}
