//! Files that come in bursts, by every road that people and programs take, while daemon and children are killed: each
//! is accepted or rejected once, by its hash.
//!
//! `HONE_BURST_FILES` sets their number (60; with `HONE_SLOW=1` 600; the full run has 20,000 and takes most of an hour).

use super::*;
use hone_pipeline::state::Dataset;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// A slow writer's pause in the middle of a line.
const GAP: Duration = Duration::from_millis(500);
/// What a file that no event tells of waits, with its torn last line safe for much longer.
const SETTLE_MS: &str = "1500";
/// Files that come at once.
const BURST: usize = 20;
/// Files per SIGKILL; never more than [`MAX_KILLS`].
const FILES_PER_KILL: usize = 50;
const MAX_KILLS: usize = 50;

/// How a file comes into the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    Copied,
    Renamed,
    /// Written in two goes, the first of which ends in the middle of a line.
    Slow,
    /// Written under a hidden temporary name, as rsync does it, then renamed.
    Rsync,
    /// Written, then another version renamed over it, then a third one written over that in place.
    Replaced,
    /// Moved from another file system, which is a copy.
    Across,
    /// The bytes of an earlier one.
    Twice,
    /// One row is bad.
    Bad,
}

const ROADS: [Road; 8] =
    [Road::Copied, Road::Renamed, Road::Slow, Road::Rsync, Road::Replaced, Road::Across, Road::Twice, Road::Bad];

/// What was submitted, by hash.
#[derive(Default)]
struct Submitted {
    /// Must be accepted once.
    good: BTreeSet<String>,
    /// Must be rejected once.
    bad: BTreeSet<String>,
    /// Was replaced by whoever submitted it: accepted once, or gone.
    replaced: BTreeSet<String>,
    num_twice: usize,
}

fn text(number: usize, version: &str, bad: bool) -> String {
    let row = |part: u32| format!("\"{version}-{number}-{part}{}\"\n", if bad && part == 1 { "-BAD" } else { "" });
    [row(0), row(1), row(2)].concat()
}

fn hash(text: &str) -> String {
    hone_disk::hash_bytes(text.as_bytes())
}

struct Source {
    inbox: PathBuf,
    outside: PathBuf,
    /// A memory file system, where there is one.
    elsewhere: Option<tempfile::TempDir>,
}

impl Source {
    /// One burst; the slow ones end it.
    fn burst(&self, numbers: std::ops::Range<usize>, submitted: &mut Submitted) {
        let mut slow: Vec<(File, String)> = Vec::new();
        for number in numbers {
            let (road, name) = (ROADS[number % ROADS.len()], format!("f{number}.jsonl"));
            let (good, target) = (text(number, "v", false), self.inbox.join(&name));
            match road {
                Road::Copied => drop(std::fs::copy(self.write(&self.outside, &name, &good), &target).unwrap()),
                Road::Renamed => std::fs::rename(self.write(&self.outside, &name, &good), &target).unwrap(),
                Road::Rsync => {
                    let hidden = self.write(&self.inbox, &format!(".{name}.Xa3Kd9"), &good);
                    std::fs::rename(hidden, &target).unwrap();
                }
                Road::Across => {
                    let from = self.elsewhere.as_ref().map_or(self.outside.as_path(), |folder| folder.path());
                    let file = self.write(from, &name, &good);
                    assert!(Process::new("mv").arg(file).arg(&target).status().unwrap().success());
                }
                Road::Slow => {
                    let mut file = File::create(&target).unwrap();
                    let (first, rest) = good.split_at(good.len() / 2);
                    file.write_all(first.as_bytes()).unwrap();
                    slow.push((file, rest.to_string()));
                }
                Road::Replaced => {
                    for version in ["old", "older"] {
                        submitted.replaced.insert(hash(&text(number, version, false)));
                    }
                    std::fs::write(&target, text(number, "old", false)).unwrap();
                    let over = self.write(&self.outside, &name, &text(number, "older", false));
                    std::fs::rename(over, &target).unwrap();
                    std::fs::write(&target, &good).unwrap();
                }
                Road::Twice => {
                    let earlier = text(number - number % ROADS.len(), "v", false);
                    std::fs::rename(self.write(&self.outside, &name, &earlier), &target).unwrap();
                    submitted.num_twice += 1;
                    continue;
                }
                Road::Bad => {
                    let bad = text(number, "v", true);
                    std::fs::rename(self.write(&self.outside, &name, &bad), &target).unwrap();
                    submitted.bad.insert(hash(&bad));
                    continue;
                }
            }
            submitted.good.insert(hash(&good));
        }
        std::thread::sleep(GAP);
        for (mut file, rest) in slow {
            file.write_all(rest.as_bytes()).unwrap();
        }
    }

