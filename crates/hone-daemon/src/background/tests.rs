//! One at a time, within the limit, and what hangs is named once.

use super::BackgroundWorker;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

#[test]
fn one_piece_of_work_at_a_time_and_its_limit_is_real() {
    let (mut worker, thread) = BackgroundWorker::start().unwrap();
    let (say, heard) = channel();
    let (go_on, wait) = channel::<()>();
    let limit = Duration::from_secs(3600);
    assert!(worker.run("first", limit, move |deadline| {
        let _ = wait.recv();
        say.send(deadline.check().is_ok()).unwrap();
    }));
    assert!(!worker.run("second", limit, |_| {}), "busy");
    let start = Instant::now();
    assert_eq!(worker.newly_hanging(start + limit), None);
    let told = worker.newly_hanging(start + limit * 3).unwrap();
    assert!(told.starts_with("first has not come back for 10"), "{told}");
    assert_eq!(worker.newly_hanging(start + limit * 3), None, "said once");
    go_on.send(()).unwrap();
    assert!(heard.recv().unwrap());
    worker.ended();
    let (say, heard) = channel();
    assert!(worker.run("third", Duration::ZERO, move |deadline| {
        std::thread::sleep(Duration::from_millis(1));
        say.send(deadline.check().is_err()).unwrap();
    }));
    assert!(heard.recv().unwrap(), "the time was over");
    drop(worker);
    thread.join().unwrap();
}
