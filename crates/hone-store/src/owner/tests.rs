//! Only a living owner keeps others out.

use super::*;
use std::fs;

fn workspace() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = Layout::new(dir.path()).owner_lock();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    (dir, path)
}

#[test]
fn what_the_lock_file_says_never_blocks() {
    let me = format!("pid {} on host here\n", std::process::id());
    for text in ["", "pid 1 on host of-another-time", me.as_str(), "\0\u{fffd} no text at all \0"] {
        let (dir, path) = workspace();
        fs::write(&path, text).unwrap();
        let lock = owner_lock(dir.path()).unwrap();
        assert_ne!(FileLock::holder(&path).unwrap(), text.trim());
        drop(lock);
        owner_lock(dir.path()).unwrap();
    }
}

#[test]
fn the_second_owner_is_refused_with_pid_and_host_also_when_the_file_was_removed() {
    let (dir, path) = workspace();
    let mut lock = owner_lock(dir.path()).unwrap();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let owner = format!("the workspace is in use by pid {} on host {host}", std::process::id());
    assert_eq!(owner_lock(dir.path()).unwrap_err().to_string(), owner);
    fs::remove_file(&path).unwrap();
    assert!(matches!(owner_lock(dir.path()), Err(OwnerLockError::Held { .. })), "there are never two owners");
    lock.keep().unwrap();
    assert_eq!(owner_lock(dir.path()).unwrap_err().to_string(), owner);
    // The whole folder of locks may go, too.
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(matches!(owner_lock(dir.path()), Err(OwnerLockError::Held { .. })));
    lock.keep().unwrap();
    drop(lock);
    owner_lock(dir.path()).unwrap();
}
