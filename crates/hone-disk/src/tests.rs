//! What readers may rely on: old or new, never half; complete or not visible.

use crate::blobs::{BlobDir, Part, Received};
use crate::faults::Fault;
use crate::{FileLock, faults, manifest};
use expect_test::{Expect, expect};
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().to_path_buf();
    (temporary, path)
}

/// Runs `action` once whole and then once per durable operation and kind of fault there. `inspect` looks at the folder
/// after every fault; then `action` runs again without faults, and `finished` must hold.
#[track_caller]
fn fail_everywhere(
    prepare: &dyn Fn(&Path),
    action: &dyn Fn(&Path) -> anyhow::Result<()>,
    inspect: &dyn Fn(&Path),
    finished: &dyn Fn(&Path),
) -> usize {
    let run = |fault: Option<(Fault, usize)>| {
        let (_guard, dir) = folder();
        prepare(&dir);
        fault.map_or_else(faults::stop, |(kind, index)| faults::fail_at(kind, index));
        let result = action(&dir);
        let num_operations = faults::operations().len();
        faults::stop();
        inspect(&dir);
        if fault.is_some() {
            action(&dir).unwrap_or_else(|error| panic!("it goes on after {fault:?}: {error:#}"));
        } else {
            result.expect("it succeeds without a fault");
        }
        finished(&dir);
        num_operations
    };
    let num_operations = run(None);
    for index in 0..num_operations {
        for kind in Fault::ALL {
            run(Some((kind, index)));
        }
    }
    num_operations
}

#[track_caller]
fn check_operations(action: impl FnOnce(&Path), expected: Expect) {
    let (_guard, dir) = folder();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("there"), "there").unwrap();
    faults::stop();
    action(&dir);
    expected.assert_eq(&faults::operations().join(" "));
}

#[test]
fn syncs_bytes_before_the_rename_and_names_after_it() {
    check_operations(
        |dir| crate::write_atomic(&dir.join("a"), b"x").unwrap(),
        expect!["create write sync_file rename sync_dir"],
    );
    check_operations(|dir| crate::rename(&dir.join("there"), &dir.join("b")).unwrap(), expect!["rename sync_dir"]);
    check_operations(
        |dir| crate::rename(&dir.join("there"), &dir.join("sub/b")).unwrap(),
        expect!["rename sync_dir sync_dir"],
    );
    check_operations(|dir| crate::create_dir(&dir.join("x/y")).unwrap(), expect!["mkdir sync_dir mkdir sync_dir"]);
}

#[test]
fn an_atomic_write_shows_old_or_new_at_every_crash() {
    let text = |dir: &Path| fs::read_to_string(dir.join("state.json")).unwrap();
    let num_operations = fail_everywhere(
        &|dir| fs::write(dir.join("state.json"), "old").unwrap(),
        &|dir| crate::write_atomic(&dir.join("state.json"), b"new"),
        &|dir| assert!(["old", "new"].contains(&text(dir).as_str()), "{}", text(dir)),
        &|dir| assert_eq!(text(dir), "new"),
    );
    assert_eq!(num_operations, 5);
}

#[test]
fn a_folder_becomes_visible_complete_at_every_crash() {
    let stage_and_publish = |dir: &Path| -> anyhow::Result<()> {
        let (staging, place) = (dir.join(".staging"), dir.join("checkpoint-1"));
        if place.is_dir() {
            return Ok(());
        }
        crate::remove_tree(&staging)?;
        crate::create_dir(&staging.join("sub"))?;
        crate::write_atomic(&staging.join("weights"), &[7; 5000])?;
        crate::write_atomic(&staging.join("sub/tokens"), b"abc")?;
        let hash = manifest::write(&staging)?;
        manifest::verify(&staging, Some(&hash))?;
        crate::rename(&staging, &place)
    };
    let complete_if_visible = |dir: &Path| {
        if dir.join("checkpoint-1").exists() {
            let manifest = manifest::verify(&dir.join("checkpoint-1"), None).expect("what is visible is complete");
            assert_eq!(manifest.files.len(), 2);
        }
    };
    let num_operations = fail_everywhere(&|_| {}, &stage_and_publish, &complete_if_visible, &|dir| {
        assert!(dir.join("checkpoint-1/sub/tokens").is_file());
    });
    assert!(num_operations > 20, "{num_operations}");
}

