//! The file of keys, and what is in force after it changed.

use super::*;
use tempfile::TempDir;

fn opens(set: &KeySet, key: &str) -> &'static str {
    // The file is looked at in intervals; a test does not wait for one.
    set.lock().looked = Instant::now().checked_sub(LOOK_INTERVAL * 2).unwrap();
    let opens = set.opens(key.as_bytes());
    match (bool::from(opens.admin), bool::from(opens.read)) {
        (true, _) => "admin",
        (false, true) => "read",
        (false, false) => "nothing",
    }
}

#[test]
fn keys_are_made_listed_rotated_and_removed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    assert!(list_keys(&path).unwrap().is_empty());
    let alice = make_key(&path, "alice", KeyLevel::Read).unwrap();
    let boss = make_key(&path, "boss", KeyLevel::Admin).unwrap();
    assert!(alice.starts_with("hone_") && alice.len() == 5 + 64 && alice != boss);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&alice) && !text.contains(&alice[5..]), "a key is stored by its hash only");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(make_key(&path, "alice", KeyLevel::Read).unwrap_err().to_string().contains("keys rotate alice"));
    assert!(rotate_key(&path, "bob").unwrap_err().to_string().contains("alice, boss"));

    let set = KeySet::new(&Keys::default(), Some(path.clone())).unwrap();
    assert_eq!((opens(&set, &alice), opens(&set, &boss), opens(&set, "hone_x")), ("read", "admin", "nothing"));
    let rotated = rotate_key(&path, "alice").unwrap();
    assert_eq!((opens(&set, &alice), opens(&set, &rotated)), ("nothing", "read"));
    remove_key(&path, "boss").unwrap();
    assert_eq!((opens(&set, &boss), opens(&set, &rotated)), ("nothing", "read"));
    // Without any key left nothing is open, and neither without the file.
    remove_key(&path, "alice").unwrap();
    assert!(opens(&set, &rotated) == "nothing" && !set.is_open());
    hone_disk::remove_file(&path).unwrap();
    assert!(opens(&set, &rotated) == "nothing" && !set.is_open());
}

#[test]
fn a_first_key_closes_an_open_server() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    let set = KeySet::new(&Keys::default(), Some(path.clone())).unwrap();
    assert!(set.is_open());
    let key = make_key(&path, "first", KeyLevel::Admin).unwrap();
    assert_eq!((opens(&set, &key), opens(&set, "other")), ("admin", "nothing"));
    assert!(!set.is_open());
}

#[test]
fn a_damaged_file_changes_nothing_and_stops_a_start() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    let key = make_key(&path, "alice", KeyLevel::Read).unwrap();
    let set = KeySet::new(&Keys::default(), Some(path.clone())).unwrap();
    hone_disk::write_private_json(&path, &serde_json::json!({"format_version": 1, "keys": 3})).unwrap();
    assert_eq!(opens(&set, &key), "read");
    assert!(KeySet::new(&Keys::default(), Some(path.clone())).is_err());
    hone_disk::write_json(&path, &serde_json::json!({"format_version": 1, "keys": []})).unwrap();
    let error = KeySet::new(&Keys::default(), Some(path)).unwrap_err().to_string();
    assert!(error.contains("may be read by others") && error.contains("chmod 600"), "{error}");
}

#[test]
fn a_file_that_could_not_be_read_is_tried_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    let alice = make_key(&path, "alice", KeyLevel::Read).unwrap();
    let set = KeySet::new(&Keys::default(), Some(path.clone())).unwrap();
    let bob = make_key(&path, "bob", KeyLevel::Read).unwrap();
    let set_mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    assert_eq!((opens(&set, &alice), opens(&set, &bob)), ("read", "nothing"));
    set_mode(0o600);
    assert_eq!((opens(&set, &alice), opens(&set, &bob)), ("read", "read"));
}

#[test]
fn given_keys_and_those_of_the_file_hold_together() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    let from_file = make_key(&path, "alice", KeyLevel::Read).unwrap();
    let given = Keys { read: vec![], admin: vec!["boss\n".to_string()] };
    let set = KeySet::new(&given, Some(path)).unwrap();
    assert_eq!((opens(&set, "boss"), opens(&set, &from_file), opens(&set, "")), ("admin", "read", "nothing"));
}
