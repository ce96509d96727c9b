//! The one loop that owns the state: receive, decide, commit, apply, start effects.
//!
//! `decide` itself rations changes that come with every step of a slice (live figures once a second, a lease when a
//! quarter of it has passed), so every decision is committed; figures in between go to the view only. No recovery
//! depends on them: `recover` clears the lease and the figures.

mod generating;
mod housekeeping;
mod timers;
mod view;

pub use housekeeping::prune_offline;
pub(crate) use housekeeping::{HouseReport, free_bytes};

use crate::alerts::Alerter;
use crate::background::BackgroundWorker;
use crate::clock::now_ms;
use crate::control::{self, Asked};
use crate::data_manager::Memory;
use crate::deploy::program::end_earlier;
use crate::effects::{Given, Message, Runner};
use crate::inbox::{self, MAX_READY, Scan, Scanner};
use crate::options::{DaemonOptions, LoopConfig};
use crate::status::Live;
use crate::worker::wait_for_earlier_children;
use anyhow::{Context, Result, bail};
use hone_pipeline::config::Settings;
use hone_pipeline::decide::{command_offline, decide, recover};
use hone_pipeline::event::{Command, Decision, Effect, Event};
use hone_pipeline::state::{Change, Control, Dataset, DatasetState, LogEntry, LogSeverity, State};
use hone_pipeline::wire::{ControlReply, ControlRequest};
use hone_store::{OwnerLock, OwnerLockError, Store, owner_lock, publish};
use housekeeping::House;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use timers::Timers;
use view::pong;

/// Messages that wait for the loop; a sender beyond waits itself.
const MAX_MESSAGES: usize = 1024;
/// How long a taken workspace is asked for, and how often.
const LOCK_WAIT: Duration = Duration::from_millis(500);
const LOCK_POLL: Duration = Duration::from_millis(5);
/// What each step of a start may take, beside the wait for earlier children.
const START_SLACK: Duration = Duration::from_secs(30);
/// The configuration is read at most this often.
const CONFIG_EVERY: Duration = Duration::from_millis(50);

/// Runs the daemon until `stop` is set (like `hone stop`: the running slice writes its checkpoint first), a
/// `stop` command ended its work, or the workspace cannot be used. `on_ready` is called once the owner lock is
/// held, the state is recovered and the control socket answers.
///
/// # Errors
/// The workspace is owned by another daemon, cannot be read, or a commit failed.
pub fn run(options: DaemonOptions, stop: Arc<AtomicBool>, on_ready: impl FnOnce()) -> Result<()> {
    let lock = take_workspace(&options.root)?;
    // Each step that is done asks for the time of the next: a start that hangs asks for none.
    options.notifier.extend_start(START_SLACK);
    let store = Store::open(&options.root).context("open the workspace")?;
    let config = (options.load_settings)().context("read the configuration")?;
    let mut state = store.load().context("load the state")?;
    if !options.started_by_hand && matches!(state.control, Control::Stopping { .. }) {
        tracing::info!("a person stopped this daemon; it stays stopped");
        return Ok(());
    }
    let layout = store.layout().clone();
    let wait = Duration::from_millis(config.limits.earlier_child_wait_ms);
    let mut step_done = || options.notifier.extend_start(wait + START_SLACK);
    step_done();
    wait_for_earlier_children(&layout.runs(), wait, &mut step_done)?;
    end_earlier(&layout.run_dir())?;
    // Nobody works under the lease any more: what its holder staged and did not tell is dropped.
    state.lease = None;
    publish::sweep_staging(&layout, &state)?;

    let (sender, messages) = sync_channel(MAX_MESSAGES);
    let mut runner = Runner::new(&layout, options.program.clone(), options.admin_key.clone(), sender.clone())?;
    let (scans, threads) = start_scanner(&options, &layout.inbox(), sender.clone(), runner.ending())?;
    threads.into_iter().for_each(|thread| runner.adopt(thread));
    let (worker, background) = BackgroundWorker::start()?;
    runner.adopt(background);
    let (alerter, telling) = Alerter::start()?;
    runner.adopt(telling);
    let asker = sender.clone();
    let ask = move |asked: Asked| asker.send(Message::Asked(asked)).is_ok();
    let server = control::Server::start(&layout.control_socket(), ask)?;
    let exit_wait = Duration::from_millis(config.limits.exit_wait_ms);
    let state = Arc::new(store.load()?);
    let house = (House::new(worker), alerter, lock);
    let mut daemon = Daemon::new(options, store, state, config, runner, scans, house);
    let result = daemon.recover().and_then(|()| {
        on_ready();
        daemon.options.notifier.ready();
        daemon.run(&messages, &stop)
    });
    // From here on nobody is heard: threads that have something to say find the channel closed and end.
    drop(messages);
    drop(server);
    daemon.end(exit_wait);
    result
}

