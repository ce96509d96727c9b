//! Threads that share out work of microseconds. One decoded token is some 150 products and attentions, each over in less time
//! than it takes to wake a sleeping thread: so these wait for the next one awake, for a moment, before they sleep.

use anyhow::{Context, Result};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How often a thread looks for work before it sleeps: some 50 µs.
const LOOKS: u32 = 20_000;
/// Multiplications that take about as long as it takes to share them out.
const WORTH_SHARING: usize = 1 << 14;
/// After so many looks the one who waits for the others lets other programs run: one of them may be kept from its processor.
const PATIENCE: u32 = 20_000;

/// The threads.
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts jobs.
    round: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Members that have not ended the job yet.
    working: AtomicUsize,
    has_panicked: AtomicBool,
    stop: AtomicBool,
    /// Members that sleep or are about to.
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// Work that lives until every member has ended it.
type Job = *const (dyn Fn(usize) + Sync);

// SAFETY: the job is written only while no member works, before `round` says that it is there; members read it only after
// that, and the caller of `Team::run` keeps it alive until `working` is 0.
#[expect(unsafe_code, reason = "a borrowed job is handed to threads that outlive it")]
unsafe impl Sync for Shared {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a borrowed job is handed to threads that outlive it")]
unsafe impl Send for Shared {}

impl Team {
    /// The caller and `threads - 1` others.
    pub(super) fn new(threads: usize) -> Result<Team> {
        let shared = Arc::new(Shared {
            round: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            working: AtomicUsize::new(0),
            has_panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut team = Team { shared, threads: Vec::new() };
        for member in 1..threads {
            let shared = Arc::clone(&team.shared);
            let builder = std::thread::Builder::new().name(format!("team-{member}"));
            team.threads.push(builder.spawn(move || shared.serve(member)).context("start threads")?);
        }
        Ok(team)
    }

    /// How many threads there are, the caller among them.
    pub(super) fn size(&self) -> usize {
        self.threads.len() + 1
    }

    /// As [`Team::run`], but by the caller alone where there are few multiplications.
    pub(super) fn share(&mut self, multiplications: usize, work: &(dyn Fn(usize) + Sync)) {
        if multiplications < WORTH_SHARING { work(0) } else { self.run(work) }
    }

    /// Calls `work` once in each member, with its number, and returns when all have ended.
    pub(super) fn run(&mut self, work: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if self.threads.is_empty() {
            return work(0);
        }
        // SAFETY: lifetimes do not change a pointer. No member works: the last run waited for all of them, and `&mut self`
        // keeps another one away.
        #[expect(unsafe_code, reason = "a borrowed job is handed to threads that outlive it")]
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(work));
        }
        shared.working.store(self.threads.len(), Ordering::Relaxed);
        shared.round.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(shared.sleep.lock().expect("nobody panics with the lock"));
            shared.wake.notify_all();
        }
        // The job must not end before the members have, not even by a panic.
        let waiting = Waiting(shared);
        work(0);
        drop(waiting);
        assert!(!shared.has_panicked.load(Ordering::Relaxed), "a member of the team panicked; its message is above");
    }
}

/// Waits for the members when it is dropped.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut looks = 0;
        while self.0.working.load(Ordering::Acquire) > 0 {
            looks += 1;
            if looks > PATIENCE {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

impl Shared {
    /// Body of a member.
    fn serve(&self, member: usize) {
        let mut seen = 0;
        while let Some(round) = self.next_round(seen) {
            seen = round;
            // SAFETY: the job of this round is there and lives until `working` is 0.
            #[expect(unsafe_code, reason = "a borrowed job is handed to threads that outlive it")]
            let work = unsafe { &*(*self.job.get()).expect("a round has a job") };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(member)));
            if result.is_err() {
                self.has_panicked.store(true, Ordering::Relaxed);
            }
            self.working.fetch_sub(1, Ordering::Release);
        }
    }

    /// The round after `seen`; `None` when the team is dissolved.
    fn next_round(&self, seen: u64) -> Option<u64> {
        let is_over = || self.stop.load(Ordering::SeqCst);
        for _ in 0..LOOKS {
            let round = self.round.load(Ordering::Acquire);
            if round != seen {
                return (!is_over()).then_some(round);
            }
            std::hint::spin_loop();
        }
        let mut guard = self.sleep.lock().expect("nobody panics with the lock");
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.round.load(Ordering::SeqCst) == seen {
            guard = self.wake.wait(guard).expect("nobody panics with the lock");
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        (!is_over()).then(|| self.round.load(Ordering::SeqCst))
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        drop(self.shared.sleep.lock().expect("nobody panics with the lock"));
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A member catches the panics of its work.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
