//! Held by the end-to-end tests of `tests/`; here only what needs no process.

use super::stage;

#[test]
fn the_settings_of_the_demo_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let ports = stage::free_ports().unwrap();
    let chosen = stage::settings(&ports);
    let pairs: Vec<(&str, serde_json::Value)> = chosen.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let text = crate::config::commented_file(&pairs);
    hone_disk::write_atomic(&dir.path().join("config.json"), text.as_bytes()).unwrap();
    let config = crate::config::Config::load(dir.path(), &[]).unwrap();
    let asked: Vec<bool> = config.skills.iter().map(|skill| skill.endpoint().generate).collect();
    assert_eq!(asked, [true, false], "Binary is learned, SYLLO only runs");
    assert_eq!(config.serve.listen, ports.serve);
}