/// A command without a running daemon: takes the owner lock, decides in this process and commits. Effects are
/// left to the next daemon, which derives them from the state. Returns the sentence for the person.
///
/// # Errors
/// A daemon is running, the workspace cannot be read, or the command is refused.
pub fn apply_offline(root: &Path, settings: &Settings, command: &Command) -> Result<String> {
    let _lock = take_workspace(root)?;
    let mut store = Store::open(root).context("open the workspace")?;
    let state = store.load().context("load the state")?;
    let decision = command_offline(&state, settings, command, now_ms());
    store.commit(&decision.changes)?;
    match decision.reply {
        Some(Ok(message)) => Ok(message),
        Some(Err(message)) => bail!("{message}"),
        None => bail!("the command got no answer"),
    }
}

/// A process that was killed while it started a child leaves its lock with that child until the child runs its own
/// program, a moment later: so the lock is asked for a while before it is called taken.
fn take_workspace(root: &Path) -> Result<OwnerLock> {
    let start = Instant::now();
    loop {
        match owner_lock(root) {
            Err(OwnerLockError::Held { .. }) if start.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_POLL),
            result => return result.context("take the workspace"),
        }
    }
}

/// Files by their paths within the inbox.
type InboxPaths = HashSet<String>;

struct Daemon {
    options: DaemonOptions,
    store: Store,
    given: Given,
    runner: Runner,
    live: Live,
    timers: Timers,
    /// Asks the scanner for a look, past these files; one at a time.
    scans: SyncSender<InboxPaths>,
    scanning: bool,
    /// Files that were taken since the scan under way began: it may have seen them before.
    taken: HashSet<String>,
    house: House,
    alerter: Alerter,
    lock: OwnerLock,
    generating: bool,
    /// Warnings that were told.
    warned: HashSet<String>,
    /// What the data manager remembers, as of the last answer of a skill.
    memory: Memory,
    turn: u64,
    exit: bool,
}

impl Daemon {
    fn new(
        options: DaemonOptions,
        store: Store,
        state: Arc<State>,
        config: LoopConfig,
        runner: Runner,
        scans: SyncSender<InboxPaths>,
        (house, alerter, lock): (House, Alerter, OwnerLock),
    ) -> Daemon {
        let memory = Memory::read(&options.root);
        Daemon {
            timers: Timers::new(Instant::now(), now_ms(), options.scan_interval),
            options,
            store,
            given: Given { state, config },
            runner,
            live: Live { started_ms: now_ms(), ..Live::default() },
            scans,
            scanning: false,
            taken: HashSet::new(),
            house,
            alerter,
            lock,
            generating: false,
            warned: HashSet::new(),
            turn: memory.next_seed,
            memory,
            exit: false,
        }
    }

    fn recover(&mut self) -> Result<()> {
        // Known before anything begins.
        self.note_room_at_start()?;
        let decision = recover(&self.given.state, &self.given.config.settings, now_ms());
        self.carry_out(decision)
    }

    fn run(&mut self, messages: &Receiver<Message>, stop: &AtomicBool) -> Result<()> {
        let mut told_to_stop = false;
        while !self.exit {
            match messages.recv_timeout(self.timers.wait(Instant::now())) {
                Ok(message) => self.message(message)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("go on: every thread ended"),
            }
            if stop.load(Ordering::SeqCst) {
                self.stop_asked(&mut told_to_stop)?;
            }
            self.timers_due()?;
        }
        Ok(())
    }

    /// A signal ends the daemon like `hone stop`, but it does not take the place of a pause.
    fn stop_asked(&mut self, told: &mut bool) -> Result<()> {
        let state = &self.given.state;
        if let Control::Paused { .. } = state.control {
            let publishing = state.checkpoints.active().next().is_some();
            self.exit |= state.lease.is_none() && !publishing;
            return Ok(());
        }
        if *told {
            return Ok(());
        }
        *told = true;
        let reason = "the process was told to end".to_string();
        self.event(&Event::Command(Command::Stop { reason })).map(drop)
    }

