//! Tests of `inbox`.

use super::watch::{News, Sign};
use super::*;
use hone_pipeline::state::Priority;
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SETTLE: Duration = Duration::from_secs(2);
const TORN: Duration = Duration::from_secs(60);

struct Inbox {
    root: tempfile::TempDir,
    scanner: Scanner,
    start: Instant,
    /// Told before, and not taken yet.
    on_the_way: HashSet<String>,
}

impl Inbox {
    fn new() -> Inbox {
        let root = tempfile::tempdir().unwrap();
        let inbox = root.path().join("inbox");
        fs::create_dir_all(inbox.join("high/deeper")).unwrap();
        fs::create_dir_all(inbox.join("low")).unwrap();
        fs::create_dir_all(inbox.join("team")).unwrap();
        let scanner = Scanner::new(&inbox, SETTLE, TORN);
        Inbox { scanner, root, start: Instant::now(), on_the_way: HashSet::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("inbox").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The names that are ready `after_ms` after the start.
    fn ready(&mut self, after_ms: u64) -> Vec<String> {
        let scan = self.scanner.scan(self.start + Duration::from_millis(after_ms), &self.on_the_way).unwrap();
        scan.ready.into_iter().map(|file| file.inbox_path).collect()
    }
}

#[test]
fn a_file_is_complete_when_it_has_not_changed_for_the_settle_time() {
    let mut inbox = Inbox::new();
    inbox.write("a.jsonl", "{}\n");
    assert_eq!(inbox.ready(0), Vec::<String>::new());
    assert_eq!(inbox.ready(1_999), Vec::<String>::new());
    inbox.write("a.jsonl", "{}\n{}\n");
    assert_eq!(inbox.ready(2_000), Vec::<String>::new(), "it has just changed");
    assert_eq!(inbox.ready(3_999), Vec::<String>::new());
    assert_eq!(inbox.ready(4_000), ["a.jsonl"]);
    assert_eq!(inbox.ready(4_200), ["a.jsonl"], "reported until it is taken");
}

#[test]
fn a_torn_last_line_waits_longer_and_garbage_does_not() {
    let mut inbox = Inbox::new();
    inbox.write("torn.jsonl", "{\"a\":1}\n{\"a\":");
    inbox.write("garbage.jsonl", "abc");
    inbox.write("empty.jsonl", "");
    inbox.write("whole.jsonl", "{\"a\":1}");
    inbox.write("torn.csv", "{\"a\":");
    inbox.ready(0);
    let mut settled = inbox.ready(2_000);
    settled.sort();
    assert_eq!(settled, ["empty.jsonl", "garbage.jsonl", "torn.csv", "whole.jsonl"]);
    assert!(!inbox.ready(59_999).contains(&"torn.jsonl".to_string()));
    assert!(inbox.ready(60_000).contains(&"torn.jsonl".to_string()));
}

#[test]
fn hidden_and_partial_files_sidecars_and_links_are_not_data() {
    let mut inbox = Inbox::new();
    for name in [".a.jsonl", "a.jsonl.tmp", "a.jsonl.part", "a.jsonl.meta.json"] {
        inbox.write(name, "{}\n");
    }
    fs::create_dir(inbox.path(".hidden")).unwrap();
    inbox.write(".hidden/a.jsonl", "{}\n");
    let outside = inbox.root.path().join("outside.jsonl");
    fs::write(&outside, "{}\n").unwrap();
    std::os::unix::fs::symlink(&outside, inbox.path("link.jsonl")).unwrap();
    std::os::unix::fs::symlink(inbox.root.path(), inbox.path("loop")).unwrap();
    inbox.ready(0);
    let scan = inbox.scanner.scan(inbox.start + TORN * 2, &HashSet::new()).unwrap();
    assert_eq!(scan, Scan::default());
}

#[test]
fn files_that_cannot_be_taken_do_not_stand_before_others() {
    let mut inbox = Inbox::new();
    for number in 0..MAX_READY {
        inbox.write(&format!("high/{number:02}.jsonl"), "{}\n");
    }
    inbox.write("later.jsonl", "{}\n");
    inbox.ready(0);
    let first = inbox.ready(2_000);
    assert_eq!((first.len(), first.contains(&"later.jsonl".to_string())), (MAX_READY, false));
    inbox.on_the_way = first.into_iter().collect();
    assert_eq!(inbox.ready(2_100), ["later.jsonl"]);
}

#[test]
fn a_name_that_leaves_no_room_for_what_is_put_around_it_is_left_alone() {
    let mut inbox = Inbox::new();
    let name = |length: usize| "n".repeat(length - ".jsonl".len()) + ".jsonl";
    for length in [200, 201, 255] {
        inbox.write(&name(length), "{}\n");
    }
    inbox.ready(0);
    assert_eq!(inbox.ready(2_000), [name(200)]);
}

#[test]
fn the_folder_gives_the_priority_and_all_folders_are_read() {
    let mut inbox = Inbox::new();
    for name in ["n.jsonl", "low/l.jsonl", "high/h.jsonl", "high/deeper/d.jsonl", "team/t.jsonl"] {
        inbox.write(name, "{}\n");
        let time = fs::File::open(inbox.path(name)).unwrap();
        time.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    inbox.ready(0);
    let ready = inbox.scanner.scan(inbox.start + SETTLE, &HashSet::new()).unwrap().ready;
    let listed: Vec<_> = ready.iter().map(|file| (file.inbox_path.as_str(), file.priority)).collect();
    assert_eq!(
        listed,
        [
            ("high/deeper/d.jsonl", Priority::High),
            ("high/h.jsonl", Priority::High),
            ("n.jsonl", Priority::Normal),
            ("team/t.jsonl", Priority::Normal),
            ("low/l.jsonl", Priority::Low),
        ]
    );
}

#[test]
fn a_sidecar_with_a_slip_is_refused_and_keys_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl.meta.json");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Sidecar::read(&path).map_err(|error| format!("{error:#}"))
    };
    let read_well = read(r#"{"schema_id": "chat_sft_v1", "annotator": "Ada"}"#).unwrap();
    assert_eq!((read_well.schema_id.as_deref(), read_well.other.len()), (Some("chat_sft_v1"), 1));
    let slip = read(r#"{"shema_id": "chat_sft_v1"}"#).unwrap_err();
    assert!(slip.contains("the key `shema_id`; `schema_id` is meant"), "{slip}");
    let broken = read("{schema_id}").unwrap_err();
    assert!(broken.contains(r#"such as {"schema_id": "chat_sft_v1"}"#), "{broken}");
}

#[test]
fn a_placed_file_is_complete_at_once_and_keeps_its_sidecar() {
    let mut inbox = Inbox::new();
    let source = inbox.root.path().join("data.jsonl");
    fs::write(&source, "{\"text\":\"x\"}\n").unwrap();
    fs::write(inbox.root.path().join("data.jsonl.meta.json"), r#"{"schema_id":"beside","owner":"me"}"#).unwrap();
    let sidecar = Sidecar { schema_flag: Some("completion_v1".to_string()), ..Sidecar::default() };
    let placed = place(inbox.root.path(), &source, Priority::High, &sidecar).unwrap();
    assert_eq!(placed, "high/data.jsonl");
    let ready = inbox.scanner.scan(inbox.start, &HashSet::new()).unwrap().ready;
    let expected = ReadyFile {
        inbox_path: "high/data.jsonl".to_string(),
        priority: Priority::High,
        schema_flag: Some("completion_v1".to_string()),
        fingerprint: Fingerprint::of(&inbox.path("high/data.jsonl")).unwrap(),
    };
    assert_eq!(ready, [expected]);
    assert_eq!(fs::read(inbox.path("high/data.jsonl")).unwrap(), fs::read(&source).unwrap());
    let kept = Sidecar::read(&inbox.path("high/data.jsonl.meta.json")).unwrap();
    assert_eq!((kept.schema_id.as_deref(), kept.submitted), (Some("beside"), true));
    assert_eq!(kept.other["owner"], "me");

    let again = place(inbox.root.path(), &source, Priority::High, &Sidecar::default()).unwrap();
    assert_eq!(again, "high/data-2.jsonl", "a taken name gets a number");
    let left: Vec<_> = fs::read_dir(inbox.path("high")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "no hidden copy is left: {left:?}");
}

#[test]
fn what_was_renamed_in_or_closed_whole_does_not_wait_for_the_settle_time() {
    let mut inbox = Inbox::new();
    let texts = [
        ("moved.jsonl", "{\"a\":"),
        ("closed.jsonl", "{\"a\":1}\n"),
        ("torn.jsonl", "{\"a\":1}\n{\"a\":"),
        ("garbage.jsonl", "abc\n"),
        ("table.csv", "a,b\n1,2\n"),
        ("reopened.jsonl", "{\"a\":1}\n"),
    ];
    for (name, text) in texts {
        inbox.write(name, text);
        let sign = if name == "moved.jsonl" { Sign::RenamedIn } else { Sign::Closed };
        inbox.scanner.hear(News::File { inbox_path: name.to_string(), sign });
    }
    let written = News::File { inbox_path: "reopened.jsonl".to_string(), sign: Sign::Written };
    inbox.scanner.hear(written);
    assert_eq!(inbox.ready(0), ["moved.jsonl"], "complete at once, whatever it ends with");
    let mut soon = inbox.ready(200);
    soon.sort();
    assert_eq!(soon, ["closed.jsonl", "moved.jsonl"], "the last line parses; nothing tells it of the others");
    inbox.scanner.hear(News::Lost);
    assert_eq!(inbox.ready(400), Vec::<String>::new(), "lost events prove nothing");
}

#[cfg(target_os = "linux")]
#[test]
fn file_events_tell_renames_and_ends_of_writing_in_every_folder() {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::sync_channel;

    let inbox = Inbox::new();
    let (sender, news) = sync_channel(100);
    let ending = Arc::new(AtomicBool::new(false));
    let thread = watch(&inbox.path(""), sender, Arc::clone(&ending), || true).unwrap().unwrap();
    let heard = || match news.recv_timeout(Duration::from_secs(20)).unwrap() {
        News::File { inbox_path, sign } => (inbox_path, sign),
        News::Lost => panic!("events were lost"),
    };
    let outside = inbox.root.path().join("outside.jsonl");
    fs::write(&outside, "{}\n").unwrap();
    fs::rename(&outside, inbox.path("high/deeper/moved.jsonl")).unwrap();
    assert_eq!(heard(), ("high/deeper/moved.jsonl".to_string(), Sign::RenamedIn));
    let mut file = fs::File::create(inbox.path("slow.jsonl")).unwrap();
    file.write_all(b"{}\n").unwrap();
    drop(file);
    assert_eq!(heard(), ("slow.jsonl".to_string(), Sign::Closed), "nothing is said before its end");
    let mut file = fs::File::options().append(true).open(inbox.path("slow.jsonl")).unwrap();
    file.write_all(b"{}\n").unwrap();
    assert_eq!(heard(), ("slow.jsonl".to_string(), Sign::Written), "its end is taken back");
    drop(file);
    assert_eq!(heard(), ("slow.jsonl".to_string(), Sign::Closed));
    fs::create_dir(inbox.path("new")).unwrap();
    // Until the new folder is watched, only the scan sees what comes.
    let start = Instant::now();
    let mut number = 0;
    let first = loop {
        fs::write(inbox.path(&format!("new/{number}.jsonl")), "{}\n").unwrap();
        number += 1;
        if let Ok(News::File { inbox_path, .. }) = news.recv_timeout(Duration::from_millis(20)) {
            break inbox_path;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the new folder is not watched");
    };
    assert!(first.starts_with("new/"), "{first}");
    ending.store(true, Ordering::SeqCst);
    // What it still had to say has room in the channel.
    thread.join().unwrap();
}

#[test]
fn placing_refuses_names_that_the_inbox_would_never_take() {
    let inbox = Inbox::new();
    for name in [".hidden", "a.tmp", "a.part", "a.meta.json", "../up.jsonl", "a/b.jsonl"] {
        let error = place_bytes(inbox.root.path(), name, b"{}", Priority::Normal, &Sidecar::default()).unwrap_err();
        assert!(error.to_string().contains("leaves files"), "{name}: {error}");
    }
}