#[test]
fn a_removed_folder_is_whole_or_gone_at_every_crash() {
    fail_everywhere(
        &|dir| {
            fs::create_dir(dir.join("data")).unwrap();
            fs::write(dir.join("data/a"), "a").unwrap();
            fs::write(dir.join("data/b"), "b").unwrap();
        },
        &|dir| crate::remove_tree(&dir.join("data")),
        &|dir| {
            let files = ["a", "b"].map(|name| dir.join("data").join(name).exists());
            assert!(files[0] == files[1], "half of the folder is there");
        },
        &|dir| assert!(!dir.join("data").exists()),
    );
}

#[test]
fn a_failed_write_leaves_no_temporary_file() {
    let (_guard, dir) = folder();
    fs::create_dir(dir.join("taken")).unwrap();
    fs::write(dir.join("taken/x"), "").unwrap();
    crate::write_atomic(&dir.join("taken"), b"a folder of that name is in the way").unwrap_err();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn moves_between_file_systems() {
    // The memory file system of this machine, where there is one, is never the one of the temporary folder.
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
    let (_guard, dir) = folder();
    fs::create_dir(elsewhere.path().join("tree")).unwrap();
    fs::write(elsewhere.path().join("tree/a"), "a").unwrap();
    crate::rename(&elsewhere.path().join("tree"), &dir.join("tree")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("tree/a")).unwrap(), "a");
    assert!(!elsewhere.path().join("tree").exists());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary name is left");
}

#[test]
fn a_link_replaces_what_was_there() {
    let (_guard, dir) = folder();
    fs::write(dir.join("from"), "new").unwrap();
    fs::write(dir.join("to"), "old").unwrap();
    crate::link_or_copy(&dir.join("from"), &dir.join("to")).unwrap();
    crate::link_or_copy(&dir.join("from"), &dir.join("to")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("to")).unwrap(), "new");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "no temporary name is left");
}

#[test]
fn the_link_of_a_symbolic_link_is_the_file_that_it_names() {
    let (_guard, dir) = folder();
    fs::create_dir_all(dir.join("blobs")).unwrap();
    fs::create_dir_all(dir.join("snapshot")).unwrap();
    fs::create_dir_all(dir.join("far/away")).unwrap();
    fs::write(dir.join("blobs/x"), "weights").unwrap();
    std::os::unix::fs::symlink("../blobs/x", dir.join("snapshot/model")).unwrap();
    let to = dir.join("far/away/blob");
    crate::link_or_copy(&dir.join("snapshot/model"), &to).unwrap();
    assert!(to.symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(&to).unwrap(), "weights");
}

#[test]
fn removing_what_is_absent_is_fine() {
    let (_guard, dir) = folder();
    crate::remove_file(&dir.join("none")).unwrap();
    crate::remove_tree(&dir.join("none")).unwrap();
}

#[test]
fn appends_whole_lines() {
    let (_guard, dir) = folder();
    crate::append_line(&dir.join("log"), "one").unwrap();
    crate::append_line(&dir.join("log"), "two").unwrap();
    assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "one\ntwo\n");
}

#[test]
fn hashes_as_the_blake3_tool_does() {
    let (_guard, dir) = folder();
    fs::write(dir.join("empty"), "").unwrap();
    // The first test vector of the BLAKE3 team (input length 0).
    let hash = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(crate::hash_file(&dir.join("empty")).unwrap(), (0, hash.to_string()));
}

#[track_caller]
fn check_damage(damage: impl FnOnce(&Path), expected: Expect) {
    let (_guard, dir) = folder();
    let dir = dir.join("checkpoint-1");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("a"), "aaaa").unwrap();
    fs::write(dir.join("sub/b"), "bb").unwrap();
    let hash = manifest::write(&dir).unwrap();
    damage(&dir);
    let verdict = match manifest::verify(&dir, Some(&hash)) {
        Ok(manifest) => format!("ok: {}", manifest.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>().join(" ")),
        Err(error) => {
            let hashes = |text: String| {
                text.replace(&hash, "THE-TOLD-HASH")
                    .replace(&*manifest::read(&dir).map_or("none".to_string(), |read| read.1), "ITS-HASH")
            };
            hashes(format!("{error:#}").replace(&dir.to_string_lossy().into_owned(), "DIR"))
        }
    };
    expected.assert_eq(&verdict);
}