    fn message(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Event(event) => {
                self.settled(&event);
                match &event {
                    Event::WorkerExited { token, .. } => self.runner.forget_worker(*token),
                    Event::Checked { dataset, .. } | Event::CheckFailed { dataset, .. } => {
                        self.runner.forget_check(*dataset);
                    }
                    Event::FileTaken { dataset, .. } => {
                        let path = self.given.state.datasets.get(dataset).map(|dataset| dataset.inbox_path.clone());
                        self.taken.extend(path);
                    }
                    _ => {}
                }
                self.event(&event).map(drop)
            }
            Message::Asked(Asked { request, reply }) => {
                let answer = self.asked(request)?;
                // Whoever asked may have lost patience.
                let _ = reply.try_send(answer);
                Ok(())
            }
            Message::Scanned(scan) => self.scanned(scan),
            Message::FileEvents => {
                self.timers.scan_now();
                Ok(())
            }
            Message::Live(update) => {
                self.live.update(update);
                self.timers.figures_changed();
                Ok(())
            }
            Message::Generated(skill, result) => self.generated(&skill, result),
            Message::Warn { kind, subject, message } => match self.warned.insert(message.clone()) {
                true => self.note(LogSeverity::Warning, kind, &subject, message),
                false => Ok(()),
            },
            Message::Again(effect, error) => {
                self.again(effect, &error);
                Ok(())
            }
            Message::Free(free_bytes) => self.disk_has(free_bytes),
            Message::Housekept(report) => self.housekept(report),
        }
    }

    fn asked(&mut self, request: ControlRequest) -> Result<ControlReply> {
        Ok(match request {
            ControlRequest::Ping => pong(None),
            ControlRequest::Status => pong(Some(self.status_now())),
            ControlRequest::Scan => {
                self.timers.scan_now();
                ControlReply::Ok { message: "looking".to_string() }
            }
            ControlRequest::Housekeep => {
                self.housekeeping_now();
                ControlReply::Ok { message: "retention is looked at now".to_string() }
            }
            ControlRequest::Command { command } => match self.event(&Event::Command(command))? {
                Some(Ok(message)) => ControlReply::Ok { message },
                Some(Err(message)) => ControlReply::Error { message },
                None => ControlReply::Error { message: "the command got no answer".to_string() },
            },
        })
    }

    fn event(&mut self, event: &Event) -> Result<Option<Result<String, String>>> {
        // Work may begin only while the device is free: it then begins with the values that the file has now.
        if self.given.state.lease.is_none() || matches!(event, Event::WorkerExited { .. }) {
            self.read_config()?;
        }
        let mut decision = decide(&self.given.state, &self.given.config.settings, event, now_ms());
        let reply = decision.reply.take();
        self.carry_out(decision)?;
        Ok(reply)
    }

    /// Commit, then apply, then start. After a failed commit the daemon ends: the state in memory would lie.
    fn carry_out(&mut self, decision: Decision) -> Result<()> {
        self.store.commit(&decision.changes)?;
        if !decision.changes.is_empty() {
            let state = Arc::make_mut(&mut self.given.state);
            decision.changes.iter().for_each(|change| state.apply(change));
            self.timers.state_changed();
        }
        for change in &decision.changes {
            if let Change::Log(entry) = change {
                log(entry);
                self.alerter.heard(entry, &self.given.config.alerts, &self.options.root, Instant::now());
            }
        }
        for effect in decision.effects {
            self.exit |= effect == Effect::Exit;
            self.runner.start(effect, &self.given)?;
        }
        Ok(())
    }

    /// What cannot be read is told once, not at every look.
    fn read_config(&mut self) -> Result<()> {
        if !self.timers.config_due(Instant::now(), CONFIG_EVERY) {
            return Ok(());
        }
        match (self.options.load_settings)() {
            Ok(config) => {
                self.given.config = config;
                match self.live.config_error.take() {
                    Some(_) => {
                        let message = "it can be read again and is in force".to_string();
                        self.note(LogSeverity::Info, "config_mended", "config.json", message)
                    }
                    None => Ok(()),
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.live.config_error.as_ref() == Some(&error) {
                    return Ok(());
                }
                let message = format!("the configuration of before stays in force: failed to {error}");
                self.live.config_error = Some(error);
                self.timers.state_changed();
                self.note(LogSeverity::Warning, "config_invalid", "config.json", message)
            }
        }
    }

    fn scanned(&mut self, scan: Result<Scan>) -> Result<()> {
        self.scanning = false;
        let scan = match scan {
            Ok(scan) => scan,
            Err(error) => {
                tracing::warn!("the inbox is not seen: failed to {error:#}");
                return Ok(());
            }
        };
        if self.live.in_inbox != scan.num_waiting {
            self.live.in_inbox = scan.num_waiting;
            self.timers.state_changed();
        }
        let (is_full, num_before) = (scan.ready.len() == MAX_READY, self.given.state.counters.dataset);
        let fresh = |file: &inbox::ReadyFile| !self.taken.contains(&file.inbox_path);
        let ready: Vec<_> = scan.ready.into_iter().filter(fresh).collect();
        self.runner.seen_in_inbox(ready.iter().map(|file| (file.inbox_path.clone(), file.fingerprint)).collect());
        for file in ready {
            let inbox::ReadyFile { inbox_path, priority, schema_flag, fingerprint: _ } = file;
            self.event(&Event::FileArrived { inbox_path, priority, schema_flag })?;
            if self.given.state.queue_full || self.given.state.disk_low {
                break;
            }
        }
        self.runner.seen_in_inbox(HashMap::new());
        // There may be more; where none could be taken (no room) the next look is early enough.
        if is_full && self.given.state.counters.dataset > num_before {
            self.timers.scan_now();
        }
        Ok(())
    }

    fn timers_due(&mut self) -> Result<()> {
        let now = Instant::now();
        if !self.scanning && self.timers.scan_due(now) {
            self.taken.clear();
            self.scanning = true;
            let arriving = |d: &&Dataset| d.state == DatasetState::Arriving;
            let moving = self.given.state.datasets.moving();
            let on_the_way = moving.filter(arriving).map(|dataset| dataset.inbox_path.clone()).collect();
            self.scans.try_send(on_the_way).ok().context("go on: the scanner ended")?;
        }
        self.start_delayed()?;
        if self.timers.tick_due(now) {
            self.options.notifier.alive();
            self.keep_lock();
            self.runner.reap()?;
            self.keep_house()?;
            if let Some(by_ms) = self.timers.jump(now, now_ms()) {
                self.event(&Event::TimeJumped { by_ms })?;
            }
            self.event(&Event::Tick)?;
            self.ask_for_data()?;
        }
        if self.timers.view_due(now) {
            self.write_view();
        }
        Ok(())
    }

    /// Without its file the lock still holds; only nobody reads who has it.
    fn keep_lock(&mut self) {
        if let Err(error) = self.lock.keep() {
            tracing::debug!("the lock file is gone: failed to {error:#}");
        }
    }

    fn end(mut self, wait: Duration) {
        self.options.notifier.stopping();
        self.live.stopped = true;
        self.write_view();
        drop((self.scans, self.house, self.alerter));
        self.runner.shut_down(wait);
        drop(self.lock);
    }
}