    fn write(&self, folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Workspace {
    /// SIGKILL to every child of the daemon; there may be none at this instant.
    fn kill_children(&self) {
        let parent = self.daemon.as_ref().unwrap().id().to_string();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let ppid = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|_| ppid == Some(parent.as_str())) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Every file has its verdict and every job its end.
    fn settle(&self, submitted: &Submitted) -> State {
        let start = Instant::now();
        let num_certain = submitted.good.len() + submitted.bad.len() + submitted.num_twice;
        loop {
            let state = self.state();
            let in_inbox = std::fs::read_dir(Layout::new(self.path()).inbox()).unwrap().flatten();
            let num_files = in_inbox.filter(|entry| entry.path().is_file()).count();
            let is_quiet = state.datasets.active().next().is_none() && state.jobs.active().next().is_none();
            let num_judged = state.datasets.values().filter(|d| !matches!(d.state, DatasetState::Vanished)).count();
            if num_files == 0 && is_quiet && num_judged >= num_certain && state.lease.is_none() {
                return state;
            }
            assert!(
                start.elapsed() < TIMEOUT + Duration::from_millis(500) * u32::try_from(num_certain).unwrap(),
                "{num_files} files in the inbox, {num_judged} of {num_certain} judged, log: {:?}",
                self.log_kinds()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn bursts_by_every_road_with_kills_are_accepted_or_rejected_once_each() {
    // budget: 180 s
    let is_slow = std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1");
    let num_files = std::env::var("HONE_BURST_FILES").ok().and_then(|number| number.parse().ok());
    let num_files = num_files.unwrap_or(if is_slow { 600 } else { 40 });
    let mut ws = Workspace::new(|settings| {
        settings.targets.clear();
        settings.train.save_steps = 1_000;
        (settings.min_rows, settings.max_checks, settings.max_tries) = (64, 4, 10);
        settings.max_queued_jobs = 100_000;
    });
    ws.order("settle_ms", SETTLE_MS);
    ws.order("step_ms", "0");
    let source = Source {
        inbox: Layout::new(ws.path()).inbox(),
        outside: ws.path().join("outside"),
        elsewhere: tempfile::tempdir_in("/dev/shm").ok(),
    };
    std::fs::create_dir(&source.outside).unwrap();
    ws.start();
    let num_kills = (num_files / FILES_PER_KILL).clamp(2, MAX_KILLS);
    let files_per_kill = num_files.div_ceil(num_kills);
    let (mut submitted, mut kills) = (Submitted::default(), 0);
    for first in (0..num_files).step_by(BURST) {
        source.burst(first..(first + BURST).min(num_files), &mut submitted);
        while kills < num_kills && kills * files_per_kill <= first {
            if kills % 2 == 0 {
                ws.kill();
                ws.start();
            } else {
                ws.kill_children();
            }
            kills += 1;
        }
    }
    assert_eq!(kills, num_kills);
    let state = ws.settle(&submitted);
    check_verdicts(&ws, &state, &submitted);
    ws.kill();
    // Opening for writing holds the database against its own check.
    Store::open(ws.path()).unwrap();
}

fn check_verdicts(ws: &Workspace, state: &State, submitted: &Submitted) {
    let mut verdicts: BTreeMap<&str, Vec<&Dataset>> = BTreeMap::new();
    for dataset in state.datasets.values() {
        let kind = match dataset.state {
            DatasetState::Accepted => "accepted",
            DatasetState::Rejected { .. } => "rejected",
            DatasetState::Duplicate { .. } => "duplicate",
            DatasetState::Vanished => continue,
            _ => panic!("no verdict: {dataset:?}"),
        };
        verdicts.entry(kind).or_default().push(dataset);
    }
    let hashes = |kind: &str| -> Vec<&str> {
        let mut hashes: Vec<&str> =
            verdicts.get(kind).into_iter().flatten().map(|d| d.blake3.as_deref().unwrap_or("none")).collect();
        hashes.sort_unstable();
        hashes
    };
    let accepted = hashes("accepted");
    assert!(accepted.windows(2).all(|pair| pair[0] != pair[1]), "accepted twice");
    let lost: Vec<_> = submitted.good.iter().filter(|hash| !accepted.contains(&hash.as_str())).collect();
    assert!(lost.is_empty(), "{} good files are not accepted; rejected: {:?}", lost.len(), verdicts.get("rejected"));
    let is_known = |hash: &&&str| submitted.good.contains(**hash) || submitted.replaced.contains(**hash);
    assert_eq!(accepted.iter().filter(is_known).count(), accepted.len(), "what nobody submitted was accepted");
    assert_eq!(hashes("rejected"), submitted.bad.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(hashes("duplicate").len(), submitted.num_twice);
    check_files(ws, &verdicts);
    let mut trained = ws.rows(state.latest_checkpoint().unwrap().id);
    trained.sort();
    let files = verdicts["accepted"].iter().map(|d| Layout::new(ws.path()).dataset_file(d));
    let mut rows: Vec<String> = files
        .flat_map(|file| std::fs::read_to_string(file).unwrap().lines().map(str::to_string).collect::<Vec<_>>())
        .collect();
    rows.sort();
    assert_eq!(trained, rows, "every accepted row is trained once");
}

/// What lies on disk is what was judged.
fn check_files(ws: &Workspace, verdicts: &BTreeMap<&str, Vec<&Dataset>>) {
    let layout = Layout::new(ws.path());
    for dataset in &verdicts["accepted"] {
        let (_, hash) = hone_disk::hash_file(&layout.dataset_file(dataset)).unwrap();
        assert_eq!(Some(hash), dataset.blake3, "{} changed after its check", dataset.id);
    }
    let mut found: Vec<String> = std::fs::read_dir(layout.rejected())
        .unwrap()
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().ends_with(".report.json"))
        .map(|entry| hone_disk::hash_file(&entry.path()).unwrap().1)
        .collect();
    found.sort();
    let mut expected: Vec<String> =
        verdicts.get("rejected").into_iter().flatten().filter_map(|d| d.blake3.clone()).collect();
    expected.sort();
    assert_eq!(found, expected, "rejected/ holds the rejected files");
}