#[test]
fn a_manifest_tells_every_damage() {
    check_damage(|_| {}, expect!["ok: a sub/b"]);
    check_damage(|dir| fs::write(dir.join("a"), "aaab").unwrap(), expect!["DIR/a differs from its manifest"]);
    check_damage(|dir| fs::write(dir.join("a"), "aaa").unwrap(), expect!["DIR/a has 3 bytes, its manifest says 4"]);
    check_damage(
        |dir| fs::remove_file(dir.join("sub/b")).unwrap(),
        expect!["read DIR/sub/b: No such file or directory (os error 2)"],
    );
    check_damage(|dir| fs::write(dir.join("extra"), "").unwrap(), expect!["DIR/extra is not in the manifest"]);
    check_damage(
        |dir| fs::remove_file(dir.join("manifest.json")).unwrap(),
        expect!["read DIR/manifest.json: No such file or directory (os error 2)"],
    );
    check_damage(
        |dir| {
            // Honest about its files, but not the manifest that was told.
            fs::write(dir.join("a"), "other").unwrap();
            manifest::write(dir).unwrap();
        },
        expect!["DIR/manifest.json has hash ITS-HASH, expected THE-TOLD-HASH"],
    );
    check_damage(
        |dir| {
            let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
            fs::write(dir.join("manifest.json"), text.replace("sub/b", "../b")).unwrap();
        },
        expect![[r#"DIR/manifest.json names "../b", outside its folder"#]],
    );
    check_damage(
        |dir| {
            let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
            fs::write(dir.join("manifest.json"), text.replace("\"format_version\": 1", "\"format_version\": 2"))
                .unwrap();
        },
        expect!["DIR/manifest.json has format 2, this hone reads 1"],
    );
}

fn store(blobs: &BlobDir, hash: &str, bytes: &[u8]) -> anyhow::Result<Received> {
    blobs.receive_part(hash, Part { offset: 0, total: bytes.len() as u64 }, &mut &*bytes)
}

/// Gives some bytes and then breaks.
struct Torn<'a>(&'a [u8]);

impl std::io::Read for Torn<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read(buffer)
    }
}

#[test]
fn an_upload_goes_on_where_it_broke_off() {
    let (_guard, dir) = folder();
    let blobs = BlobDir::open(&dir.join("blobs")).unwrap();
    let hash = blake3::hash(b"hello world").to_hex().to_string();
    let part = |offset| Part { offset, total: 11 };
    assert_eq!(blobs.arrived(&hash), 0);
    blobs.receive_part(&hash, part(0), &mut Torn(b"hell")).unwrap_err();
    assert_eq!(blobs.arrived(&hash), 4);
    assert_eq!(blobs.missing(std::slice::from_ref(&hash)), std::slice::from_ref(&hash), "a part is no blob");
    assert_eq!(blobs.receive_part(&hash, part(7), &mut &b"orld"[..]).unwrap(), Received::Gap(4));
    assert_eq!(blobs.receive_part(&hash, part(4), &mut &b"o w"[..]).unwrap(), Received::Partly(7));
    // What overlaps takes the place of what was there.
    assert_eq!(blobs.receive_part(&hash, part(6), &mut &b"world"[..]).unwrap(), Received::Whole);
    assert_eq!(fs::read(dir.join("blobs").join(&hash)).unwrap(), b"hello world");
    assert_eq!(fs::read_dir(dir.join("blobs")).unwrap().count(), 1, "no part is left");
    assert_eq!(blobs.receive_part(&hash, part(0), &mut &b"junk"[..]).unwrap(), Received::Whole, "it is there");
}