/// The thread that scans the inbox when asked, and the one that hears file events, where this system has them.
fn start_scanner(
    options: &DaemonOptions,
    inbox: &Path,
    messages: SyncSender<Message>,
    ending: Arc<AtomicBool>,
) -> Result<(SyncSender<InboxPaths>, Vec<JoinHandle<()>>)> {
    let (news, heard) = sync_channel(MAX_MESSAGES);
    let waker = messages.clone();
    let watcher = inbox::watch(inbox, news, ending, move || waker.send(Message::FileEvents).is_ok());
    let watcher = watcher.unwrap_or_else(|error| {
        tracing::warn!("files settle by their time alone: failed to {error:#}");
        None
    });
    let (scans, asked) = sync_channel::<InboxPaths>(1);
    let mut scanner = Scanner::new(inbox, options.settle, options.torn);
    let body = move || {
        // Ends with the loop, which owns the other end of one channel or the other.
        while let Ok(on_the_way) = asked.recv() {
            heard.try_iter().for_each(|news| scanner.hear(news));
            if messages.send(Message::Scanned(scanner.scan(Instant::now(), &on_the_way))).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("inbox".to_string()).spawn(body).context("start the scanner")?;
    Ok((scans, watcher.into_iter().chain([thread]).collect()))
}

fn log(entry: &LogEntry) {
    let LogEntry { severity, kind, subject, message, .. } = entry;
    match severity {
        LogSeverity::Info => tracing::info!(kind, subject, "{message}"),
        LogSeverity::Warning => tracing::warn!(kind, subject, "{message}"),
        LogSeverity::Error => tracing::error!(kind, subject, "{message}"),
    }
}
