//! Lines and signs of life.

use super::*;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lines(buffer: &Buffer) -> Vec<String> {
    String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn every_line_carries_the_token_and_is_out_at_once() {
    let buffer = Buffer::default();
    let reporter = Reporter::start(Box::new(buffer.clone()), LeaseToken(7));
    reporter.report(WorkerMessage::Failed { reason: "no \"rows\"".to_string() });
    assert_eq!(
        lines(&buffer),
        [r#"{"token":7,"type":"alive","phase":"starting"}"#, r#"{"token":7,"type":"failed","reason":"no \"rows\""}"#]
    );
}

#[test]
fn busy_work_shows_signs_of_life_and_stuck_work_does_not() {
    let buffer = Buffer::default();
    let start = Instant::now();
    let mut shared = Shared {
        out: Box::new(buffer.clone()),
        token: LeaseToken(1),
        phase: "loading".to_string(),
        last_line: start,
        last_report: start,
    };
    shared.sign_of_life(start + Duration::from_millis(1499));
    assert!(lines(&buffer).is_empty(), "nothing is due yet");
    shared.sign_of_life(start + Duration::from_millis(1500));
    assert_eq!(lines(&buffer), [r#"{"token":1,"type":"alive","phase":"loading"}"#]);
    shared.sign_of_life(start + STUCK);
    assert_eq!(lines(&buffer).len(), 1, "silent once it is stuck");
}
