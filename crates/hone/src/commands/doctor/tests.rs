//! Each check says what is wrong and what to do; what cannot be looked at is unknown.

use super::*;

#[track_caller]
fn check(finding: &Finding, health: Health, words: &str) {
    assert_eq!(finding.health, health, "{finding:?}");
    assert!(finding.message.contains(words), "{finding:?}");
    let needs_hint = matches!(health, Health::Bad | Health::Warning);
    assert_eq!(!finding.hint.is_empty(), needs_hint, "what is wrong comes with what to do: {finding:?}");
}

#[test]
fn room_on_the_disk() {
    check(
        &disk(Some(1_000_000_000), 2_000_000_000),
        Health::Bad,
        "1.0 GB are free, limits.min_free_gb asks for 2.0 GB",
    );
    check(&disk(Some(5_000_000_000), 2_000_000_000), Health::Warning, "not far from the limit");
    check(&disk(Some(50_000_000_000), 2_000_000_000), Health::Ok, "50.0 GB");
    check(&disk(None, 1), Health::Unknown, "cannot be read");
}

#[test]
fn memory_that_is_available() {
    let meminfo = "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    1000000 kB\n";
    check(&memory(Some(meminfo)), Health::Warning, "1.0 GB of 8.2 GB");
    check(&memory(Some(&meminfo.replace("1000000", "4000000"))), Health::Ok, "4.1 GB");
    check(&memory(None), Health::Unknown, "does not tell");
}

#[test]
fn an_absent_gpu_is_unknown_not_a_defect() {
    let nothing = || Vec::new();
    check(&gpu(Path::new("/nowhere/a"), Path::new("/nowhere/b"), &nothing), Health::Unknown, "no GPU driver");
}

#[test]
fn a_gpu_that_cannot_be_used_is_named_with_what_to_install() {
    let lacking =
        || vec!["NVRTC (libnvrtc.so): install it".to_string(), "cuBLASLt (libcublasLt.so): install it".to_string()];
    let finding = gpu(Path::new("/"), Path::new("/nowhere"), &lacking);
    check(&finding, Health::Bad, "`cuda` cannot be used");
    assert!(finding.hint.contains("NVRTC") && finding.hint.contains("cuBLASLt"), "{}", finding.hint);
}

#[test]
fn nothing_listens_beyond_loopback_without_a_key() {
    let (open, closed) = ("0.0.0.0:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
    let known = |serve, monitor| KnownKeys { serve: Ok(serve), monitor };
    check(&keys(open, closed, &known(false, true)), Health::Bad, "serve.listen 0.0.0.0:1 would");
    check(&keys(open, closed, &known(true, false)), Health::Ok, "with a key");
    check(&keys(open, open, &known(true, false)), Health::Bad, "monitor.listen 0.0.0.0:1 would");
    check(&keys(open, open, &known(true, true)), Health::Ok, "serve.listen 0.0.0.0:1, monitor.listen 0.0.0.0:1 beyond");
    check(&keys(closed, closed, &known(false, false)), Health::Ok, "loopback only");
    let broken = KnownKeys { serve: Err("read keys.json".to_string()), monitor: false };
    check(&keys(closed, closed, &broken), Health::Bad, "read keys.json");
}

#[test]
fn keys_that_hone_made_count() {
    let root = tempfile::tempdir().unwrap();
    let ws = Workspace { root: root.path().to_path_buf(), set: Vec::new(), json: false, supervised: false };
    if ["HONE_READ_KEY", "HONE_ADMIN_KEY"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    assert_eq!(known_keys(&ws).serve, Ok(false));
    hone_serve::make_key(&keys_file(&ws), "a", hone_serve::KeyLevel::Read).unwrap();
    assert_eq!(known_keys(&ws).serve, Ok(true));
    hone_disk::write_atomic(&keys_file(&ws), b"{").unwrap();
    assert!(known_keys(&ws).serve.is_err());
}

#[test]
fn a_port_that_another_program_has() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    check(&port("serve", address, false), Health::Bad, "in use by another program");
    check(&port("serve", address, true), Health::Ok, "probably by the serve");
    check(&port("serve", "127.0.0.1:0".parse().unwrap(), false), Health::Ok, "can listen");
}

#[test]
fn a_clock_that_went_back_or_was_never_set() {
    let now = 1_800_000_000_000;
    check(&clock(1_000, None), Health::Bad, "never set");
    check(&clock(now, Some(now + 3_600_000)), Health::Warning, "3600 s in the future");
    check(&clock(now, Some(now - 1)), Health::Ok, "agrees");
}

#[test]
fn an_inbox_on_a_network_file_system() {
    check(&file_system("inbox", Some(0x6969)), Health::Warning, "NFS");
    check(&file_system("inbox", Some(0xEF53)), Health::Ok, "local disk");
    check(&file_system("inbox", None), Health::Unknown, "cannot be told");
}
