//! A stand-in for the service manager's socket sees what is sent, in order.

use super::Notifier;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

#[test]
fn the_manager_hears_every_word_and_its_absence_is_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let notifier = Notifier::new(path.to_str()).unwrap();
    notifier.extend_start(Duration::from_secs(2));
    notifier.ready();
    notifier.alive();
    notifier.stopping();
    let heard: Vec<String> = (0..4)
        .map(|_| {
            let mut buffer = [0; 100];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        })
        .collect();
    assert_eq!(heard, ["EXTEND_TIMEOUT_USEC=2000000", "READY=1", "WATCHDOG=1", "STOPPING=1"]);
    drop(manager);
    notifier.alive();
    Notifier::new(None).unwrap().ready();
    assert!(Notifier::new(dir.path().join("nobody").to_str()).is_err());
}