#[test]
fn whole_but_wrong_bytes_are_no_start_for_another_try() {
    let (_guard, dir) = folder();
    let blobs = BlobDir::open(&dir.join("blobs")).unwrap();
    let hash = blake3::hash(b"hello").to_hex().to_string();
    blobs.receive_part(&hash, Part { offset: 0, total: 5 }, &mut &b"jello"[..]).unwrap_err();
    assert_eq!(blobs.arrived(&hash), 0);
    // More than was announced is as wrong.
    blobs.receive_part(&hash, Part { offset: 0, total: 4 }, &mut &b"hello"[..]).unwrap_err();
    assert_eq!(blobs.arrived(&hash), 0);
}

#[test]
fn a_blob_is_what_its_name_says() {
    let (_guard, dir) = folder();
    let blobs = BlobDir::open(&dir.join("blobs")).unwrap();
    let hash = blake3::hash(b"hello").to_hex().to_string();
    let other = blake3::hash(b"other").to_hex().to_string();
    assert_eq!(blobs.missing(&[hash.clone(), other.clone(), hash.clone()]), [hash.clone(), other.clone()]);

    store(&blobs, &other, b"hello").unwrap_err();
    assert_eq!(fs::read_dir(dir.join("blobs")).unwrap().count(), 0, "a wrong blob leaves nothing behind");
    store(&blobs, &hash, b"hello").unwrap();
    assert!(blobs.contains(&hash));

    fs::write(dir.join("file"), "hello").unwrap();
    blobs.put_file(&other, &dir.join("file")).unwrap_err();
    blobs.put_file(&hash, &dir.join("file")).unwrap();
    blobs.link_to(&hash, &dir.join("linked")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("linked")).unwrap(), "hello");
    assert_eq!(blobs.missing(&[hash.clone(), other.clone()]), [other]);
}

#[test]
fn a_blob_name_cannot_leave_the_folder() {
    let (_guard, dir) = folder();
    let blobs = BlobDir::open(&dir.join("blobs")).unwrap();
    for name in ["../file", "", "AF1349", &"A".repeat(64), &format!("../{}", "a".repeat(61))] {
        store(&blobs, name, b"x").unwrap_err();
        assert!(!blobs.contains(name));
    }
}

#[test]
fn a_lock_is_held_until_it_is_dropped_whatever_the_file_says() {
    let (_guard, dir) = folder();
    let path = dir.join("owner.lock");
    fs::write(&path, "pid 1 on host of long ago, and much longer than what will be written now").unwrap();
    let lock = FileLock::try_exclusive(&path).unwrap().expect("a stale file does not block");
    assert!(FileLock::try_exclusive(&path).unwrap().is_none());
    let holder = FileLock::holder(&path).unwrap();
    assert!(holder.starts_with(&format!("pid {} on host ", std::process::id())), "{holder}");
    assert!(!holder.contains("long ago"), "{holder}");
    drop(lock);
    assert!(FileLock::try_exclusive(&path).unwrap().is_some());
}

#[test]
fn a_computed_manifest_is_the_one_that_would_be_written() {
    let dir = tempfile::tempdir().unwrap();
    crate::write_atomic(&dir.path().join("b/two"), b"2").unwrap_or_else(|_| {
        crate::create_dir(&dir.path().join("b")).unwrap();
        crate::write_atomic(&dir.path().join("b/two"), b"2").unwrap();
    });
    crate::write_atomic(&dir.path().join("one"), b"1").unwrap();
    let (computed, hash) = crate::manifest::compute(dir.path()).unwrap();
    let written_hash = crate::manifest::write(dir.path()).unwrap();
    assert_eq!(hash, written_hash);
    assert_eq!(crate::manifest::read(dir.path()).unwrap().0, computed);
}

#[test]
fn a_link_in_a_base_model_counts_as_its_file_but_has_no_place_in_a_checkpoint() {
    let (_guard, dir) = folder();
    fs::write(dir.join("blob"), "abc").unwrap();
    for name in ["plain", "linked"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("plain/model"), "abc").unwrap();
    std::os::unix::fs::symlink(dir.join("blob"), dir.join("linked/model")).unwrap();
    assert_eq!(manifest::compute(&dir.join("plain")).unwrap(), manifest::compute(&dir.join("linked")).unwrap());
    manifest::write(&dir.join("linked")).unwrap_err();
}
