//! The files of the door: what is refused, staged, found damaged, pruned.

mod reload;

use super::files::{Files, Record, check_request, is_hash};
use hone_disk::blobs::Part;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::wire::{DeployFile, DeployRequest, WIRE_FORMAT_VERSION};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// BLAKE3 of "abc": the first bytes of the function's published test for this input.
const ABC: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

fn request(files: &[(&str, u64, &str)]) -> DeployRequest {
    DeployRequest {
        format_version: WIRE_FORMAT_VERSION,
        checkpoint: CheckpointId(3),
        manifest_hash: "0".repeat(64),
        model_name: "m".to_string(),
        files: files
            .iter()
            .map(|(path, size, blake3)| DeployFile { path: path.to_string(), size: *size, blake3: blake3.to_string() })
            .collect(),
        chat_template_kwargs: serde_json::Map::new(),
        profile: "plain".to_string(),
    }
}

fn files_with_abc() -> (TempDir, Files) {
    let dir = TempDir::new().unwrap();
    let files = Files::open(dir.path()).unwrap();
    files.blobs().receive_part(ABC, Part { offset: 0, total: 3 }, &mut &b"abc"[..]).unwrap();
    (dir, files)
}

fn code(result: Result<Record, crate::error::ApiError>) -> (u16, &'static str) {
    let error = result.unwrap_err();
    (error.status.as_u16(), error.code.unwrap())
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    assert!(check_request(&request(&[("model.safetensors", 3, ABC)]), "m").is_ok());
    let long = "a".repeat(201);
    for name in ["../x", "/etc/passwd", "a/b", "a\\b", "..", ".", ".hidden", "", "a\0b", "C:x", "ü", long.as_str()] {
        let error = check_request(&request(&[(name, 3, ABC)]), "m").unwrap_err();
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("files[0].path")), "{name:?}");
    }
    let twice = check_request(&request(&[("a", 3, ABC), ("a", 3, ABC)]), "m").unwrap_err();
    assert_eq!(twice.param.as_deref(), Some("files"));
}

#[test]
fn requests_are_held_against_this_server() {
    let param = |request: &DeployRequest| check_request(request, "m").unwrap_err().param;
    let good = request(&[("a", 3, ABC)]);
    assert_eq!(param(&DeployRequest { format_version: 99, ..good.clone() }).as_deref(), Some("format_version"));
    assert_eq!(param(&DeployRequest { model_name: "other".into(), ..good.clone() }).as_deref(), Some("model_name"));
    assert_eq!(param(&DeployRequest { manifest_hash: "XY".into(), ..good.clone() }).as_deref(), Some("manifest_hash"));
    assert_eq!(param(&request(&[])).as_deref(), Some("files"));
    assert_eq!(param(&request(&[("a", 3, "../../etc")])).as_deref(), Some("files[0].blake3"));
    // The manifest that comes along is the one that is stamped.
    assert_eq!(param(&request(&[("manifest.json", 3, ABC)])).as_deref(), Some("manifest_hash"));
    let stamped = DeployRequest { manifest_hash: ABC.to_string(), ..request(&[("manifest.json", 3, ABC)]) };
    assert!(check_request(&stamped, "m").is_ok());
    assert!(!is_hash(&ABC.to_uppercase()) && !is_hash(&ABC[1..]));
}

#[test]
fn staging_makes_a_folder_of_verified_links() {
    let (dir, files) = files_with_abc();
    let record = files.stage(1, &request(&[("config.json", 3, ABC), ("copy.json", 3, ABC)]), 77).unwrap();
    assert_eq!(std::fs::read(dir.path().join("deployments/1/model/config.json")).unwrap(), b"abc");
    assert_eq!(std::fs::read(dir.path().join("deployments/1/model/copy.json")).unwrap(), b"abc");
    // A new process reads the same.
    let again = Files::open(dir.path()).unwrap().records().unwrap();
    assert_eq!(again, BTreeMap::from([(1, record.clone())]));
    assert_eq!(record.created_ms, 77);
    files.verify(&record).unwrap();
}

#[test]
fn missing_and_wrong_blobs_are_named_and_leave_nothing() {
    let (dir, files) = files_with_abc();
    let absent = "f".repeat(64);
    assert_eq!(code(files.stage(1, &request(&[("a", 3, ABC), ("b", 1, &absent)]), 0)), (409, "blobs_missing"));
    assert_eq!(code(files.stage(1, &request(&[("a", 4, ABC)]), 0)), (400, "invalid_value"));
    // A blob that rotted on disk is found out and removed, so that the trainer sends it again.
    let blob = dir.path().join("blobs").join(ABC);
    hone_disk::write_atomic(&blob, b"abd").unwrap();
    assert_eq!(code(files.stage(1, &request(&[("a", 3, ABC)]), 0)), (409, "blobs_damaged"));
    assert!(!blob.exists());
    assert_eq!(files.blobs().missing(&[ABC.to_string()]), [ABC]);
    assert_eq!(std::fs::read_dir(dir.path().join("deployments")).unwrap().count(), 0);
}

#[test]
fn leftovers_of_a_crash_are_cleared() {
    let (dir, _) = files_with_abc();
    let left = dir.path().join("deployments/.staging-4/model");
    hone_disk::create_dir(&left).unwrap();
    let files = Files::open(dir.path()).unwrap();
    assert!(!left.exists());
    assert!(files.records().unwrap().is_empty());
    assert_eq!(files.served().unwrap().serving, None);
}

#[test]
fn a_damaged_served_file_is_an_error_not_a_guess() {
    let (dir, files) = files_with_abc();
    hone_disk::write_atomic(&dir.path().join("served.json"), b"{").unwrap();
    assert!(files.served().is_err());
}

#[test]
fn unused_blobs_go_after_their_grace() {
    let (dir, files) = files_with_abc();
    let other = hone_disk::hash_file(&{
        let path = dir.path().join("x");
        hone_disk::write_atomic(&path, b"unused").unwrap();
        path
    })
    .unwrap()
    .1;
    files.blobs().receive_part(&other, Part { offset: 0, total: 6 }, &mut &b"unused"[..]).unwrap();
    // What a broken rsync left, even of a blob that is there by now.
    let partial = dir.path().join("rsync-partial");
    hone_disk::create_dir(&partial).unwrap();
    hone_disk::write_atomic(&partial.join(ABC), b"ab").unwrap();
    let record = files.stage(1, &request(&[("a", 3, ABC)]), 0).unwrap();
    let records = BTreeMap::from([(1, record)]);
    let now = crate::clock::now_ms();
    assert_eq!(files.prune_blobs(&records, now, 3_600_000).unwrap(), 0);
    assert_eq!(files.prune_blobs(&records, now + 3_700_000, 3_600_000).unwrap(), 2);
    assert_eq!(std::fs::read_dir(&partial).unwrap().count(), 0);
    assert!(files.blobs().contains(ABC) && !files.blobs().contains(&other));
}

#[test]
fn a_failed_deployment_keeps_its_reason_and_not_its_files() {
    let (dir, files) = files_with_abc();
    let mut record = files.stage(1, &request(&[("a", 3, ABC)]), 0).unwrap();
    record.error = "no good".to_string();
    files.mark_failed(&record).unwrap();
    assert!(!dir.path().join("deployments/1/model").exists());
    assert_eq!(files.records().unwrap()[&1].error, "no good");
}
